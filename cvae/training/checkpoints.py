"""Checkpoints that are whole or absent."""

import io
from pathlib import Path

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from cvae.files import save


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints through `save`: its own way leaves half a file under the name when the disk is full."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        save(Path(path), content.getvalue())
