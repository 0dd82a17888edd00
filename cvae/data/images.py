"""Images as uint8, in memory or on disk, and a dataset that returns whole batches."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cvae.checks import is_int
from cvae.data.mapped import BLOCK, Mapped, as_numpy
from cvae.errors import ConfigError
from cvae.runtime.devices import main_memory

T = TypeVar("T")


class Images(NamedTuple):
    """A set of images, with labels, known factors, names, and the names of the classes.

    x uint8 (N, C, H, W): the levels, in memory or on disk; y int64 (N,): the labels; factors (N, F): the known factors
    of variation, or None; names (N,): what each image is called, texts, or numbers in the user's own array, or None;
    classes: k is called classes[k], or None; factor_names: what the F factors are called, or None.
    """

    x: Tensor | Mapped
    y: Tensor
    factors: Tensor | None = None
    names: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    factor_names: tuple[str, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in memory."""
        return sum(part.nbytes for part in (self.x, self.y, self.factors) if part is not None)

    def kind(self, label: int) -> str:
        """The name of a class."""
        return self.classes[label] if self.classes and label < len(self.classes) else str(label)

    def take(self, indices: Sequence[int] | Tensor | slice) -> "Images":
        """The images at `indices` (a list of integers, an integer tensor or a slice), in that order."""
        names = self.names if self.names is None else self.names[as_numpy(indices)]
        factors = self.factors if self.factors is None else self.factors[indices]
        x = self.x.take(indices) if isinstance(self.x, Mapped) else self.x[indices]
        return Images(x, self.y[indices], factors, names, self.classes, self.factor_names)

    def to(self, device: torch.device | str) -> "Images":
        """These images on a device."""
        return self._replace(
            x=self.x.to(device),
            y=self.y.to(device),
            factors=self.factors if self.factors is None else self.factors.to(device),
        )

    def join(self, other: "Images") -> "Images":
        """These images, then those of `other`. Names are kept where both sets have them.

        Raises ValueError if only one of the two sets has factors.
        """
        if (self.factors is None) != (other.factors is None):
            raise ValueError("cannot join images with factors and images without")
        factors = names = None
        if self.factors is not None and other.factors is not None:
            factors = torch.cat([self.factors, other.factors])
        if self.names is not None and other.names is not None:
            names = np.concatenate([self.names, other.names])
        y = torch.cat([self.y, other.y])
        return Images(joined(self.x, other.x), y, factors, names, self.classes, self.factor_names)


def joined(*sets: Tensor | Mapped) -> Tensor | Mapped:
    """Levels, then other levels; on disk, if any of them are."""
    if len(sets) == 1:
        return sets[0]
    tensors = [levels for levels in sets if isinstance(levels, Tensor)]
    if len(tensors) == len(sets):
        return torch.cat(tensors)
    return Mapped.joined(levels if isinstance(levels, Mapped) else Mapped.of(levels) for levels in sets)


def texts(values: Iterable[str]) -> np.ndarray:
    """An array of texts of any length: (N,)."""
    return np.array([*values, ""], dtype=object)[:-1]  # of none it would be an array of numbers


def size_of_test_set(key: str, value: Any) -> int | float:
    """Return `value`, or raise ConfigError unless it is a number or a share of images for testing."""
    if not (is_int(value) and value > 0) and not (isinstance(value, float) and 0 < value < 1):
        raise ConfigError(key, value, "a positive integer (images), or a number between 0 and 1 (a share)")
    return value


def held_out(count: int, test_size: int | float, seed: int, place: str) -> tuple[list[int], list[int]]:
    """The indices (train, test) of `count` images, each in ascending order; the test set is drawn by `seed`.

    Raises ConfigError, which names `place`, if no image is left for training.
    """
    size = test_size if is_int(test_size) else max(1, round(test_size * count))
    if size >= count:
        allowed = f"below the {count} images in {place}, so that some are left for training"
        raise ConfigError("data.test_size", test_size, allowed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[size:]), sorted(order[:size])


def in_turns(y: Tensor, order: Tensor) -> Tensor:
    """The images of an order (N,), such that the classes that occur take turns; y (N,): the labels."""
    of = y[order].unique(return_inverse=True)[1]
    count, by_class = of.bincount(), of.argsort(stable=True)
    turn = torch.empty_like(by_class)  # of each image in its class: the first, the second, …
    turn[by_class] = torch.arange(len(y)) - (count.cumsum(0) - count).repeat_interleave(count)
    return order[turn.argsort(stable=True)]


class ImageDataset(Dataset):
    """Returns a whole batch at once: a DataLoader calls `__getitems__` if a dataset has it."""

    def __init__(self, images: Images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images.x[index], self.images.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return at(self.images.x, indices), self.images.y[indices]


def at(x: Tensor | Mapped, indices: Sequence[int] | Tensor) -> Tensor:
    """The images at `indices`, counted from 0: `index_select` copies images, where `x[indices]` copies each byte."""
    if isinstance(x, Mapped):
        return x[indices]
    return x.index_select(0, torch.as_tensor(indices, dtype=torch.int64, device=x.device))


def as_is(batch: T) -> T:
    """The collate function of a DataLoader whose dataset returns whole batches."""
    return batch


def draw(p: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """1 with probability p, else 0: p float (…) in [0, 1] -> float (…). Without a generator: p's device's global one.

    p = 0 gives 0 and p = 1 gives 1, so binary images do not change. TensorFlow Probability's example of probabilistic
    layers draws `image < uniform` instead: that is `invert` first and then this function.
    """
    return (torch.rand(p.shape, generator=generator, device=p.device) < p).to(p.dtype)


def drawn_once(images: Images, generator: torch.Generator) -> Images:
    """The same images in memory, each pixel 255 with probability level / 255, else 0.

    Draws one image after the other: an image's pixels depend on the generator's seed and the image's index alone.
    """
    require_room(images)
    x = torch.empty(images.x.shape, dtype=torch.uint8, device=images.x.device)
    # 1,000 at a time: as floats, all images at once would need four times the memory.
    for levels, out in zip(images.x.split(BLOCK), x.split(BLOCK), strict=True):
        out.copy_(draw(levels.float() / 255, generator) * 255)
    return images._replace(x=x)


def require_room(images: Images) -> None:
    """Raise ConfigError if images on disk are to be drawn once and do not fit into the memory."""
    if isinstance(images.x, Mapped) and images.x.nbytes > (free := main_memory()):
        sizes = f"{images.x.nbytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        raise ConfigError("data.binarization", "fixed or stochastic", f"static or none: images drawn once take {sizes}")


def binarized(images: Images, how: str, generator: torch.Generator) -> Images:
    """The same images, with pixels 0 or 255: above 127 or not (static), drawn (stochastic, fixed), or as is (none)."""
    if how == "static":
        x = images.x
        return images._replace(x=x.then(black_or_white) if isinstance(x, Mapped) else (x > 127).to(torch.uint8) * 255)
    return images if how == "none" else drawn_once(images, generator)


def black_or_white(x: np.ndarray) -> np.ndarray:
    """255 above 127, else 0."""
    return np.where(x > 127, np.uint8(255), np.uint8(0))


def inverted(images: Images) -> Images:
    """The same images, with 255 - level."""
    x = images.x
    return images._replace(x=x.then(np.invert) if isinstance(x, Mapped) else 255 - x)
