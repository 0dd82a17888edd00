"""Checks of single values; they need no torch.

Each returns the value, or raises a ConfigError that says what is allowed.
"""

import math
import sys
from collections.abc import Collection, Sequence
from typing import Any, TypeGuard, TypeVar

from cvae.errors import ConfigError

T = TypeVar("T")


def is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite int or float; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def positive_int(key: str, value: Any) -> int:
    """Return `value`, or raise ConfigError unless it is an integer of at least 1."""
    if not is_int(value) or value < 1:
        raise ConfigError(key, value, "a positive integer")
    return value


def number(key: str, value: Any, least: float = 0) -> float:
    """Return `value`, or raise ConfigError unless it is a finite number of at least `least`."""
    if not is_number(value) or value < least:
        raise ConfigError(key, value, "a finite number" + (f" of at least {least:g}" if least > -math.inf else ""))
    return value


def positive_number(key: str, value: Any) -> float:
    """Return `value`, or raise ConfigError unless it is a finite number above 0."""
    if not is_number(value) or value <= 0:
        raise ConfigError(key, value, "a finite number above 0")
    return value


def one_of(key: str, value: T, allowed: Collection[T], what: str = "") -> T:
    """Return `value`, or raise ConfigError unless it is one of `allowed`, type included. `what` says what these are.

    Examples:
        >>> one_of("kl", "exact", ("monte_carlo", "closed_form"))
        Traceback (most recent call last):
        cvae.errors.ConfigError: kl=exact: must be one of monte_carlo, closed_form
    """
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise ConfigError(key, value, f"{what}one of " + ", ".join(map(str, allowed)))
    return value


def seed_number(key: str, value: Any) -> int:
    """Return `value`, or raise ConfigError unless it can be a seed, which for numpy's sake has 32 bits."""
    if not is_int(value) or not 0 <= value < 2**32:
        raise ConfigError(key, value, "an integer from 0 to 4294967295")
    return value


def image_shape(key: str, value: Any) -> tuple[int, int, int]:
    """Return `value` as (C, H, W), or raise ConfigError unless it is three positive integers."""
    shape = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    if not isinstance(shape, list) or len(shape) != 3 or not all(is_int(size) and size > 0 for size in shape):
        raise ConfigError(key, shape, "three positive integers [channels, height, width]")
    return tuple(shape)
