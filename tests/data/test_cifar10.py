"""CIFAR-10's files: read, checked, unpacked, fetched; a small set in the real formats stands in for the real one."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_files import NOWHERE, assert_is, below, md5, serving, sha256
from torchvision import datasets

from cvae.data import cifar10
from cvae.data.cifar10 import CIFAR10
from cvae.errors import DataError


def python2_pickle(name, data, labels):
    """A CIFAR batch byte for byte as Python 2 and its NumPy wrote it: {batch_label, labels, data, filenames}."""

    def text(value):  # SHORT_BINSTRING
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        + b"(K\x01" + b"".join(b"M" + struct.pack("<H", n) for n in data.shape) + b"\x86"
        + b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
        + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
        + b"\x89T" + struct.pack("<I", data.nbytes) + data.tobytes() + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"image_%d.png" % i) for i in range(len(labels))) + b"e"
    items = (
        text(b"batch_label")
        + text(name)
        + text(b"labels")
        + numbers
        + text(b"data")
        + array
        + text(b"filenames")
        + names
    )
    return b"\x80\x02}(" + items + b"u."


@pytest.fixture
def cifar(monkeypatch):
    """A small CIFAR-10 whose sums torchvision knows: {file: bytes}, {file: (4 images, labels)}, archive."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    rng = np.random.default_rng(1)
    files, arrays = {}, {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        x, y = rng.integers(256, size=(4, 3, 32, 32), dtype=np.uint8), rng.integers(10, size=4).tolist()
        files[name], arrays[name] = python2_pickle(name.encode(), x.reshape(4, 3072), y), (x, y)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    known = datasets.CIFAR10
    monkeypatch.setattr(
        known, "train_list", [[name, md5(content)] for name, content in files.items() if name != "test_batch"]
    )
    monkeypatch.setattr(known, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(known, "tgz_md5", md5(packed.getvalue()))
    monkeypatch.setattr("cvae.data.cifar10.SHA256", sha256(packed.getvalue()))
    monkeypatch.setattr(known, "url", NOWHERE + known.filename)
    return files, arrays, packed.getvalue()


def assert_is_cifar(source, arrays):
    train, test = source.load()
    x, y = zip(*(arrays[f"data_batch_{i}"] for i in range(1, 6)), strict=True)
    assert_is(train, np.concatenate(x), np.concatenate(y))
    assert_is(test, *arrays["test_batch"])


def test_cifar_batches(tmp_path, cifar):
    files, arrays, _ = cifar
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    source = CIFAR10(tmp_path)
    source.download()
    assert_is_cifar(source, arrays)
    (folder / "data_batch_3").write_bytes(files["data_batch_2"])
    with pytest.raises(DataError, match="data_batch_3"):
        source.load()


def test_cifar_pickle_of_unknown_hash_is_not_opened(tmp_path, cifar):
    files, _, _ = cifar
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return opened.touch, ()

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        CIFAR10(tmp_path).load()
    assert not opened.exists()


def test_cifar_archive_in_the_folder_is_unpacked(tmp_path, cifar):
    files, arrays, packed = cifar
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed)
    source = CIFAR10(tmp_path)
    source.download()
    assert_is_cifar(source, arrays)
    assert below(tmp_path) == sorted(
        ["cifar-10-batches-py", datasets.CIFAR10.filename, *(f"cifar-10-batches-py/{n}" for n in files)]
    )


def test_cifar_archive_is_fetched(tmp_path, cifar, monkeypatch):
    files, arrays, packed = cifar
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed)
    source = CIFAR10(tmp_path / "data")
    with serving(tmp_path) as address:
        monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
        source.download()
    assert_is_cifar(source, arrays)
    assert below(source.folder) == sorted(files) and below(source.root) == sorted(
        ["cifar-10-batches-py", *(f"cifar-10-batches-py/{name}" for name in files)]
    )
    source.download()  # all is there: nothing is fetched


def test_another_cifar_archive_of_the_same_md5_is_not_unpacked(tmp_path, cifar, monkeypatch):
    _, _, packed = cifar
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed)
    monkeypatch.setattr("cvae.data.cifar10.SHA256", "0" * 64)
    source = CIFAR10(tmp_path / "data")
    with serving(tmp_path) as address, pytest.raises(DataError, match="its sha256 is"):
        monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
        source.download()
    assert below(source.root) == ["cifar-10-batches-py"]


def test_the_known_sum_of_cifar():
    assert md5(cifar10.SHA256.encode()) == "e6f4444a219da49b38205c3a49eac1ac"


def test_altered_cifar_archive_is_not_kept(tmp_path, cifar, monkeypatch):
    _, _, packed = cifar
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed + b"!")
    source = CIFAR10(tmp_path / "data")
    with serving(tmp_path) as address, pytest.raises(DataError, match="corrupted"):
        monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
        source.download()
    assert below(source.root) == ["cifar-10-batches-py"]


@pytest.mark.parametrize("name", ["data_batch_4", "test_batch"])
def test_missing_cifar_file_is_named_and_unpacked_again(tmp_path, cifar, name):
    files, arrays, packed = cifar
    (tmp_path / "cifar-10-batches-py").mkdir()
    for other in files.keys() - {name}:
        (tmp_path / "cifar-10-batches-py" / other).write_bytes(files[other])
    with pytest.raises(DataError, match=f"{name} is missing"):
        CIFAR10(tmp_path).load()
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed)
    CIFAR10(tmp_path).download()
    assert_is_cifar(CIFAR10(tmp_path), arrays)


def test_damaged_cifar_archive_is_named_and_nothing_unpacked(tmp_path, cifar):
    _, _, packed = cifar
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed[:-50])
    with pytest.raises(DataError, match=f"{datasets.CIFAR10.filename} is damaged"):
        CIFAR10(tmp_path).download()
    assert below(tmp_path) == [datasets.CIFAR10.filename]


def test_where_cifar_cannot_be_fetched_the_error_says_what_to_do(tmp_path, cifar):
    files, _, _ = cifar
    with pytest.raises(DataError) as error:
        CIFAR10(tmp_path).download()
    first, reason, *advice = str(error.value).splitlines()
    folder = tmp_path / "cifar-10-batches-py"
    assert first == f"CIFAR-10 is not in {folder} and could not be fetched:"
    assert reason.startswith(f"  {datasets.CIFAR10.url}: ") and "Connection refused" in reason
    assert advice == [
        f"Put {datasets.CIFAR10.filename} into {tmp_path},",
        f"or these files into {folder}:",
        *(f"  {name}" for name in files),
        "or point data.root (or the environment variable CVAE_DATA) at a folder that has them in cifar-10-batches-py/.",
    ]


def test_home_is_understood():
    assert CIFAR10("~/x").folder == Path.home() / "x" / "cifar-10-batches-py"
