"""Published images with known factors, from the files of their makers: dSprites, MPI3D, 3D Shapes, Cars3D."""

import importlib
import logging
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from cvae.checks import one_of
from cvae.data.arrays import array, headers
from cvae.data.images import Images
from cvae.data.mapped import BLOCK
from cvae.data.subset import Subset
from cvae.errors import ConfigError, DataError, UserError
from cvae.runtime.devices import main_memory

__all__ = ["MPI3D", "Cars3D", "DSprites", "Shapes3D"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)


def place(title: str, address: str, root: Path, folder: str, name: str) -> Path:
    """Where a file or folder is: in `root`, or in a folder there. Raises DataError if it is missing."""
    for path in (root / name, root / folder / name):
        if path.exists():
            return path
    raise DataError(
        f"{title} is not in {root}: it lacks {name}. Get it from {address} and put it there, or point data.root (or "
        "the environment variable CVAE_DATA) at a folder that has it."
    )


class Published:
    """Images in a file of their makers, of which some are drawn; nothing is fetched.

    The file is read once from its start to its end, as it is packed, and the images that were drawn are kept: the
    memory is that of these, not of the file.

    Args:
        root: the folder of the file, which may also lie in a folder there that is called `folder`
        train_size, test_size, seed: see `Subset`
    """

    title = ""  # what the data are called
    address = ""  # of the makers
    folder = ""
    names: tuple[str, ...] = ()  # of the factors
    label = ""  # the factor whose value is the label

    def __init__(self, root: str | Path, train_size: int | None, test_size: int, seed: int) -> None:
        self.root, self.subset = Path(root).expanduser(), Subset(train_size, test_size, seed)

    def place(self, name: str) -> Path:
        """Where a file or folder is. Raises DataError if it is missing."""
        return place(self.title, self.address, self.root, self.folder, name)

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if the file is missing or another, ConfigError if it has too few images."""
        factors, blocks = self.read()
        train, test = self.subset.drawn(len(factors))
        log.info("Reading %s images of %s", f"{len(train) + len(test):,}", self.title)
        rows = torch.cat([train, test])
        x = torch.from_numpy(picked(blocks, rows.numpy()))
        images = self.images(x, factors[rows.numpy()])
        return images.take(slice(0, len(train))), images.take(slice(len(train), None))

    def images(self, x: torch.Tensor, factors: np.ndarray) -> Images:
        known = torch.from_numpy(factors.astype(np.int64))
        return Images(x, known[:, self.names.index(self.label)], known, None, None, self.names)

    def read(self) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """Factors (N, F), and the images from the first to the last, uint8 (n, C, H, W) each."""
        raise NotImplementedError


def picked(blocks: Iterator[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The images (B, C, H, W) of numbers in any order, none of them twice, from blocks that hold all images in turn.

    Raises ConfigError if there is not enough memory, DataError if the images end before.
    """
    order = rows.argsort()
    ascending, out, start, done = rows[order], None, 0, 0
    for block in blocks:
        if out is None:
            if (needed := len(rows) * block[0].nbytes) > (free := main_memory()):
                sizes = f"with the test images that is {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
                raise ConfigError("data.source.train_size", len(rows), f"less: {sizes}")
            out = np.empty((len(rows), *block.shape[1:]), np.uint8)
        end = int(ascending.searchsorted(start + len(block)))
        out[order[done:end]] = block[ascending[done:end] - start]
        start, done = start + len(block), end
        if done == len(rows):
            return out
    raise DataError(f"the file is damaged: of its images {start:,} are there, and number {ascending[-1]:,} is missing")


def packed(file: Path, name: str, shape: Sequence[int | None]) -> Iterator[np.ndarray]:
    """The rows of a uint8 array in a file of numpy.savez, in blocks, unpacked one after the other.

    shape: what the array must have, None for any number. Raises DataError if it is another, or damaged.
    """
    found = headers(file).get(name)
    if found is None or len(found.shape) != len(shape) or found.dtype != np.uint8:
        raise DataError(f"{file} is another file: it has no array {name} of uint8 levels {tuple(shape)}")
    if any(size not in (None, there) for size, there in zip(shape, found.shape, strict=True)):
        raise DataError(f"{file} is another file: {name} is {found.shape}, not {tuple(shape)}")
    each = int(np.prod(found.shape[1:]))
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as stream:
            skip_header(stream)
            for start in range(0, found.shape[0], BLOCK):
                count = min(BLOCK, found.shape[0] - start)
                content = np.frombuffer(stream.read(count * each), np.uint8)
                yield content.reshape(count, *found.shape[1:])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is damaged: {error}") from error


def skip_header(stream: IO[bytes]) -> None:
    """Read up to the first value of an array of numpy.save."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(stream)


def combinations(sizes: Sequence[int]) -> np.ndarray:
    """All combinations of factors with so many values, the last of which changes fastest: (N, F)."""
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), 1)


class DSprites(Published):
    """dSprites (Matthey et al. 2017): 737,280 binary images of 64x64; the label is the shape."""

    title, folder, address = "dSprites", "dsprites", "https://github.com/google-deepmind/dsprites-dataset"
    file = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    names, label = ("shape", "scale", "orientation", "x", "y"), "shape"

    def download(self) -> None:
        self.place(self.file)

    def classes(self) -> int:
        return 3

    def read(self) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        file = self.place(self.file)
        factors = array(file, "latents_classes")
        if factors.ndim != 2 or factors.shape[1] != 6:
            raise DataError(f"{file} is another file: latents_classes is {factors.shape}, not (N, 6)")
        blocks = packed(file, "imgs", (len(factors), 64, 64))
        return factors[:, 1:], (block[:, None] * np.uint8(255) for block in blocks)  # the first is the colour, white


class MPI3D(Published):
    """MPI3D (Gondal et al. 2019): 1,036,800 colour images of 64x64 of a robot's arm; the label is the object's shape.

    variant: real, realistic or toy
    """

    title, folder, address = "MPI3D", "mpi3d", "https://github.com/rr-learning/disentanglement_dataset"
    variants = ("real", "realistic", "toy")
    names = (
        "object_color", "object_shape", "object_size", "camera_height", "background_color", "horizontal_axis",
        "vertical_axis",
    )  # fmt: skip
    label, sizes = "object_shape", (6, 6, 2, 3, 3, 40, 40)

    def __init__(self, root: str | Path, variant: str, train_size: int | None, test_size: int, seed: int) -> None:
        super().__init__(root, train_size, test_size, seed)
        self.file = f"mpi3d_{one_of('source.variant', variant, self.variants)}.npz"

    def download(self) -> None:
        self.place(self.file)

    def classes(self) -> int:
        return self.sizes[1]

    def read(self) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        factors = combinations(self.sizes)
        blocks = packed(self.place(self.file), "images", (len(factors), 64, 64, 3))
        return factors, (block.transpose(0, 3, 1, 2) for block in blocks)


class Shapes3D(Published):
    """3D Shapes (Burgess and Kim 2018): 480,000 colour images of 64x64; the label is the shape. Needs h5py."""

    title, folder, address = "3D Shapes", "shapes3d", "https://github.com/google-deepmind/3d-shapes"
    file = "3dshapes.h5"
    names, label = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"), "shape"

    def download(self) -> None:
        self.place(self.file)

    def classes(self) -> int:
        return 4

    def read(self) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        h5py = library("h5py", "hdf5")
        file = self.place(self.file)
        try:
            content = h5py.File(file, "r")
            labels, images = content["labels"][()], content["images"]
        except (OSError, KeyError) as error:
            raise DataError(f"{file} is damaged or another file: {error}") from error
        if labels.shape != (len(images), 6) or images.shape[1:] != (64, 64, 3) or images.dtype != np.uint8:
            raise DataError(f"{file} is another file: images are {images.dtype} {images.shape}, labels {labels.shape}")
        factors = np.stack([np.unique(label, return_inverse=True)[1] for label in labels.T], 1)
        starts = range(0, len(images), BLOCK)
        return factors, (images[start : start + BLOCK].transpose(0, 3, 1, 2) for start in starts)


class Cars3D(Published):
    """Cars3D (Reed et al. 2015): 17,568 colour images of 183 cars, of 128x128 made 64x64; the label is the car.

    Each pixel is the mean of four. Needs SciPy.
    """

    title, folder = "Cars3D", "cars3d"
    address = "http://www.scottreed.info/files/nips2015-analogy-data.tar.gz (data/cars)"
    names, label = ("elevation", "azimuth", "object"), "object"

    def files(self) -> list[Path]:
        """A file for each car, by name. Raises DataError if there is none."""
        if found := sorted(self.place("cars").glob("*.mat")):
            return found
        raise DataError(f"{self.place('cars')} has no .mat file: it should have one for each car. See {self.address}")

    def download(self) -> None:
        self.files()

    def classes(self) -> int:
        return len(self.files())

    def read(self) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        files = self.files()
        factors = combinations((len(files), 24, 4))[:, ::-1]
        return factors, (self.car(file) for file in files)

    def car(self, file: Path) -> np.ndarray:
        """The images of a car, (96, 3, 64, 64): its elevation changes fastest."""
        try:
            images = library("scipy.io", "measures").loadmat(file)["im"]
            if images.shape != (128, 128, 3, 24, 4) or images.dtype != np.uint8:
                raise ValueError(f"im is {images.dtype} {images.shape}")
        except (OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
            raise DataError(f"{file} is damaged or no file of Cars3D: {error}") from error
        fours = images.transpose(3, 4, 2, 0, 1).reshape(96, 3, 64, 2, 64, 2)
        return fours.mean((3, 5)).round().astype(np.uint8)


def library(name: str, extra: str) -> Any:
    """A library that is imported when it is needed. Raises UserError if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this data set needs {name.partition('.')[0]}: pip install -e '.[{extra}]'") from error
