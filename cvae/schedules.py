"""Schedules: the optimizer step -> a number. Functions of the step alone, so that a resumed run goes on as it would have.

The step is an integer, or a tensor () of one; the number is then a float, or a tensor () on the same device. Schedules of the
learning rate are torch's; the constant one, which torch has not without options, is at the end.
"""

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cvae.checks import number, positive_int
from cvae.errors import ConfigError


class Linear:
    """From `start` at step 0 straight to `end` at step `steps`, and `end` from there on: warm-up (Bowman et al. 2016).

    Raises:
        ConfigError: start or end is not a number of at least 0, or steps no positive integer.
    """

    def __init__(self, start: float, end: float, steps: int):
        self.start, self.end = number("start", start), number("end", end)
        self.steps = positive_int("steps", steps)

    def __call__(self, step: int | Tensor) -> float | Tensor:
        return self.start + (self.end - self.start) * at_most_one(step / self.steps)


class Cyclical:
    """Linear from `start` to `end` during the first part of every period, `end` for the rest of it (Fu et al. 2019, eq. 6-7).

    Args:
        start, end: numbers of at least 0
        period: steps of a cycle; for M cycles in a training of T steps it is T / M
        rise: the part of a period that rises, above 0 and at most 1 (the paper's R, 0.5 there)

    Raises:
        ConfigError: a value is none of these.
    """

    def __init__(self, start: float, end: float, period: int, rise: float = 0.5):
        self.start, self.end = number("start", start), number("end", end)
        self.period = positive_int("period", period)
        self.rise = number("rise", rise)
        if not 0 < rise <= 1:
            raise ConfigError("rise", rise, "a number above 0 and at most 1")

    def __call__(self, step: int | Tensor) -> float | Tensor:
        return self.start + (self.end - self.start) * at_most_one(step % self.period / self.period / self.rise)


def number_or_schedule(key: str, value):
    """Return `value`, or raise ConfigError unless it is a number of at least 0 or a schedule."""
    if callable(value):
        return value
    try:
        return number(key, value)
    except ConfigError as error:
        raise ConfigError(key, value, f"{error.allowed}, or a schedule (as in objective/{key}=linear)") from None


def at(value, step: int | Tensor) -> float | Tensor:
    """What a number or a schedule is at this step."""
    return value(step) if callable(value) else value


def at_most_one(part: float | Tensor) -> float | Tensor:
    return part.clamp(max=1) if isinstance(part, Tensor) else min(part, 1.0)  # a tensor's value is never waited for


def constant_learning_rate(optimizer: Optimizer) -> LambdaLR:
    """The learning rate that the optimizer was made with, in every epoch."""
    return LambdaLR(optimizer, lambda epoch: 1.0)
