"""Checkpoints: last.ckpt after each epoch and best.ckpt, whole or absent."""

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from cvae.checks import one_of
from cvae.files import save
from cvae.run import BEST, LAST, Run
from cvae.training.module import SELECTION

__all__ = ["Checkpoints", "WholeCheckpoints"]  # what conf/ and saved configs may name


class Checkpoints(ModelCheckpoint):
    """last.ckpt after each epoch, and best.ckpt of the epoch with the highest `monitor`.

    Raises:
        ConfigError: `monitor` is nothing that a run measures and that is better when higher.
    """

    def __init__(self, run_dir: str, monitor: str = SELECTION) -> None:
        self.run_dir = run_dir
        super().__init__(
            dirpath=Run(run_dir).checkpoints,
            filename=Path(BEST).stem,
            monitor=one_of("monitor", monitor, (SELECTION, "train_epoch/elbo")),
            mode="max",
            save_on_train_epoch_end=True,  # after the evaluation of the epoch
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """best.ckpt if the epoch is the best, and last.ckpt, which Lightning's save_last would write only with it."""
        super().on_train_epoch_end(trainer, pl_module)
        trainer.save_checkpoint(Run(self.run_dir).checkpoints / LAST)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints through `save`: its own way leaves half a file under the name when the disk is full."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        save(Path(path), content.getvalue())
