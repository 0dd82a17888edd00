"""trainer.max_time: an end to a training whose time is over, from which it goes on if it is given more."""

import logging
from datetime import timedelta
from math import inf
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Timer

from cvae.training.engine import Trainer

log = logging.getLogger(__name__)


class TimeLimit(Timer):
    """Lightning's, which ends the training where a checkpoint can go on exactly: see `between_minibatches`.

    `over` is whether it has ended the training; it is the same in all processes.
    """

    over = False

    @property
    def state_key(self) -> str:
        """That of Lightning's own, which the checkpoints of 0.1 have."""
        return Timer.__qualname__

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *given: Any, **more: Any) -> None:
        if between_minibatches(trainer, module):
            super().on_train_batch_end(trainer, module, *given, **more)

    def on_train_epoch_end(self, trainer: Trainer, *given: Any) -> None:
        if trainer.is_last_batch:  # else something has cut the epoch
            self._check_time_remaining(trainer)

    def _check_time_remaining(self, trainer: Trainer) -> None:
        if not trainer.fit_loop._can_stop_early:  # min_epochs or min_steps come first
            return
        self.over = trainer.strategy.broadcast((self.time_remaining() or 0) <= 0)
        if self.over:
            log.info("The time is over (trainer.max_time)")
            trainer.should_stop = True


def time_limit(cfg: DictConfig) -> list[TimeLimit]:
    """One for trainer.max_time, none where it is null."""
    given = cfg.trainer.get("max_time")
    return [] if given is None else [TimeLimit(timedelta(seconds=seconds(given)), verbose=False)]


def seconds(time: Any) -> float:
    """What trainer.max_time stands for: days:hours:minutes:seconds, or a mapping as {hours: 8}; null is without end."""
    if time is None:
        return inf
    if isinstance(time, str):
        days, hours, minutes, rest = map(int, time.split(":"))
        return timedelta(days, rest, minutes=minutes, hours=hours).total_seconds()
    return timedelta(**time).total_seconds()


def out_of_time(trainer: Trainer) -> bool:
    """Whether the limit has ended the training."""
    return any(isinstance(part, TimeLimit) and part.over for part in trainer.callbacks)


def between_minibatches(trainer: Trainer, module: LightningModule) -> bool:
    """Whether a checkpoint that is saved now goes on exactly, with the next minibatch of this epoch.

    Not with gradients that are not used yet, and not where an evaluation comes next: Lightning would leave that out.
    """
    every, loop = trainer.val_check_batch, trainer.fit_loop.epoch_loop  # None: evaluations come by the clock
    number = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return bool(module.ends) and not trainer.is_last_batch and (every is None or (number + 1) % every != 0)
