"""Lightning callbacks that let the driver pace and time a training."""

import os
import time
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.turns import Turns, finish_device


class Pace(Callback):
    """One epoch a turn. Of several processes the first waits for it, and the others for the first.

    Args:
        steps: optimizer steps of an epoch; None: as ImageData has them
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps, self.turns = steps, None

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if self.turns is None:
            self.turns = Turns(self.steps or trainer.datamodule.minibatches_of_an_epoch())
        self.turns.wait()


class LeaveAfterFirstStep(Callback):
    """Ends the process as soon as it has made a training step."""

    def on_train_batch_end(self, *_: object) -> None:
        finish_device()
        os._exit(0)


class Seconds(Callback):
    """Leaves the seconds of the last epoch's steps in a file."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_epoch_start(self, *_: object) -> None:
        finish_device()
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        finish_device()
        self.file.write_text(str(time.perf_counter() - self.started))
