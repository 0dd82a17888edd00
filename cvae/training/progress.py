"""The progress bar, and one log line per epoch."""

import logging
import math
import shlex
import time
from typing import Any

from pytorch_lightning import Callback
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cvae.data import OWN
from cvae.runs.directory import Run
from cvae.runs.modelled import last_name
from cvae.runs.small_files import read_config
from cvae.runtime.console import console, progress_bar
from cvae.training.engine import Trainer
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
        epochs = range(trainer.max_epochs or 0)
        steps = sum(math.ceil(minibatches / module.accumulation(epoch)) for epoch in epochs)
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
        shown = [name for name in module.recent if name.removeprefix("relaxed_") in SHOWN]  # an autoencoder has one
        shown = shown if console.width >= 100 else shown[:1]  # leave room for the time left
        figures = "  ".join(f"{name} {module.recent[name]:.2f}" for name in shown)
        epochs = trainer.max_epochs or 0
        epoch = f"{min(trainer.current_epoch + 1, epochs)}/{epochs}"
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
    """One line per epoch, as the tutorial prints it, and the seconds of its training, without those of evaluations."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started, self.paused = 0.0, 0.0
        self.evaluated = False  # whether there was an evaluation in this epoch

    def on_train_epoch_start(self, trainer: Trainer, module: VAEModule) -> None:
        self.started, self.evaluated = time.perf_counter(), False

    def on_validation_start(self, trainer: Trainer, module: VAEModule) -> None:
        self.paused, self.evaluated = time.perf_counter(), True

    def on_validation_end(self, trainer: Trainer, module: VAEModule) -> None:
        self.started += time.perf_counter() - self.paused

    def on_train_epoch_end(self, trainer: Trainer, module: VAEModule) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        images = trainer.world_size * (module.epoch.count + module.window.count)
        module.draw_curves({"train/images_per_second": images / self.seconds[-1]})
        for split in ("validation", "test"):
            figures: dict[str, Any] = {name: module.figures.get(f"{split}/{name}") for name in SHOWN}
            if not self.evaluated or figures["distortion"] is None:
                continue
            if figures["elbo"] is None:
                text = "distortion {distortion:.2f}".format(**figures)
            else:
                text = "ELBO {elbo:.2f} (rate {rate:.2f}, distortion {distortion:.2f})".format(**figures)
            log.info("Epoch %d: %s %s, %.1f s", trainer.current_epoch + 1, split, text, self.seconds[-1])

    def state_dict(self) -> dict[str, Any]:
        """The seconds of each epoch, and those of the unfinished one so far."""
        return {"seconds": self.seconds, "of_this_epoch": time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = list(state_dict["seconds"])
        self.started = time.perf_counter() - state_dict["of_this_epoch"]


def say_what_came_of_it(metrics: dict, run: Run, said: list[str]) -> None:
    """Log the last lines of a run: its test figure with remarks, the picture to open, the command to type next."""
    name, figure = ("ELBO", "elbo") if "test/elbo" in metrics else ("distortion", "distortion")
    value = f"{metrics[f'test/{figure}']:.2f} nats per image"
    log.info("Test %s %s. The run is in %s", name, "; ".join([value, *said]), run)
    config = read_config(run.config_file)
    kind = last_name(config.get("prior"))
    prior = kind != "NoPrior"
    if run.gif.exists():
        log.info("Open %s: reconstructions%s, epoch after epoch", run.gif, " and samples" if prior else "")
    after = "Next: python -m cvae sample %s" if prior else "Next, for samples: python -m cvae fit-prior %s prior=gmm"
    # Own images are few, mostly: q(z) is then far from N(0, I), whose samples are blobs, and close to a mixture.
    fitted = " --prior gmm" if kind == "StandardNormal" and last_name(config.get("data")) in OWN else ""
    log.info(f"{after}{fitted}", shlex.quote(str(run)))


def parameters(module: VAEModule) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in module.vae.parameters())
