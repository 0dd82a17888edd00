"""Lightning callbacks that let the driver pace a training."""

import math
import os

from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.turns import Turns, finish_device


class Pace(Callback):
    """One epoch a turn.

    Args:
        steps: optimizer steps of an epoch; None: by the images and the batch size of ImageData
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps, self.turns = steps, None

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.turns is None:
            data = trainer.datamodule
            self.turns = Turns(self.steps or math.ceil(len(data.train) / data.batch_size))
        self.turns.wait()


class LeaveAfterFirstStep(Callback):
    """Ends the process as soon as it has made a training step."""

    def on_train_batch_end(self, *_: object) -> None:
        finish_device()
        os._exit(0)
