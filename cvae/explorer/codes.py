"""What the explorer shows of a model of codes: the codes of a test image, and what is decoded when they change."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvae import pictures
from cvae.data import ImageData
from cvae.explorer.space import called
from cvae.models.vae import VAE
from cvae.runtime.noise import fixed_noise

SIDE = 700  # pixels of the longer side of a map's picture, at most


class CodeSpace:
    """A trained model of codes and its test images.

    maps: (n, H', W'), how many maps of codes an image has, and the places on each; of codes that lie on no map, a row
    num_codes: how many values a code takes
    """

    def __init__(self, vae: VAE, data: ImageData, seed: int) -> None:
        self.vae, self.data, self.seed = vae, data, seed
        self.num_codes: int = vae.posterior.num_codes or 1
        codes = self.codes_of(0)
        places = vae.latent_map or (1, vae.shapes[0][0] // vae.posterior.width)
        self.maps = (codes.numel() // (places[0] * places[1]), *places)

    def labels(self, label: int) -> Tensor | None:
        return self.vae.labels(torch.tensor([label]))

    def original(self, index: int) -> tuple[Tensor, int]:
        """A test image as the model sees it, (C, H, W), and its class."""
        x, y = self.data.batch("test", [index])
        return x[0], int(y[0])

    def called(self, index: int) -> str:
        """A test image, with its name where it has one, and its class."""
        return called(self.data.test.images, index)

    @torch.no_grad()
    def codes_of(self, index: int) -> Tensor:
        """The codes (M,) of a test image; where the posterior is no single value, a draw by seed."""
        x, label = self.original(index)
        with fixed_noise(self.seed, torch.device("cpu")):
            return self.vae.posterior.read(self.vae.encode(x[None], self.labels(label)).sample())[0]

    @torch.no_grad()
    def decode(self, codes: Tensor, label: int) -> Tensor:
        """The mean of p(x|z) for codes (M,): (C, H, W)."""
        posterior: Any = self.vae.posterior
        return self.vae.decode(posterior.write(codes[None]), self.labels(label)).mean[0].clamp(0, 1)

    def number(self, where: tuple[int, int, int]) -> int:
        """The number among all codes of the one at (map, row, column)."""
        return int(np.ravel_multi_index(where, self.maps))

    def pixels(self) -> int:
        """How large a place of a map is drawn."""
        return max(1, SIDE // max(self.maps[1:]))

    def map_png(self, codes: Tensor, number: int) -> bytes:
        """A map of codes as a picture: each place in the colour of its code's number."""
        colours = pictures.code_colours(codes.view(self.maps)[number], self.num_codes)
        coloured = (255 * colours).round().byte().numpy()
        return pictures.png(coloured.repeat(self.pixels(), 0).repeat(self.pixels(), 1))
