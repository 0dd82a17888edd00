"""Errors that the user can fix. The command line shows their message alone."""

from typing import Any


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what to do."""


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


class NotFinite(UserError, RuntimeError):
    """A figure is NaN or infinite: the run cannot recover."""
