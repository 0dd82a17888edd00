"""Fashion-MNIST and KMNIST."""

import gzip
import logging
import os
from pathlib import Path

import torch
from torchvision import datasets
from torchvision.datasets.utils import download_url

from cvae.checks import one_of
from cvae.data.fetch import OFFLINE, not_fetched, temporary_folder, verified
from cvae.data.images import Images
from cvae.data.mnist import read_idx

log = logging.getLogger(__name__)


class IdxFiles:
    """60,000 + 10,000 images of 28x28 in torchvision's layout: `root`/<dataset>/raw/train-images-idx3-ubyte.gz, ….

    The archives are read, not what torchvision unpacks beside them: its MD5 sums are those of the archives.

    Args:
        root: torchvision's root
        dataset: FashionMNIST (Xiao et al. 2017) or KMNIST (Clanuwat et al. 2018), torchvision's names
    """

    def __init__(self, root: str, dataset: str):
        self.dataset = one_of("source.dataset", dataset, ("FashionMNIST", "KMNIST"))
        self.folder = Path(root).expanduser() / dataset / "raw"
        known = getattr(datasets, dataset)
        self.mirrors, self.md5 = known.mirrors, dict(known.resources)

    def download(self) -> None:
        """Fetch the archives that are not there. Raises DataError if no mirror has them."""
        for name, md5 in self.md5.items():
            if not (self.folder / name).is_file():
                self._fetch(name, md5)

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing, truncated or altered."""
        # torchvision's order: training images, training labels, test images, test labels
        train_x, train_y, test_x, test_y = (self._read(self.folder / name, md5) for name, md5 in self.md5.items())
        return Images(train_x[:, None], train_y.long()), Images(test_x[:, None], test_y.long())

    def _fetch(self, name: str, md5: str) -> None:
        failures = []
        for mirror in self.mirrors:
            log.info("%s is not in %s: fetching it from %s", name, self.folder, mirror)
            try:
                with temporary_folder(self.folder) as temporary:
                    download_url(mirror + name, temporary, name, md5)
                    os.replace(temporary / name, self.folder / name)
                return
            except OFFLINE as error:
                failures.append((mirror + name, error))
        raise not_fetched(self.dataset, self.folder, failures, self.md5, f"{self.dataset}/raw/")

    def _read(self, path: Path, md5: str) -> torch.Tensor:
        return read_idx(gzip.decompress(verified(path, md5)))
