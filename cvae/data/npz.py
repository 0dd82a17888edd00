"""A user's own images in NumPy files."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvae.checks import one_of, seed_number
from cvae.data.arrays import Header, array, headers, on_disk
from cvae.data.contents import of_array
from cvae.data.images import Images, size_of_test_set
from cvae.data.listing import DRAWN_BY, drawn
from cvae.data.mapped import IN_MEMORY, Mapped, Part, Unchanged
from cvae.data.module import ImageData
from cvae.data.values import Values
from cvae.errors import ConfigError, DataError
from cvae.runtime.devices import main_memory

__all__ = ["npz"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)


def npz(
    image_shape: Sequence[int] | None,
    test_size: float,
    seed: int,
    root: str | None,
    split: str = "position",
    white: float | None = None,
    first: Sequence[int] | None = None,
    **options: Any,
) -> ImageData:
    """ImageData of a user's own arrays; see `Npz` and `Values`. image_shape=None: as the arrays are."""
    source = Npz(root, test_size, seed, split, Values(white, None if first is None else tuple(first)))
    shape = source.image_shape() if image_shape is None else image_shape
    return ImageData(lambda _: source, root=root, image_shape=shape, seed=seed, split=split, **options)


class Npz:
    """Images in a file of numpy.savez or numpy.save, or in two of them.

    `root` is a file, of whose images a part is kept for testing; or a folder with train.npz and test.npz, or train.npy
    and test.npy. Each file of numpy.savez has two arrays; a file NAME.npy of numpy.save is x, and y is NAME_y.npy
    beside it.

        x  (N, H, W) or (N, H, W, C), C 1 (grey), 3 (RGB) or any other number: uint8 levels from 0 to 255; or floats in
           [0, 1], which are rounded to the nearest of 256 levels; or bool; or, with `values.white`, any numbers from 0
           to that
        y  (N,), integers of at least 0, or texts: the labels. Those that occur are numbered in their order, and are the
           names of the classes. Without y, all images are of class 0

    Images of more than IN_MEMORY bytes stay in their files, unless these are packed (numpy.savez_compressed) or in
    Fortran's order: batches are read when they are asked for. In memory all images are uint8. Arrays of objects are
    refused: reading them could run code. So are arrays that are to be read and do not fit into the memory, which a
    small file can unpack to.

    Args:
        root: the file or the folder
        test_size: how many of the images (an integer), or which share of them (between 0 and 1), are the test set where
            `root` is a file
        seed: draws the test set
        split: how it is drawn (`cvae.data.listing.drawn`). With position labels are integers that stay as they are, as
            up to cvae 0.1
        values: how numbers become levels
    """

    contents: dict[str, str] | None = None  # after load(): {part of an array: digest}

    def __init__(
        self, root: str | None, test_size: float, seed: int, split: str = "position", values: Values | None = None
    ):
        if root is None:
            allowed = "your file of arrays, or a folder with train.npz and test.npz, or train.npy and test.npy"
            raise ConfigError("root", root, allowed)
        self.root, self.seed = Path(root).expanduser(), seed_number("seed", seed)
        self.test_size = size_of_test_set("test_size", test_size)
        self.split, self.values = one_of("split", split, DRAWN_BY), values or Values()

    def download(self) -> None:
        """Nothing is fetched. Raises DataError if a file or an array is missing, or of a wrong type or shape."""
        for file in self._files():
            check_arrays(file, self.values)

    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W). Reads no image. Raises DataError as `download` does."""
        height, width, *channels = check_arrays(self._files()[0], self.values)[1:]
        return (*(channels or [1]), height, width)

    def classes(self) -> int:
        """How many classes there are. Reads no image. Raises DataError as `download` does."""
        return len(
            numbered([read_labels(file, check_arrays(file, self.values)[0]) for file in self._files()], self.split)[1]
        )

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError as `download` does, or if a file is damaged or a value is not allowed."""
        self.download()
        log.info("Reading %s", self.root)
        files = self._files()
        read = [images_of(file, self.values) for file in files]
        levels_of, self.contents = [x for x, _ in read], {key: value for _, own in read for key, value in own.items()}
        labels, classes = numbered(
            [read_labels(file, len(x)) for file, x in zip(files, levels_of, strict=True)], self.split
        )
        for file, y in zip(files, labels, strict=True):
            self.contents |= of_array(f"{file.name} y", y.numpy())
        sets = [Images(x, y, None, np.arange(len(x)), classes) for x, y in zip(levels_of, labels, strict=True)]
        if len(sets) == 2:
            return sets[0], sets[1]
        train, test = drawn(range(len(sets[0].x)), self.test_size, self.seed, str(self.root), self.split)
        return sets[0].take(train), sets[0].take(test)

    def _files(self) -> list[Path]:
        """The one file, or those of the training and of the test images."""
        if not self.root.is_dir():
            if not self.root.is_file():
                raise DataError(f"data.root={self.root}: there is no such file")
            return [self.root]
        files = [self.root / "train.npz", self.root / "test.npz"]
        if missing := [file.name for file in files if not file.is_file()]:
            others = [file.with_suffix(".npy") for file in files]
            if all(file.is_file() for file in others):
                return others
            raise DataError(f"data.root={self.root}: the folder has no {' and no '.join(missing)}, nor such .npy files")
        return files


def check_arrays(file: Path, values: Values) -> tuple[int, ...]:
    """The shape of x. Raises DataError if x is missing, if x or y is of a wrong type or shape, or too large."""
    arrays = headers(file)
    if "x" not in arrays:
        raise DataError(f"{file} has no array x, the images; it has: {', '.join(arrays) or 'none'}")
    shape, dtype = arrays["x"][:2]
    whole = np.issubdtype(dtype, np.integer)
    if not (dtype in (np.uint8, np.bool_) or np.issubdtype(dtype, np.floating) or (whole and values.white is not None)):
        other = ", or with data.white=VALUE integers from 0 to that" if whole else ""
        raise DataError(f"{file}: x is {dtype}; it must be uint8, floats in [0, 1] or bool{other}")
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{file}: x is {shape}; it must be (N, H, W) or (N, H, W, C), N above 0")
    if len(shape) == 4 and shape[3] > 4 and (shape[1] in (1, 3) or shape[1] < shape[2] == shape[3]):
        last = "numpy.moveaxis(x, 1, -1) makes it so"
        raise DataError(f"{file}: x is {shape}; it must be (N, H, W, C), the channels last: {last}")
    values.require_channels(shape[3] if len(shape) == 4 else 1)
    labels, of = arrays["y"][:2] if "y" in arrays else (shape[:1], np.dtype(int))
    if labels != shape[:1] or not (np.issubdtype(of, np.integer) or of.kind in "US"):
        allowed = f"integers or texts {shape[:1]}, a label for each image of x"
        raise DataError(f"{file}: y is {of} {labels}; it must be {allowed}")
    images = 0 if stays(arrays["x"]) else math.prod(shape) * (dtype.itemsize + 1)  # as read, and as kept
    needed = images + 2 * shape[0] * of.itemsize
    if needed > (free := main_memory()):
        sizes = f"takes {needed / 2**30:.1f} GiB to read; {free / 2**30:.1f} GiB of memory are free"
        raise DataError(f"{file}: x is {dtype} {shape}, which {sizes}")
    return shape


def stays(x: Header) -> bool:
    """Whether the images stay in their file."""
    return x.offset is not None and math.prod(x.shape) > IN_MEMORY


def images_of(file: Path, values: Values) -> tuple[Tensor | Mapped, dict[str, str]]:
    """The images of a file whose arrays have been checked, uint8 (N, C, H, W), in memory or on disk; their contents.

    Raises DataError if a value is not allowed; values of floats on disk are looked at, which reads all of them once.
    """
    x = headers(file)["x"]
    if not stays(x):
        numbers = array(file, "x")
        return values.levels(numbers, file), of_array(f"{file.name} x", numbers)
    values.require(on_disk(x), file)  # a map of its own, whose pages are given back
    channels = x.shape[3] if len(x.shape) == 4 else 1
    contents = of_array(f"{file.name} x", on_disk(x))
    return Mapped([Part(on_disk(x), (values.of,), Unchanged(file))], (channels, *x.shape[1:3])), contents


def read_labels(file: Path, count: int) -> np.ndarray:
    """y (N,) as it is; 0 for each of `count` images where there are none."""
    if "y" not in headers(file):
        return np.zeros(count, np.int64)
    y = array(file, "y")
    if np.issubdtype(y.dtype, np.integer) and y.min() < 0:
        raise DataError(f"{file}: y has the label {y.min()}; labels are integers of at least 0, or texts")
    return y


def numbered(labels: list[np.ndarray], split: str) -> tuple[list[Tensor], tuple[str, ...]]:
    """Labels as int64 (N,) each, and what the classes are called: those that occur, in their order.

    split: position: up to cvae 0.1 labels were as they are
    """
    if split == "position":
        last = max(int(y.max()) for y in labels)
        return [torch.from_numpy(y.astype(np.int64)) for y in labels], tuple(map(str, range(last + 1)))
    if len({y.dtype.kind in "US" for y in labels}) > 1:
        raise DataError("train.npz and test.npz: y is of numbers in one and of texts in the other")
    found, numbers = np.unique(np.concatenate(labels), return_inverse=True)
    names = tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found.tolist())
    return list(torch.from_numpy(numbers.astype(np.int64)).split([len(y) for y in labels])), names
