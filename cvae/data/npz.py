"""A user's own images in NumPy files."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvae.checks import one_of, seed_number
from cvae.data.arrays import LABELS, Header, array, headers, on_disk
from cvae.data.contents import of_array
from cvae.data.images import Images, joined, size_of_test_set
from cvae.data.known import check_factors, read_factors, require_alike
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
    """Images in files of numpy.savez or numpy.save.

    `root` is a file, of whose images a part is kept for testing; or a folder with train.npz and test.npz, or train.npy
    and test.npy; or a folder of .npy files that are one set, in the order of their names, of which a part is kept; or
    one with such folders train and test. Each file of numpy.savez has two arrays; a file NAME.npy of numpy.save is x,
    and y is NAME_y.npy beside it.

        x  (N, H, W) or (N, H, W, C), C 1 (grey), 3 (RGB) or any other number: uint8 levels from 0 to 255; or floats in
           [0, 1], which are rounded to the nearest of 256 levels; or bool; or, with `values.white`, any numbers from 0
           to that
        y  (N,), integers of at least 0, or texts: the labels. Those that occur are numbered in their order, and are the
           names of the classes. Without y, all images are of class 0
        factors  (N, F), in a file of numpy.savez, integers: the known factors, by the numbers of their values
        factor_names  (F,), texts: what these are called

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
            allowed = (
                "your file of arrays; or a folder with train.npz and test.npz, train.npy and test.npy, or .npy files"
            )
            raise ConfigError("root", root, allowed)
        self.root, self.seed = Path(root).expanduser(), seed_number("seed", seed)
        self.test_size = size_of_test_set("test_size", test_size)
        self.split, self.values = one_of("split", split, DRAWN_BY), values or Values()

    def download(self) -> None:
        """Nothing is fetched. Raises DataError if a file or an array is missing, or of a wrong type or shape."""
        for files in self._sets():
            check_arrays(files, self.values)
            for file in files:
                check_factors(file)

    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W). Reads no image. Raises DataError as `download` does."""
        height, width, *channels = check_arrays(self._sets()[0], self.values)[1:]
        return (channels[0] if channels else 1), height, width

    def classes(self) -> int:
        """How many classes there are. Reads no image. Raises DataError as `download` does."""
        return len(
            numbered([read_labels(files, check_arrays(files, self.values)[0]) for files in self._sets()], self.split)[1]
        )

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError as `download` does, or if a file is damaged or a value is not allowed."""
        self.download()
        log.info("Reading %s", self.root)
        sets_of_files = self._sets()
        levels_of, self.contents = [], {}
        for files in sets_of_files:
            x, contents = images_of(files, self.values, self._name)
            levels_of.append(x)
            self.contents |= contents
        pairs = list(zip(sets_of_files, levels_of, strict=True))
        labels, classes = numbered([read_labels(files, len(x)) for files, x in pairs], self.split)
        for files, y in zip(sets_of_files, labels, strict=True):
            self.contents |= of_array(f"{self._name(files[0])} y", y.numpy())
        known = [read_factors(files) for files in sets_of_files]
        require_alike(known)
        for files, (factors, _) in zip(sets_of_files, known, strict=True):
            self.contents |= {} if factors is None else of_array(f"{self._name(files[0])} factors", factors.numpy())
        sets = [
            Images(x, y, factors, np.arange(len(x)), classes, names)
            for x, y, (factors, names) in zip(levels_of, labels, known, strict=True)
        ]
        if len(sets) == 2:
            return sets[0], sets[1]
        train, test = drawn(range(len(sets[0].x)), self.test_size, self.seed, str(self.root), self.split)
        return sets[0].take(train), sets[0].take(test)

    def _name(self, file: Path) -> str:
        """A file's name from the folder."""
        return str(file.relative_to(self.root)) if self.root != file else file.name

    def _sets(self) -> list[list[Path]]:
        """The files of the one set, or those of the training and of the test images."""
        if not self.root.is_dir():
            if not self.root.is_file():
                raise DataError(f"data.root={self.root}: there is no such file")
            return [[self.root]]
        begun = False
        for kind in (".npz", ".npy", ""):
            pair = [self.root / f"{name}{kind}" for name in ("train", "test")]
            there = [place.is_file() if kind else place.is_dir() for place in pair]
            if all(there):
                sets = [[place] if kind else shards(place) for place in pair]
                if not all(sets):
                    raise DataError(f"data.root={self.root}: its folders train and test must both have .npy files")
                return sets
            begun |= any(there)
        if not begun and (files := shards(self.root)):
            return [files]
        missing = [name for name in ("train.npz", "test.npz") if not (self.root / name).is_file()]
        others = "" if begun else ", and no others"
        raise DataError(
            f"data.root={self.root}: the folder has no {' and no '.join(missing)}, nor such .npy files{others}"
        )


def shards(folder: Path) -> list[Path]:
    """The .npy files in a folder, in the order of their names, without those of labels."""
    files = sorted(file for file in folder.glob("*.npy") if file.is_file() and not file.name.startswith("."))
    beside = {file.with_name(LABELS.format(file.stem)) for file in files}
    return [file for file in files if file not in beside]


def check_arrays(files: Sequence[Path], values: Values) -> tuple[int, ...]:
    """The shape of x of all files together.

    Raises DataError, naming the file, if x is missing, x or y is of a wrong type or shape, or the files differ in their
    images' shapes, in having labels or in the kind of these; or if what is to be read does not fit into the memory.
    """
    found = [(file, headers(file)) for file in files]
    shapes = [check_array(file, arrays, values) for file, arrays in found]
    (first, about), alike = found[0], shapes[0][1:]
    for (file, arrays), shape in zip(found, shapes, strict=True):
        if shape[1:] != alike:
            raise DataError(f"{file}: x is {shape}, and in {first} {shapes[0]}: images of one set have the same shape")
        if kind_of_labels(arrays) != kind_of_labels(about):
            said = f"{file} has {kind_of_labels(arrays)}, and {first} {kind_of_labels(about)}"
            raise DataError(f"{said}: in one set it must be the same")
    require_memory(found)
    return (sum(shape[0] for shape in shapes), *alike)


def kind_of_labels(arrays: dict[str, Header]) -> str:
    if "y" not in arrays:
        return "no labels"
    return "numbers as labels" if np.issubdtype(arrays["y"].dtype, np.integer) else "texts as labels"


def check_array(file: Path, arrays: dict[str, Header], values: Values) -> tuple[int, ...]:
    """The shape of x of one file. Raises DataError as `check_arrays` does."""
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
    return shape


def require_memory(found: Sequence[tuple[Path, dict[str, Header]]]) -> None:
    """Raise DataError, naming the file, where what is to be read of files does not fit into the memory."""
    many, needed = are_many([arrays["x"] for _, arrays in found]), 0
    for file, arrays in found:
        x, labels = arrays["x"], arrays["y"].dtype if "y" in arrays else np.dtype(int)
        images = 0 if stays(x, many) else math.prod(x.shape) * (x.dtype.itemsize + 1)  # as read, and as kept
        needed += images + 2 * x.shape[0] * labels.itemsize
        if needed > (free := main_memory()):
            sizes = f"takes {needed / 2**30:.1f} GiB to read; {free / 2**30:.1f} GiB of memory are free"
            raise DataError(f"{file}: x is {x.dtype} {x.shape}, which {sizes}")


def are_many(arrays: Sequence[Header]) -> bool:
    """Whether the images of a set, as levels, are too many for the memory."""
    return sum(math.prod(x.shape) for x in arrays) > IN_MEMORY


def stays(x: Header, many: bool) -> bool:
    """Whether images stay in their file, if those of the set are `many`."""
    return many and x.offset is not None


def images_of(
    files: Sequence[Path], values: Values, name: Callable[[Path], str]
) -> tuple[Tensor | Mapped, dict[str, str]]:
    """The images of files that have been checked, uint8 (N, C, H, W), in memory or on disk; and their contents.

    Raises DataError if a value is not allowed; values of floats on disk are looked at, which reads all of them once.

    name: what each file is called in the contents
    """
    found = [(file, headers(file)["x"]) for file in files]
    many, whole = are_many([x for _, x in found]), sum(x.nbytes for _, x in found)
    parts: list[Tensor | Mapped] = []
    contents: dict[str, str] = {}
    for file, x in found:
        numbers = on_disk(x) if stays(x, many) else array(file, "x")
        contents |= of_array(f"{name(file)} x", numbers, whole)
        if stays(x, many):
            values.require(on_disk(x), file)  # a map of its own, whose pages are given back
            channels = x.shape[3] if len(x.shape) == 4 else 1
            parts.append(Mapped([Part(on_disk(x), (values.of,), Unchanged(file))], (channels, *x.shape[1:3])))
        else:
            parts.append(values.levels(numbers, file))
    return joined(*parts), contents


def read_labels(files: Sequence[Path], count: int) -> np.ndarray:
    """y (N,) as it is; 0 for each of `count` images where there are none."""
    if "y" not in headers(files[0]):
        return np.zeros(count, np.int64)
    labels = [array(file, "y") for file in files]
    for file, y in zip(files, labels, strict=True):
        if np.issubdtype(y.dtype, np.integer) and y.min() < 0:
            raise DataError(f"{file}: y has the label {y.min()}; labels are integers of at least 0, or texts")
    return np.concatenate(labels)


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
