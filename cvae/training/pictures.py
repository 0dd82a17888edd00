"""Pictures during training and at its end."""

import logging
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from cvae import pictures
from cvae.checks import positive_int
from cvae.data import ImageData
from cvae.files import save
from cvae.noise import fixed_noise
from cvae.run import Run
from cvae.training.loggers import log_picture
from cvae.training.module import VAEModule
from cvae.vae import VAE

__all__ = ["Pictures"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)


class Pictures(Callback):
    """Reconstructions of fixed test images and samples from fixed noise, before training and after each epoch.

    A model that is conditioned on the class label shows one row per class. At the end: the frames as a GIF and, for two
    latent dimensions, the manifold (one per class for a conditional model) and the scatter of posterior means.

    Args:
        run_dir: the run directory
        num: images per grid; a square number makes a square grid; a conditional model has a row of sqrt(num) images for
            each class
        seed: of the noise, the same at every epoch
        manifold_steps: the manifold has steps x steps images
        max_classes: at most so many classes have a row and a manifold, the first ones
        frame_milliseconds, last_frame_milliseconds: the pace of the GIF

    Raises:
        ConfigError: a number is not a positive integer.
    """

    def __init__(
        self,
        run_dir: str,
        num: int,
        seed: int,
        manifold_steps: int,
        max_classes: int,
        frame_milliseconds: int,
        last_frame_milliseconds: int,
    ) -> None:
        self.run, self.seed = Run(run_dir), seed
        self.num, self.manifold_steps = positive_int("num", num), positive_int("manifold_steps", manifold_steps)
        self.max_classes = positive_int("max_classes", max_classes)
        self.frame_milliseconds = positive_int("frame_milliseconds", frame_milliseconds)
        self.last_frame_milliseconds = positive_int("last_frame_milliseconds", last_frame_milliseconds)
        self.columns = round(num**0.5)

    def on_fit_start(self, trainer: Trainer, module: VAEModule) -> None:
        if not trainer.is_global_zero:
            return
        vae, data = module.vae, trainer.datamodule
        chosen, labels = self._choose(vae, data)
        with fixed_noise(self.seed, torch.device("cpu")):
            self.x, y = data.batch("test", chosen)
        self.y, self.labels = vae.labels(y), labels  # of the test images, of the samples

    def on_train_start(self, trainer: Trainer, module: VAEModule) -> None:
        if trainer.is_global_zero and not trainer.global_step:  # else the run goes on, and has them
            self._picture(trainer, self.run.image("original"), pictures.grid(self.x, self.columns), "original", 0)
            self._epoch(trainer, module, 0)

    def on_train_epoch_end(self, trainer: Trainer, module: VAEModule) -> None:
        self._epoch(trainer, module, trainer.current_epoch + 1)

    def publish(self, trainer: Trainer, module: VAEModule) -> None:
        """The pictures of the whole run, to the epoch that is complete."""
        epoch, frames = trainer.current_epoch, self.run.frames(trainer.current_epoch)
        if not trainer.is_global_zero or not frames:
            return
        images = [pictures.side_by_side(*map(imageio.imread, grids)) for grids in frames]
        content, (height, width, _) = (
            pictures.gif(images, self.frame_milliseconds, self.last_frame_milliseconds),
            images[0].shape,
        )
        save(self.run.gif, content)
        log_picture(trainer.loggers, "training", content, height, width, epoch)
        self._latent(trainer, module.vae.to(trainer.strategy.root_device).eval(), epoch)

    def _choose(self, vae: VAE, data: ImageData) -> tuple[list[int], Tensor | None]:
        """The test images to reconstruct, by their numbers, and the labels of the samples.

        A conditional model has one row per class; other models have no labels.
        """
        if not vae.num_classes:
            return list(range(min(self.num, len(data.test)))), None
        classes = range(min(vae.num_classes, self.max_classes))
        if len(classes) < vae.num_classes:
            log.info("Pictures show the first %d of %d classes", len(classes), vae.num_classes)
        rows = [(data.test.images.y == label).nonzero().flatten() for label in classes]
        # A class with too few images starts again from its first.
        full = [row.repeat(self.columns)[: self.columns] for row in rows if len(row)]
        return torch.cat(full).tolist(), torch.arange(len(classes)).repeat_interleave(self.columns)

    def _epoch(self, trainer: Trainer, module: VAEModule, epoch: int) -> None:
        """Draw both grids; file names and TensorBoard's steps count epochs, 0 is before training."""
        if not trainer.is_global_zero:
            return
        vae, device = module.vae, module.device
        y, labels = (part if part is None else part.to(device) for part in (self.y, self.labels))
        module.eval()
        with fixed_noise(self.seed, device):
            reconstruction = pictures.grid(vae.reconstruct(self.x.to(device), y), self.columns)
            sample = pictures.grid(vae.sample(self.num if labels is None else len(labels), labels), self.columns)
        module.train()
        for name, pixels in (("reconstruction", reconstruction), ("sample", sample)):
            self._picture(trainer, self.run.image(name, epoch), pixels, name, epoch)

    def _latent(self, trainer: Trainer, vae: VAE, epoch: int) -> None:
        data, device = trainer.datamodule, next(vae.parameters()).device
        (latent_dim,) = vae.p_z().event_shape
        if latent_dim != 2:
            log.info("No latent manifold and scatter: they need model.latent_dim=2, here it is %d", latent_dim)
            return
        for label in range(min(vae.num_classes, self.max_classes)) if vae.num_classes else [None]:
            file = self.run.manifold(label)
            self._picture(
                trainer, file, pictures.latent_manifold(vae, self.manifold_steps, device, label), file.stem, epoch
            )
        means, labels = posterior_means(vae, data, device)
        self._picture(trainer, self.run.scatter, pictures.latent_scatter(means, labels), self.run.scatter.stem, epoch)

    def _picture(self, trainer: Trainer, file: Path, pixels: np.ndarray, tag: str, step: int) -> None:
        content = pictures.png(pixels)
        save(file, content)
        log_picture(trainer.loggers, tag, content, *pixels.shape[:2], step)


@torch.no_grad()
def posterior_means(vae: VAE, data: ImageData, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Means of q(z|x) (N, D) of all test images and their labels (N,), in the order of the set."""
    means, labels = [], []
    for start in range(0, len(data.test), data.eval_batch_size):
        x, y = data.batch("test", range(start, min(start + data.eval_batch_size, len(data.test))), device)
        means.append(vae.encode(x, vae.labels(y)).mean.cpu())
        labels.append(y.cpu())
    return torch.cat(means).numpy(), torch.cat(labels).numpy()
