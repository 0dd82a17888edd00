"""The one place that writes to the terminal, so that log lines and the progress bar do not tear each other apart."""

import errno
import io
import logging
import os
import shlex
import sys
import threading
import time
import warnings
from contextlib import suppress
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from cvae.errors import printable

console = Console()
errors = Console(stderr=True)


class Terminal(io.FileIO):
    """A standard stream whose reader may go away: what is written to a closed pipe or terminal is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # a full disk is an error as before
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


@cache
def keep_writing() -> None:
    """From here on no output ends this process: not to a pipe that was closed, nor of letters that a terminal lacks."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed from the start: the next file to be opened would get what is printed
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        if old is not getattr(sys, f"__{name}__"):  # a notebook's, or a test's
            continue
        encoding, lines = (old.encoding, old.line_buffering or old.write_through) if old else ("utf-8", True)
        with suppress(OSError, AttributeError):
            old.flush()
        content = io.BufferedWriter(Terminal(number, "w", closefd=False))
        new = io.TextIOWrapper(content, encoding, "backslashreplace", line_buffering=lines)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


class ConsoleHandler(logging.Handler):
    """Prints log lines above a live progress bar. It does not wrap long lines, so a pipe gets them whole."""

    def __init__(self) -> None:
        super().__init__()
        keep_writing()  # here too: a process of a sweep begins with this handler

    def emit(self, record: logging.LogRecord) -> None:
        out = errors if record.levelno >= logging.ERROR else console
        try:
            out.print(printable(self.format(record)), soft_wrap=True, markup=False, highlight=False)
        except OSError:  # the disk of a file that gets what is printed may be full
            self.handleError(record)


def how_to_resume(folder: object) -> str:
    """The command that resumes the run in a folder, in the form in which this process was started."""
    program = "python train.py" if sys.argv[0].endswith("train.py") else sys.argv[0]
    if not program.endswith((" train.py", "cvae train")):  # Python, or a notebook
        return f'cvae.train("resume={folder}")'
    return f"{program} resume={shlex.quote(str(folder))}"


def progress_bar(*columns: ProgressColumn, **options: Any) -> Progress:
    """rich's progress bar on this console, or in a notebook one that needs no further package."""
    kind = NotebookProgress if console.is_jupyter else Progress
    return kind(*columns, console=console, **options)


class NotebookProgress(Progress):
    """A bar in a notebook's output, as text that is replaced. rich's own needs ipywidgets there."""

    REDRAW = 0.5  # seconds

    def start(self) -> None:
        from IPython.display import display

        self.shown = display({"text/plain": ""}, raw=True, display_id=True)
        self.refresh()

    def stop(self) -> None:
        self.refresh()

    def advance(self, *args: Any, **kwargs: Any) -> None:
        super().advance(*args, **kwargs)
        if time.monotonic() - self.drawn > self.REDRAW:
            self.refresh()

    def refresh(self) -> None:
        if shown := getattr(self, "shown", None):
            text = io.StringIO()
            Console(file=text, width=console.width, force_jupyter=False).print(self.get_renderable())
            shown.update({"text/plain": text.getvalue().rstrip()}, raw=True)
            self.drawn = time.monotonic()


def quiet_libraries() -> None:
    """Keep Lightning's hints on devices, workers and other products out of the terminal, but not its warnings."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.utilities._pytree")  # its own use of torch
    hints = (
        ".*does not have many workers.*",  # none are needed: a batch is one indexing operation
        ".*GPU available but not used.*",
        ".*sync_dist=True.*",  # our figures are reduced over the processes already
        ".*smaller than the logging interval.*",  # the rest of an epoch is logged at its end
        ".*Previous log files in this directory will be deleted.*",  # a run that goes on keeps their rows
    )
    for text in hints:
        warnings.filterwarnings("ignore", text)
    threading.excepthook = error_in_a_thread


def error_in_a_thread(error: Any) -> None:
    """Print it, but not one of TensorBoard's writer: the next call of the writer raises it again."""
    if type(error.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(error)
