"""Images made in memory."""

import math
from collections.abc import Sequence

import torch

from cvae import checks
from cvae.checks import positive_int
from cvae.data.images import Images
from cvae.errors import ConfigError

__all__ = ["Synthetic"]  # what conf/ and saved configs may name


class Synthetic:
    """A bright spot on black; its class decides its place. For tests, and for trying things out without data.

    The images are the same at every call, whatever the seed of a run.

    Args:
        root: not read
        image_shape: [C, H, W]
        num_classes: each class has a point on a circle; the centres of its spots are near it (standard deviation: 5 %
            of the image)
        train_size: how many training images
        test_size: how many test images
    """

    def __init__(self, root: str | None, image_shape: Sequence[int], num_classes: int, train_size: int, test_size: int):
        self.shape = checks.image_shape("image_shape", image_shape)
        self.num_classes = positive_int("num_classes", num_classes)
        self.train_size = positive_int("source.train_size", train_size)
        self.test_size = positive_int("source.test_size", test_size)
        most = 2**28 // math.prod(self.shape)  # a GiB as float32
        for key, size in (("train_size", train_size), ("test_size", test_size)):
            if size > most:
                raise ConfigError(f"source.{key}", size, f"at most {most:,}, which have 2^28 pixels")

    def download(self) -> None:
        """There is nothing to fetch."""

    def load(self) -> tuple[Images, Images]:
        """(train, test); the classes take turns."""
        generator = torch.Generator().manual_seed(0)
        return self._make(self.train_size, generator), self._make(self.test_size, generator)

    def _make(self, count: int, generator: torch.Generator) -> Images:
        channels, height, width = self.shape
        y = torch.arange(count) % self.num_classes
        angle = 2 * math.pi * y / self.num_classes
        centre = 0.5 + 0.3 * torch.stack([angle.sin(), angle.cos()], 1)  # (N, 2): down, right
        centre = centre + 0.05 * torch.randn(count, 2, generator=generator)
        down = (torch.arange(height) + 0.5) / height - centre[:, :1]  # (N, H)
        right = (torch.arange(width) + 0.5) / width - centre[:, 1:]  # (N, W)
        spot = torch.exp(-(down[:, :, None] ** 2 + right[:, None] ** 2) / (2 * 0.12**2))  # (N, H, W)
        brightness = 0.7 + 0.3 * torch.rand(count, channels, 1, 1, generator=generator)
        return Images((255 * brightness * spot[:, None]).round().to(torch.uint8), y)
