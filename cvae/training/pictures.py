"""Pictures during training and at its end."""

import logging
from pathlib import Path

import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from cvae import pictures
from cvae.checks import positive_int
from cvae.data.images import as_is
from cvae.files import save
from cvae.noise import fixed_noise

log = logging.getLogger(__name__)


class Pictures(Callback):
    """Reconstructions of fixed test images and samples from fixed noise, before training and after each epoch.

    A model that is conditioned on the class label shows one row a class. At the end: the frames as a GIF and, for two latent
    dimensions, the manifold (one a class for a conditional model) and the scatter of posterior means.

    Args:
        folder: the run directory
        num: images a grid; a square number makes a square grid; a conditional model has a row of its root for each class
        seed: of the noise, the same at every epoch
        manifold_steps: the manifold has steps x steps images
        frame_milliseconds, last_frame_milliseconds: the pace of the GIF
    """

    def __init__(
        self, folder, num: int, seed: int, manifold_steps: int, frame_milliseconds: int, last_frame_milliseconds: int
    ):
        self.folder, self.seed = Path(folder), seed
        self.num, self.manifold_steps = positive_int("num", num), positive_int("manifold_steps", manifold_steps)
        self.frame_milliseconds = positive_int("frame_milliseconds", frame_milliseconds)
        self.last_frame_milliseconds = positive_int("last_frame_milliseconds", last_frame_milliseconds)
        self.columns = round(num**0.5)
        self.frames = []  # of this run only: nothing is read back from the folder

    def on_fit_start(self, trainer, module) -> None:
        data, classes = trainer.datamodule, module.vae.num_classes
        if classes:
            self.labels = torch.arange(classes).repeat_interleave(self.columns)
            rows = [(data.test.images.y == label).nonzero().flatten() for label in range(classes)]
            full = [
                row.repeat(self.columns)[: self.columns] for row in rows if len(row)
            ]  # again from the first, if too few
            chosen = torch.cat(full).tolist()
        else:
            self.labels, chosen = None, list(range(min(self.num, len(data.test))))
        with fixed_noise(self.seed, torch.device("cpu")):
            self.x, self.y = data.on_after_batch_transfer(data.test.__getitems__(chosen), 0)
        self._picture(trainer, "images/original.png", pictures.grid(self.x, self.columns), "original")

    def on_train_start(self, trainer, module) -> None:
        self._epoch(trainer, module)

    def on_train_epoch_end(self, trainer, module) -> None:
        self._epoch(trainer, module)

    def on_train_end(self, trainer, module) -> None:
        if not trainer.is_global_zero or not self.frames:
            return
        height, width, _ = self.frames[0].shape
        content = pictures.gif(self.frames, self.frame_milliseconds, self.last_frame_milliseconds)
        save(self.folder / "cvae.gif", content)
        self._summary(trainer, "training", content, height, width)
        module.eval()
        self._latent(trainer, module)
        module.train()

    def _epoch(self, trainer, module) -> None:
        """Draw both grids; file names and TensorBoard's steps count epochs, 0 is before training."""
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1 if trainer.global_step else 0
        vae, device = module.vae, module.device
        module.eval()
        with fixed_noise(self.seed, device):
            reconstruction = pictures.grid(vae.reconstruct(self.x.to(device), self.y.to(device)), self.columns)
            if self.labels is None:
                sample = pictures.grid(vae.sample(self.num), self.columns)
            else:
                sample = pictures.grid(vae.sample(len(self.labels), self.labels.to(device)), self.columns)
        module.train()
        for name, pixels in (("reconstruction", reconstruction), ("sample", sample)):
            self._picture(trainer, f"images/{name}_{epoch:04d}.png", pixels, name, epoch)
        self.frames.append(pictures.side_by_side(reconstruction, sample))

    def _latent(self, trainer, module) -> None:
        data, vae, device = trainer.datamodule, module.vae, module.device
        latent_dim = vae.p_z().event_shape[0]
        if latent_dim != 2:
            log.info("No latent manifold and scatter: they need model.latent_dim=2, here it is %d", latent_dim)
            return
        for label in range(vae.num_classes) if vae.num_classes else [None]:
            name = "latent_manifold" if label is None else f"latent_manifold_{label}"
            self._picture(
                trainer, f"{name}.png", pictures.latent_manifold(vae, self.manifold_steps, device, label), name
            )
        means, labels = [], []
        with torch.no_grad():
            for batch in DataLoader(data.test, data.eval_batch_size, collate_fn=as_is):  # all of it, in this process
                x, y = data.on_after_batch_transfer([part.to(device) for part in batch], 0)
                means.append(vae.encode(x, y).mean.cpu())
                labels.append(y.cpu())
        scatter = pictures.latent_scatter(torch.cat(means).numpy(), torch.cat(labels).numpy())
        self._picture(trainer, "latent_scatter.png", scatter, "latent_scatter")

    def _picture(self, trainer, name: str, pixels, tag: str, step: int | None = None) -> None:
        if trainer.is_global_zero:
            content = pictures.png(pixels)
            save(self.folder / name, content)
            self._summary(trainer, tag, content, *pixels.shape[:2], step=step)

    def _summary(self, trainer, tag, content, height, width, step=None) -> None:
        summary = pictures.image_summary(tag, content, height, width)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment._get_file_writer().add_summary(
                    summary, trainer.current_epoch if step is None else step
                )
