"""The one place that writes to the terminal, so that log lines and the progress bar do not tear each other apart."""

import logging

from rich.console import Console

from cvae.errors import printable

console = Console()
errors = Console(stderr=True)


class ConsoleHandler(logging.Handler):
    """Prints log lines above a live progress bar. It does not wrap long lines, so a pipe gets them whole."""

    def emit(self, record: logging.LogRecord) -> None:
        out = errors if record.levelno >= logging.ERROR else console
        out.print(printable(self.format(record)), soft_wrap=True, markup=False, highlight=False)
