"""A user's own images, whose reconstructions are drawn with the pictures of an epoch."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cvae import pictures
from cvae.data import ImageData
from cvae.data.decode import decode, reading_of
from cvae.data.listing import images_below
from cvae.errors import ConfigError, DataError
from cvae.models.vae import VAE
from cvae.runtime.noise import fixed_noise
from cvae.training.module import VAEModule

log = logging.getLogger(__name__)


class OwnImages:
    """The first `most` images of a user's folder, by name, and the folders in it.

    Raises ConfigError if there is no such folder, or no image in it.
    """

    x: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor | None  # (N,)
    names: list[str]

    def __init__(self, key: str, folder: str, most: int) -> None:
        self.folder = Path(folder).expanduser() if isinstance(folder, str) else Path()
        if not isinstance(folder, str) or not self.folder.is_dir():
            raise ConfigError(key, folder, "a folder with images, or null")
        try:
            self.files = images_below(self.folder)[:most]
        except DataError as error:
            raise ConfigError(key, folder, f"a folder with images, or null. {error}") from error

    def read(self, vae: VAE, data: ImageData) -> None:
        """Decode them, once, as the model sees test images. Those that cannot be read are named and left out.

        A model that is conditioned on the class takes the name of the folder right below as the class.

        Raises ConfigError if none can be read, or the class of one is unknown.
        """
        decoded = decode([self.folder / name for name, _ in self.files], reading_of(data))
        for number, why in decoded.faults.items():
            log.warning("%s is left out of the pictures: %s", self.folder / self.files[number][0], why)
        kept = [number for number in range(len(self.files)) if number not in decoded.faults]
        if not kept:
            self._refuse(f"a folder with images, and none of its {len(self.files)} can be read")
        self.x = data.as_tested(torch.from_numpy(decoded.x[np.array(kept)]))
        self.names = [Path(self.files[number][0]).stem for number in kept]
        classes = [data.test.images.kind(label) for label in range(vae.num_classes)]
        if unknown := [name for name, kind in self.files if classes and kind not in classes]:
            shown = ", ".join(classes[:5]) + ", …" * (len(classes) > 5)
            self._refuse(f"a folder with one for each class ({shown}), as the model is given it; {unknown[0]} has none")
        self.y = torch.tensor([classes.index(self.files[number][1]) for number in kept]) if classes else None

    def drawn(self, module: VAEModule, device: torch.device, seed: int, epoch: int) -> np.ndarray:
        """The images beside their reconstructions, for noise of their own."""
        module.eval()
        with fixed_noise(seed, device), module.as_evaluated():
            y = None if self.y is None else self.y.to(device)
            reconstructed = module.vae.reconstruct(self.x.to(device), y).cpu()
        module.train()
        headings = ("your images", f"reconstructions, epoch {epoch}")
        return pictures.pair((self.x, reconstructed), headings, round(len(self.x) ** 0.5), self.names)

    def _refuse(self, allowed: str) -> None:
        raise ConfigError("callbacks.pictures.own", str(self.folder), allowed)
