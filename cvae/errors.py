"""Errors that the user can fix. The command line shows their message alone."""

import signal
from typing import Any


def printable(text: str) -> str:
    """Text that is safe for a terminal: escapes replace control characters, except newlines and tabs.

    It may come from somebody else's run: names of files, of weights, values of a config.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text)


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what to do."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(printable(part) if isinstance(part, str) else part for part in arguments))


class ConfigError(UserError, ValueError):
    """A value that does not fit: says which key, which value, and what is allowed instead."""

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        super().__init__(f"{key}={value}: must be {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def inside(self, group: str) -> "ConfigError":
        """The same error with its key named from the root of the config."""
        return ConfigError(f"{group}.{self.key}", self.value, self.allowed)


class DataError(UserError, RuntimeError):
    """Data are missing or damaged; the message says which file and what to do."""


class Stopped(BaseException):
    """A signal ends the run. Like KeyboardInterrupt no Exception: nothing that handles errors may hold it up.

    after_step: whether the training has finished its step and saved before; else everything ends at once
    """

    def __init__(self, signum: int, message: str = "", after_step: bool = False) -> None:
        super().__init__(f"Stopped by {signal.Signals(signum).name}{message}")
        self.signum, self.after_step = signum, after_step


class NotFinite(UserError, RuntimeError):
    """A figure is NaN or infinite: the run cannot recover."""
