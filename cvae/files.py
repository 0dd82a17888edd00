"""Files that are whole or absent."""

import io
import os
from pathlib import Path

import torch
from pytorch_lightning.plugins import TorchCheckpointIO


def save(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a full disk or Ctrl-C leaves no half of it under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints through `save`: its own way leaves half a file under the name when the disk is full."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        save(Path(path), content.getvalue())
