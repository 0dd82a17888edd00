"""The one place that writes to the terminal, so that log lines and the progress bar do not tear each other apart."""

import errno
import io
import logging
import os
import sys
from contextlib import suppress
from functools import cache
from typing import Any

from rich.console import Console

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
