"""CIFAR-10."""

import pickle
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from cvae.data.fetch import download, fetch, verified
from cvae.data.images import Images

__all__ = ["CIFAR10"]  # what conf/ and saved configs may name

SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # of the archive, as Keras has it


class CIFAR10:
    """50,000 + 10,000 colour images of 32x32 (Krizhevsky 2009) in torchvision's layout, `root`/cifar-10-batches-py/….

    If these files are missing, they come from `root`/cifar-10-python.tar.gz; if that is missing too, it is fetched.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()
        self.folder = self.root / datasets.CIFAR10.base_folder
        self.train, self.test = dict(datasets.CIFAR10.train_list), dict(datasets.CIFAR10.test_list)  # {file: MD5}

    def download(self) -> None:
        """Fetch the files if one is missing. Raises DataError if the archive is damaged or cannot be fetched."""
        if all((self.folder / name).is_file() for name in self.train | self.test):
            return
        url, archive, md5 = datasets.CIFAR10.url, self.root / datasets.CIFAR10.filename, datasets.CIFAR10.tgz_md5
        if archive.is_file():
            verified(archive, SHA256)
            ways = [(str(archive), partial(self._unpack, archive))]
        else:
            ways = [(url, partial(self._download, url, md5))]
        advice = [
            f"Put {archive.name} into {self.root},",
            f"or these files into {self.folder}:",
            *(f"  {name}" for name in self.train | self.test),
            "or point data.root (or the environment variable CVAE_DATA) at a folder that has them in "
            f"{self.folder.name}/.",
        ]
        fetch("CIFAR-10", self.folder, ways, "\n".join(advice))

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing, truncated or altered."""
        return self._read(self.train), self._read(self.test)

    def _download(self, url: str, md5: str, folder: Path) -> list[Path]:
        (archive,) = download(url, md5, SHA256, folder)
        return self._unpack(archive, folder)

    def _unpack(self, archive: Path, folder: Path) -> list[Path]:
        extract_archive(archive, folder)
        return [folder / self.folder.name / name for name in self.train | self.test]

    def _read(self, files: dict[str, str]) -> Images:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns about the way Python 2 wrote arrays
            # A pickle can run code when it is opened: these are known by their hashes.
            batches = [
                pickle.loads(verified(self.folder / name, md5), encoding="latin1") for name, md5 in files.items()
            ]
        x = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        y = np.concatenate([batch["labels"] for batch in batches])
        return Images(torch.from_numpy(x), torch.from_numpy(y))
