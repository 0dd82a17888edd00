"""Schedules: the optimizer step -> a number. They depend on the step alone, so a resumed run continues exactly.

If the step is an integer, the number is a float; if the step is a tensor () of an integer, the number is a tensor () on
the same device. The learning rate has torch's schedulers: see conf/scheduler.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cvae.checks import number, positive_int
from cvae.errors import ConfigError

__all__ = ["Cyclical", "Linear"]  # what conf/ and saved configs may name


class Linear:
    """A straight line from `start` at step 0 to `end` at step `steps`, then constant: warm-up (Bowman et al. 2016).

    Examples:
        >>> beta = Linear(start=0, end=1, steps=100)
        >>> beta(0), beta(50), beta(1000)
        (0.0, 0.5, 1.0)

    Raises:
        ConfigError: start or end is not a number of at least 0, or steps is not a positive integer.
    """

    def __init__(self, start: float, end: float, steps: int):
        self.start, self.end = number("start", start), number("end", end)
        self.steps = positive_int("steps", steps)

    def __call__(self, step: int | Tensor) -> float | Tensor:
        return self.start + (self.end - self.start) * at_most_one(step / self.steps)


class Cyclical:
    """From `start` to `end` in the first part of each period, then `end` for the rest of it (Fu et al. 2019, eq. 6-7).

    Args:
        start: a number of at least 0
        end: a number of at least 0
        period: steps of a cycle: T / M for M cycles in a training of T steps
        rise: the part of a period that rises, above 0 and at most 1 (the paper's R, 0.5 there)

    Raises:
        ConfigError: a value is not as above.
    """

    def __init__(self, start: float, end: float, period: int, rise: float = 0.5):
        self.start, self.end = number("start", start), number("end", end)
        self.period = positive_int("period", period)
        self.rise = number("rise", rise)
        if not 0 < rise <= 1:
            raise ConfigError("rise", rise, "a number above 0 and at most 1")

    def __call__(self, step: int | Tensor) -> float | Tensor:
        return self.start + (self.end - self.start) * at_most_one(step % self.period / self.period / self.rise)


def number_or_schedule(key: str, value: Any, group: str = "objective") -> float | Callable:
    """Return `value`. Raises ConfigError unless it is a number of at least 0 or a schedule, as conf/`group` has it."""
    if callable(value):
        return value
    try:
        return number(key, value)
    except ConfigError as error:
        raise ConfigError(key, value, f"{error.allowed}, or a schedule (as in {group}/{key}=linear)") from None


def at(value: float | Callable, step: int | Tensor) -> float | Tensor:
    """The value of a number or of a schedule at this step."""
    return value(step) if callable(value) else value


def at_most_one(part: float | Tensor) -> float | Tensor:
    """min(part, 1), without waiting for the device."""
    return part.clamp(max=1) if isinstance(part, Tensor) else min(part, 1.0)
