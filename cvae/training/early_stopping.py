"""An end to a training that gets no better."""

import logging
from typing import Any

from pytorch_lightning import Callback

from cvae.checks import positive_int
from cvae.training.engine import Trainer
from cvae.training.means import MINUS_LOSS, SELECTION
from cvae.training.module import VAEModule
from cvae.training.time_limit import out_of_time

__all__ = ["EarlyStopping"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)

KEY = "callbacks.early_stopping.patience"


class EarlyStopping(Callback):
    """Ends a training after `patience` evaluations in a row without a higher bound, by which best.ckpt is chosen, too.

    That is selection/bound, of an objective without a bound selection/minus_loss. A run that was ended so and is
    resumed ends at once, unless `patience` is larger by then.

    Args:
        patience: None: it ends nothing

    Raises:
        ConfigError: `patience` is no positive integer.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.patience = None if patience is None else positive_int("patience", patience)
        self.best: float | None = None
        self.epoch, self.since = 0, 0  # of the best, counted from 1; evaluations after it
        self.ended = False

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.since >= self.patience

    @property
    def reason(self) -> str:
        """Why it ended the training; empty if it did not."""
        best = f"no evaluation was better than that of epoch {self.epoch}, {self.best:.2f}" if self.ended else ""
        return best and f"{best}, in {self.since} since then ({KEY}={self.patience})"

    def on_train_start(self, trainer: Trainer, module: VAEModule) -> None:
        if self.ended and not self.exhausted:
            module.stopping = False
        self.end(trainer)

    def on_validation_end(self, trainer: Trainer, module: VAEModule) -> None:
        if trainer.sanity_checking:
            return
        score = module.figures.get(MINUS_LOSS, module.figures.get(SELECTION))
        if score is not None and (self.best is None or score > self.best):
            self.best, self.epoch, self.since = score, trainer.current_epoch + 1, 0
        else:
            self.since += 1

    def on_train_epoch_end(self, trainer: Trainer, module: VAEModule) -> None:
        self.end(trainer)  # not within an epoch, whose rest a resumed run would leave out

    def end(self, trainer: Trainer) -> None:
        if self.ended and not self.exhausted:  # it goes on to trainer.min_epochs, and has got better
            trainer.should_stop = False
        self.ended = self.exhausted
        if self.ended and not trainer.should_stop:
            trainer.should_stop = True
            log.info("The training ends early: %s. A larger one would go on", self.reason)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "since": self.since, "ended": self.ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.since, self.ended = state_dict["since"], state_dict["ended"]


def why_early(trainer: Trainer) -> dict[str, str]:
    """Why a training has ended early, for its metrics; empty where it has not."""
    reasons = [part.reason for part in trainer.callbacks if isinstance(part, EarlyStopping) and part.reason]
    if out_of_time(trainer) and (trainer.current_epoch != trainer.max_epochs or not trainer.is_last_batch):
        reasons.append(f"its time was over after step {trainer.global_step:,} (trainer.max_time)")
    return {"stopped_early": reasons[0]} if reasons else {}
