"""CIFAR-10."""

import logging
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets
from torchvision.datasets.utils import download_url, extract_archive

from cvae.data.fetch import OFFLINE, not_fetched, temporary_folder, verified
from cvae.data.images import Images
from cvae.errors import DataError

log = logging.getLogger(__name__)


class CIFAR10:
    """50,000 + 10,000 colour images of 32x32 (Krizhevsky 2009) in torchvision's layout, `root`/cifar-10-batches-py/….

    `root`/cifar-10-python.tar.gz is unpacked where it is there, fetched where it is not.
    """

    def __init__(self, root: str):
        self.root = Path(root).expanduser()
        self.folder = self.root / datasets.CIFAR10.base_folder
        self.train, self.test = dict(datasets.CIFAR10.train_list), dict(datasets.CIFAR10.test_list)

    def download(self) -> None:
        """Raises DataError if the archive is damaged, or is not there and cannot be fetched."""
        files = self.train | self.test
        if all((self.folder / name).is_file() for name in files):
            return
        url, name, md5 = datasets.CIFAR10.url, datasets.CIFAR10.filename, datasets.CIFAR10.tgz_md5
        archive = self.root / name
        try:
            with temporary_folder(self.root) as temporary:
                if archive.is_file():
                    verified(archive, md5)
                else:
                    log.info("CIFAR-10 is not in %s: fetching it from %s", self.folder, url)
                    download_url(url, temporary, name, md5)
                    archive = temporary / name
                extract_archive(archive, temporary)
                self.folder.mkdir(exist_ok=True)
                for file in files:  # all are whole: each appears under its own name in one step
                    os.replace(temporary / self.folder.name / file, self.folder / file)
        except DataError:
            raise
        except OFFLINE as error:
            raise not_fetched(
                "CIFAR-10", self.folder, [(url, error)], files, f"{self.folder.name}/", archive
            ) from error

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing, truncated or altered."""
        return self._read(self.train), self._read(self.test)

    def _read(self, files: dict[str, str]) -> Images:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of the way Python 2 wrote arrays
            # A pickle can run code when it is opened: these are known by their hashes.
            batches = [
                pickle.loads(verified(self.folder / name, md5), encoding="latin1") for name, md5 in files.items()
            ]
        x = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        return Images(torch.from_numpy(x), torch.tensor(sum((batch["labels"] for batch in batches), [])))
