"""small NORB, in the binary matrices of its makers."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from cvae.checks import positive_int
from cvae.data.images import Images
from cvae.data.published import place
from cvae.errors import DataError

__all__ = ["SmallNORB"]  # what conf/ and saved configs may name

MAGIC: dict[int, np.dtype] = {
    0x1E3D4C55: np.dtype("u1"),
    0x1E3D4C54: np.dtype("<i4"),
}  # of a matrix: what its values are
SETS = ("smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing")
NAMES = ("category", "instance", "elevation", "azimuth", "lighting")
KINDS = ("animal", "human", "airplane", "truck", "car")


class SmallNORB:
    """24,300 + 24,300 grey images of 96x96 of toys (LeCun et al. 2004), of the left camera; the label is the category.

    The makers' training and test images, of other toys (instances) each, in their order, which is random.

    Args:
        root: the folder of the six files, packed by gzip or not; they may also lie in smallnorb/ there
        train_size: only the first so many training images; None: all
        test_size: only the first so many test images; None: all
    """

    def __init__(self, root: str | Path, train_size: int | None, test_size: int | None) -> None:
        self.root, self.sizes = Path(root).expanduser(), (train_size, test_size)
        for key, size in zip(("train_size", "test_size"), self.sizes, strict=True):
            if size is not None:
                positive_int(f"source.{key}", size)

    def download(self) -> None:
        """Nothing is fetched. Raises DataError, with the makers' address, if a file is missing."""
        for name in SETS:
            for part in ("dat", "cat", "info"):
                self._file(f"{name}-{part}.mat")

    def classes(self) -> int:
        return len(KINDS)

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing or damaged."""
        train, test = (self._set(name, size) for name, size in zip(SETS, self.sizes, strict=True))
        return train, test

    def _set(self, name: str, size: int | None) -> Images:
        levels, category, about = (matrix(self._file(f"{name}-{part}.mat")) for part in ("dat", "cat", "info"))
        if levels.shape != (len(category), 2, 96, 96) or about.shape != (len(category), 4):
            raise DataError(f"{self.root}: the files {name}-… do not belong together, or are no files of small NORB")
        known = np.concatenate([category[:, None], about], 1)[:size].astype(np.int64)
        known[:, 3] //= 2  # the azimuth: 0, 2, …, 34, by steps of 20 degrees
        factors = torch.from_numpy(known)
        x = torch.from_numpy(levels[:size, :1].copy())
        return Images(x, factors[:, 0], factors, None, KINDS, NAMES)

    def _file(self, name: str) -> Path:
        """A file as it is, or packed by gzip."""
        where = "small NORB", "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/", self.root, "smallnorb"
        try:
            return place(*where, f"{name}.gz")
        except DataError:
            return place(*where, name)


def matrix(file: Path) -> np.ndarray:
    """A binary matrix of NORB: a magic number, how many dimensions, their sizes (at least three), the values.

    Raises DataError if it is none.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        magic, dimensions = np.frombuffer(content, "<i4", 2).tolist()
        shape = np.frombuffer(content, "<i4", dimensions, 8).tolist()
        return np.frombuffer(content, MAGIC[magic], offset=8 + 4 * max(3, dimensions)).reshape(shape)
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise DataError(f"{file} is damaged or no matrix of NORB: {error}") from error
