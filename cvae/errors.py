"""Errors that the user can mend, and the checks that raise them. The command line shows their message alone."""

import math


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what to do."""


class ConfigError(UserError, ValueError):
    """A value that does not fit: says which key, which value, and what is allowed instead."""

    def __init__(self, key: str, value, allowed: str):
        super().__init__(f"{key}={value}: must be {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def inside(self, group: str) -> "ConfigError":
        """The same error with its key named from the root of the config."""
        return ConfigError(f"{group}.{self.key}", self.value, self.allowed)


class DataError(UserError, RuntimeError):
    """Data are missing or damaged; the message says which file and what to do."""


class NotFinite(UserError, RuntimeError):
    """A figure is NaN or infinite; to go on would be in vain."""


def is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def positive_int(key: str, value) -> int:
    """Return `value`, or raise ConfigError unless it is an integer of at least 1."""
    if not is_int(value) or value < 1:
        raise ConfigError(key, value, "a positive integer")
    return value


def number(key: str, value, least: float = 0) -> float:
    """Return `value`, or raise ConfigError unless it is a finite number of at least `least`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < least:
        raise ConfigError(key, value, "a finite number" + (f" of at least {least:g}" if least > -math.inf else ""))
    return value


def positive_number(key: str, value) -> float:
    """Return `value`, or raise ConfigError unless it is a finite number above 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise ConfigError(key, value, "a finite number above 0")
    return value


def one_of(key: str, value, allowed) -> object:
    """Return `value`, or raise ConfigError unless it is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(key, value, "one of " + ", ".join(map(str, allowed)))
    return value


def seed_number(key: str, value) -> int:
    """Return `value`, or raise ConfigError unless it can be a seed, which for numpy's sake has 32 bits."""
    if not is_int(value) or not 0 <= value < 2**32:
        raise ConfigError(key, value, "an integer from 0 to 4294967295")
    return value
