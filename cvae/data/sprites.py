"""Images drawn from known factors: a white shape on black, of a size and a rotation, at a place."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from cvae import checks
from cvae.checks import positive_int
from cvae.data.images import Images
from cvae.data.mapped import IN_MEMORY, Mapped, Part
from cvae.data.subset import Subset
from cvae.errors import ConfigError

__all__ = ["Sprites"]  # what conf/ and saved configs may name

SHAPES = ("square", "ellipse", "heart")
NAMES = ("shape", "size", "rotation", "x", "y")  # of the factors, in the order of the grid: y changes fastest


class Sprites:
    """A square, an ellipse or a heart: binary images of all combinations of five factors, each with its label.

    Drawn by rules of our own, with the factors and the counts of dSprites (Matthey et al. 2017) as they come. It is not
    dSprites: the shapes have other sizes, so no figure can be compared with one of dSprites. As there, a square looks
    the same after a quarter turn, and an ellipse after half a turn.

    The shapes are drawn once, each in every size and rotation; an image is one of these templates, shifted by whole
    pixels. So the whole grid of 737,280 images takes megabytes: a batch is drawn by one index when it is asked for.
    Fewer images than IN_MEMORY bytes are drawn at once.

    The label is the shape. The images, and which are for testing, depend on `seed` alone: not on the run's seed, nor
    the test images on train_size.

    Args:
        root: not read
        image_shape: [1, S, S], S at least 16
        shape: how many shapes, from 1 to 3: square, ellipse, heart
        size: how many sizes, evenly from half of the largest, which is about a quarter of the image in each direction
            from its centre, to that
        rotation: how many rotations, evenly around the circle
        x: how many places from left to right, at most S / 2, as they lie on whole pixels
        y: how many places from top to bottom
        train_size: how many training images; None: all that are not for testing
        test_size: how many test images
        seed: draws both from the grid
    """

    def __init__(
        self,
        root: str | None,
        image_shape: Sequence[int],
        shape: int,
        size: int,
        rotation: int,
        x: int,
        y: int,
        train_size: int | None,
        test_size: int,
        seed: int,
    ):
        channels, height, self.side = checks.image_shape("image_shape", image_shape)
        if channels != 1 or height != self.side or height < 16:
            raise ConfigError("image_shape", list(image_shape), "[1, S, S] with S of at least 16")
        self.counts = shape, size, rotation, x, y
        most = {"shape": len(SHAPES), "x": reach(self.side) + 1, "y": reach(self.side) + 1}
        for name, count in zip(NAMES, self.counts, strict=True):
            if positive_int(f"source.{name}", count) > most.get(name, 1000):
                raise ConfigError(f"source.{name}", count, f"at most {most.get(name, 1000)}")
        self.subset = Subset(train_size, test_size, seed)
        self.subset.check(int(np.prod(self.counts)))

    def download(self) -> None:
        """There is nothing to fetch."""

    def classes(self) -> int:
        return self.counts[0]

    def load(self) -> tuple[Images, Images]:
        """(train, test), with factors (N, 5): the number of each one's value, from 0."""
        every = Mapped([Part(Drawn(templates(*self.counts[:3], self.side), *self.counts[3:], self.side))], self.shape)
        train, test = self.subset.drawn(len(every))
        return self._images(every, train), self._images(every, test)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.side, self.side

    def _images(self, every: Mapped, numbers: torch.Tensor) -> Images:
        x = every.take(numbers)
        factors = torch.stack(torch.unravel_index(numbers, self.counts), 1)
        kept = x.read() if x.nbytes <= IN_MEMORY else x
        return Images(kept, factors[:, 0], factors, None, SHAPES[: self.counts[0]], NAMES)


class Drawn:
    """The grid's images, drawn when they are asked for; has what is used of an array (N, 1, S, S).

    Args:
        shapes: (T, W, W), the templates; W = S - reach(S)
        x: how many places from left to right
        y: how many from top to bottom
        side: S
    """

    def __init__(self, shapes: np.ndarray, x: int, y: int, side: int) -> None:
        far = reach(side)
        around = np.pad(shapes, ((0, 0), (far, far), (far, far)))
        # Every S x S window of a template in its black surroundings: the template, shifted. No copy is made.
        self.windows = sliding_window_view(around, (side, side), axis=(1, 2))  # (T, far + 1, far + 1, S, S)
        self.left, self.top = far - places(x, far), far - places(y, far)
        self.counts = len(shapes), x, y

    def __len__(self) -> int:
        return int(np.prod(self.counts))

    def take(self, rows: np.ndarray, axis: int = 0) -> np.ndarray:
        """The images (B, 1, S, S) of these numbers (B,)."""
        template, x, y = np.unravel_index(rows, self.counts)
        return self.windows[template, self.top[y], self.left[x]][:, None]


def reach(side: int) -> int:
    """By how many pixels a template may be shifted in an image of so many pixels a side: to 31 of 64."""
    return side // 2 - 1


def places(count: int, far: int) -> np.ndarray:
    """So many whole numbers from 0 to `far`, as even as can be; one is in the middle."""
    return np.linspace(0, far, count).round().astype(int) if count > 1 else np.array([far // 2])


def templates(shapes: int, sizes: int, rotations: int, side: int) -> np.ndarray:
    """Each shape in each size and rotation, levels 0 or 255: uint8 (shapes * sizes * rotations, W, W)."""
    width = side - reach(side)
    radius = (width - 1) / 2
    right, down = np.meshgrid(*[np.arange(width) - radius] * 2)  # of each pixel's centre, from the template's
    scale = radius * np.linspace(1, 0.5, sizes)[::-1, None, None, None]
    angle = (2 * np.pi * np.arange(rotations) / rotations)[:, None, None]
    u = (np.cos(angle) * right + np.sin(angle) * down) / scale  # (sizes, rotations, W, W), in the shape's own frame
    v = (np.cos(angle) * down - np.sin(angle) * right) / scale
    drawn = np.stack([inside(name, u, v) for name in SHAPES[:shapes]])
    return drawn.reshape(-1, width, width).astype(np.uint8) * 255


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points are in a shape, which lies within the unit circle; u to its right, v down."""
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.7
    if shape == "ellipse":
        return u**2 + (2 * v) ** 2 <= 1
    a, b = 1.35 * u, 0.15 - 1.35 * v  # (a² + b² - 1)³ = a² b³ is a heart
    return (a**2 + b**2 - 1) ** 3 <= a**2 * b**3
