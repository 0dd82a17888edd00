"""What a run shows while it goes."""

import logging
import math
import time
from typing import Any

from pytorch_lightning import Callback, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cvae.runtime.console import console, progress_bar
from cvae.training.means import SHOWN
from cvae.training.module import VAEModule

__all__ = ["EpochLines", "ProgressBar"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)

REDRAW = 0.5  # seconds


class ProgressBar(Callback):
    """One bar for the whole training with the time left, and the figures of the last `log_every_n_steps` steps."""

    steps_are_enough = True

    def on_train_start(self, trainer: Trainer, module: VAEModule) -> None:
        if not trainer.is_global_zero:
            return
        columns = (
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        self.bar = progress_bar(*columns, auto_refresh=False)
        data = trainer.datamodule
        minibatches = min(data.minibatches_of_an_epoch(), trainer.num_training_batches * data.minibatches)
        steps = sum(math.ceil(minibatches / module.accumulation(epoch)) for epoch in range(trainer.max_epochs))
        steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
        self.task = self.bar.add_task("", total=steps, epoch="", figures="")
        self.bar.start()
        self.drawn = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, module: VAEModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        # Drawing takes milliseconds, and in a thread of its own it would stop those that multiply matrices.
        if trainer.is_global_zero and time.monotonic() - self.drawn > REDRAW:
            self._draw(trainer, module)

    def _draw(self, trainer: Trainer, module: VAEModule) -> None:
        shown = SHOWN if console.width >= 100 else SHOWN[:1]  # leave room for the time left
        figures = "  ".join(
            f"{name} {value:.2f}" for name, value in module.recent.items() if name.removeprefix("relaxed_") in shown
        )
        epoch = f"{min(trainer.current_epoch + 1, trainer.max_epochs)}/{trainer.max_epochs}"
        self.bar.update(self.task, completed=trainer.global_step, epoch=epoch, figures=figures, refresh=True)
        self.drawn = time.monotonic()

    def on_train_end(self, trainer: Trainer, module: VAEModule) -> None:
        if trainer.is_global_zero:
            self._draw(trainer, module)
            self.bar.stop()

    def on_exception(self, trainer: Trainer, module: VAEModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()


class EpochLines(Callback):
    """One line per epoch, as the tutorial prints it, and the seconds of its training, without those of evaluation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, module: VAEModule) -> None:
        self.started, self.trained = time.perf_counter(), None

    def on_validation_start(self, trainer: Trainer, module: VAEModule) -> None:
        self.trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: VAEModule) -> None:
        self.seconds.append((self.trained or time.perf_counter()) - self.started)
        for split in ("validation", "test"):
            figures = {name: module.figures.get(f"{split}/{name}") for name in SHOWN}
            if self.trained and None not in figures.values():
                text = "{elbo:.2f} (rate {rate:.2f}, distortion {distortion:.2f})".format(**figures)
                log.info("Epoch %d: %s ELBO %s, %.1f s", trainer.current_epoch + 1, split, text, self.seconds[-1])

    def state_dict(self) -> dict[str, Any]:
        """The seconds of the epochs, and of the one that is not over."""
        return {"seconds": self.seconds, "of_this_epoch": time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = list(state_dict["seconds"])
        self.started, self.trained = time.perf_counter() - state_dict["of_this_epoch"], None
