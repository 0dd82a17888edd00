"""MNIST, Fashion-MNIST and KMNIST: four idx files each, compressed or not, checked by their hashes."""

import gzip
import io
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from cvae.checks import one_of
from cvae.data.fetch import Way, damaged, download, fetch, verify
from cvae.data.images import Images
from cvae.errors import DataError

__all__ = ["IdxFiles"]  # what conf/ and saved configs may name

FILES = (  # images and labels for training, then for testing
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

LARGEST = 2**26  # bytes; the largest of these files has 47,040,016

MD5 = {  # of the unpacked files; of KMNIST's they are not known
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    "KMNIST": {},
}

SHA256 = {  # of the original archives: MNIST's of the genuine files, the others as in TensorFlow Datasets
    "MNIST": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    "KMNIST": {
        "train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    },
}


class IdxFiles:
    """60,000 + 10,000 images of 28x28 in torchvision's layout: `root`/<dataset>/raw/train-images-idx3-ubyte[.gz], ….

    An unpacked file is read before its archive. The check is of the content: an archive that was packed again is fine.
    What is fetched is the original archive, known by its MD5 and SHA-256. Where only the sums of archives are known,
    only these are read.

    Args:
        root: torchvision's root
        dataset: MNIST (LeCun et al. 1998), FashionMNIST (Xiao et al. 2017) or KMNIST (Clanuwat et al. 2018)
        more_ways: other ways to fetch the files, tried after torchvision's mirrors
    """

    def __init__(self, root: str | Path, dataset: str, more_ways: Iterable[Way] = ()):
        self.dataset = one_of("source.dataset", dataset, tuple(MD5))
        self.folder = Path(root).expanduser() / dataset / "raw"
        known = getattr(datasets, dataset)
        self.mirrors, self.archives, self.md5 = known.mirrors, dict(known.resources), MD5[dataset]
        self.sha256 = SHA256[dataset]
        self.more_ways = tuple(more_ways)

    def download(self) -> None:
        """Fetch the files that are missing. Raises DataError if no way of fetching works."""
        for name in FILES:
            if self._find(name) is None:
                archive = f"{name}.gz"
                sums = self.archives[archive], self.sha256[archive]
                addresses = [mirror + archive for mirror in self.mirrors]
                ways = [(address, partial(download, address, *sums)) for address in addresses]
                fetch(self.dataset, self.folder, [*ways, *self.more_ways], self._advice())

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing, truncated or altered."""
        train_x, train_y, test_x, test_y = map(self._read, FILES)
        return Images(train_x[:, None], train_y.long()), Images(test_x[:, None], test_y.long())

    def _find(self, name: str) -> Path | None:
        """The file, unpacked or as an archive, if there is one that can be checked."""
        unpacked, archive = self.folder / name, self.folder / f"{name}.gz"
        if name in self.md5 and unpacked.is_file():
            return unpacked
        return archive if archive.is_file() else None

    def _read(self, name: str) -> Tensor:
        path = self._find(name)
        if path is None:
            raise DataError(self._missing(name))
        content = path.read_bytes()
        if name not in self.md5:
            verify(path, content, self.sha256[path.name])
        if path.suffix == ".gz":
            try:
                content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST)
            except (OSError, EOFError, zlib.error) as error:
                raise damaged(path, str(error)) from error
        if name in self.md5:
            verify(path, content, self.md5[name])
        return read_idx(content)

    def _missing(self, name: str) -> str:
        path = self.folder / name
        if not path.is_file():
            return f"{path} is missing"
        return f"{path}.gz is missing, and {path} cannot be checked: only the sum of the archive is known"

    def _advice(self) -> str:
        files, form = (FILES, "files (unpacked, or as .gz)") if self.md5 else (self.archives, "archives, not unpacked,")
        return "\n".join(
            [
                f"Put these {form} into {self.folder}:",
                *(f"  {file}" for file in files),
                "or point data.root (or the environment variable CVAE_DATA) at a folder that has them in "
                f"{self.dataset}/raw/.",
            ]
        )


def read_idx(content: bytes) -> Tensor:
    """The bytes of an idx file of unsigned bytes -> uint8 tensor. Header: 0, 0, type, rank, then big-endian sizes."""
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy())


def write_idx(path: Path, array: np.ndarray) -> None:
    """The inverse of `read_idx`, into a file."""
    path.write_bytes(
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()
    )
