"""Learning rates: a schedule of torch's, by epoch or by optimizer step, with a warm-up in front of it."""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cvae.build import make
from cvae.errors import ConfigError, UserError
from cvae.training.engine import Trainer

OURS = ("interval", "warmup_steps")  # keys of the group that are no arguments of torch's class
LENGTHS = ("T_max", "total_steps", "total_iters")  # arguments of torch's classes; null: the length of the training

# What torch raises for values that it does not take.
REFUSALS = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError)


class Rates:
    """The learning rates in an optimizer: schedule(n) * min(1, (step + 1) / warmup_steps) for a step, counted from 0.

    n is the step, or the epochs before it; a critic's rate is this times `share`. They depend on the step alone, so a
    resumed run has those of one that was never stopped. A linear warm-up is from Goyal et al. 2017.

    Args:
        scheduler: counts epochs, or steps if `by_step`; it sees neither the warm-up nor the share, since torch's are
            computed from the rates that are in the optimizer
        warmup_steps: 0 for none
        share: of the rate of the last parameter group
    """

    def __init__(self, scheduler: LRScheduler, by_step: bool, warmup_steps: int, share: float = 1.0) -> None:
        self.scheduler, self.by_step, self.warmup_steps, self.share = scheduler, by_step, warmup_steps, share

    def write(self, step: int) -> None:
        """Put the rates of step `step` into the optimizer."""
        part = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        self.put(part, part * self.share)

    def after_step(self, step: int) -> None:
        """`step` is now the next one."""
        if self.by_step:
            self.advance()
        if self.change(step):
            self.write(step)

    def after_epoch(self, step: int) -> None:
        """An epoch is over, whose last step came before `step`."""
        if not self.by_step:
            self.advance()
            self.write(step)

    def advance(self) -> None:
        self.put(1.0, 1.0)
        self.scheduler.step()

    def put(self, part: float, of_last: float) -> None:
        groups, rates = self.scheduler.optimizer.param_groups, self.scheduler.get_last_lr()
        parts = [*[part] * (len(groups) - 1), of_last]
        for group, rate, own in zip(groups, rates, parts, strict=True):
            group["lr"] = rate * own

    def change(self, step: int) -> bool:
        """Whether they differ from step to step here."""
        return self.by_step or step <= self.warmup_steps


def schedule(cfg: DictConfig) -> tuple[Callable[[Optimizer], Any], dict[str, Any]]:
    """optimizer -> scheduler, as the config has it, and how a VAEModule uses it."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    interval, warmup_steps = (cfg.scheduler.pop(key, default) for key, default in zip(OURS, ("epoch", 0), strict=True))
    return make(cfg, "scheduler"), {"by_step": interval == "step", "warmup_steps": warmup_steps}


def of_length(scheduler: Callable, optimizer: Optimizer, length: Callable[[], int], ends: bool = True) -> Any:
    """A scheduler whose arguments that are null are the length of the training.

    ends: whether the length is the true one, before which it must not end

    Raises:
        UserError: torch refuses a schedule of this length, or it ends before the training.
    """
    keywords = getattr(scheduler, "keywords", {})
    left_open = [key for key in LENGTHS if keywords.get(key, 0) is None]
    given = dict.fromkeys(left_open, length() if left_open else 0)
    try:
        made = scheduler(optimizer, **given)
    except REFUSALS as error:
        kind = getattr(scheduler, "func", scheduler)
        about = "".join(f" with {key}={length()}" for key in left_open)
        raise UserError(
            f"scheduler: {kind.__module__}.{kind.__qualname__} does not take its values{about}: {error}"
        ) from error
    total = getattr(made, "total_steps", None)
    if ends and total is not None and total < length():
        raise ConfigError("scheduler.total_steps", total, f"null, or at least {length()}, the length of this training")
    return made


def steps_of_epochs(trainer: Trainer, accumulation: Callable[[int], int]) -> list[int]:
    """The optimizer steps of each epoch, to max_epochs or max_steps."""
    limit, minibatches = trainer.limit_train_batches, trainer.datamodule.minibatches_of_an_epoch()
    minibatches = min(minibatches, limit) if type(limit) is int else int(minibatches * limit)
    left, epochs = trainer.max_steps, trainer.max_epochs or 0  # -1: no limit
    steps: list[int] = []
    while len(steps) < epochs and left:
        whole = math.ceil(minibatches / accumulation(len(steps)))
        steps.append(whole if left < 0 else min(whole, left))
        left -= steps[-1] if left > 0 else 0
    return steps


def length(trainer: Trainer, accumulation: Callable[[int], int], by_step: bool) -> int:
    """Of a training, in optimizer steps or in epochs."""
    steps = steps_of_epochs(trainer, accumulation)
    return sum(steps) if by_step else len(steps)
