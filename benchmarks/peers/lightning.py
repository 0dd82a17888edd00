"""The usual Lightning module: everything as it comes, with the loss in the progress bar."""

import sys
import tempfile

import pytorch_lightning as L
import torch
from torch import Tensor

from benchmarks.callbacks import Pace
from benchmarks.peers.usual import UsualVAE, loader


class Usual(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.vae = UsualVAE()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.vae(batch[0])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-4)


def main(images: str, batch_size: str = "32") -> None:
    batches = loader(images, int(batch_size))
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(max_epochs=100_000, callbacks=[Pace(len(batches))], default_root_dir=folder)
        trainer.fit(Usual(), batches)


if __name__ == "__main__":
    main(*sys.argv[1:])
