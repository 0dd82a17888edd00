"""Sets in idx files: known by their content, packed or not; small files in the real format stand in for them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NOWHERE, assert_is, below, md5, serving, sha256
from torchvision import datasets

from cvae.data.idx_files import FILES, LARGEST, MD5, SHA256, IdxFiles, read_idx, write_idx
from cvae.errors import ConfigError, DataError

SETS = ("MNIST", "FashionMNIST", "KMNIST")
CHECKED_UNPACKED = ("MNIST", "FashionMNIST")


def idx(array):
    """LeCun's format: 0, 0, 8 (unsigned bytes), rank, big-endian sizes, values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


RNG = np.random.default_rng(0)
ARRAYS = [RNG.integers(256, size=shape, dtype=np.uint8) for shape in ((6, 28, 28), 6, (3, 28, 28), 3)]
UNPACKED = {name: idx(array) for name, array in zip(FILES, ARRAYS, strict=True)}
ARCHIVES = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in UNPACKED.items()}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The small files are the real ones: their sums in place of those, and no mirror has them."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for dataset in SETS:
        known = getattr(datasets, dataset)
        monkeypatch.setattr(known, "resources", [(name, md5(content)) for name, content in ARCHIVES.items()])
        monkeypatch.setattr(known, "mirrors", [NOWHERE])
        monkeypatch.setitem(SHA256, dataset, {name: sha256(content) for name, content in ARCHIVES.items()})
        if dataset in CHECKED_UNPACKED:
            monkeypatch.setitem(MD5, dataset, {name: md5(content) for name, content in UNPACKED.items()})


def put(root, dataset, files):
    folder = root / dataset / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def assert_loads(source):
    train_x, train_y, test_x, test_y = ARRAYS
    source.download()  # fetches nothing
    train, test = source.load()
    assert_is(train, train_x[:, None], train_y)
    assert_is(test, test_x[:, None], test_y)


@pytest.mark.parametrize("dataset", SETS)
def test_archives(tmp_path, dataset):
    folder = put(tmp_path, dataset, ARCHIVES)
    assert_loads(IdxFiles(tmp_path, dataset))
    put(tmp_path, dataset, UNPACKED)  # torchvision reads the same from what it unpacks
    theirs, ours = getattr(datasets, dataset), IdxFiles(tmp_path, dataset).load()
    assert torch.equal(theirs(tmp_path, train=True).data, ours[0].x[:, 0])
    assert torch.equal(theirs(tmp_path, train=False).targets, ours[1].y)
    assert below(folder) == sorted([*UNPACKED, *ARCHIVES])


@pytest.mark.parametrize("dataset", CHECKED_UNPACKED)
def test_unpacked_files(tmp_path, dataset):
    put(tmp_path, dataset, UNPACKED)
    assert_loads(IdxFiles(tmp_path, dataset))


@pytest.mark.parametrize("dataset", CHECKED_UNPACKED)
def test_archives_that_were_packed_again(tmp_path, dataset):
    """As Debian does with Fashion-MNIST."""
    again = {f"{name}.gz": gzip.compress(content, 1, mtime=1) for name, content in UNPACKED.items()}
    assert again != ARCHIVES
    put(tmp_path, dataset, again)
    assert_loads(IdxFiles(tmp_path, dataset))


def test_some_packed_some_not(tmp_path):
    files = [*UNPACKED.items()][:1] + [*ARCHIVES.items()][1:]
    put(tmp_path, "FashionMNIST", dict(files))
    assert_loads(IdxFiles(tmp_path, "FashionMNIST"))


def altered(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def truncated(content):
    return content[:-20]


def emptied(content):
    return b""


@pytest.mark.parametrize("harm", [altered, truncated, emptied])
@pytest.mark.parametrize("name", FILES)
def test_damaged_unpacked_file_is_named(tmp_path, name, harm):
    folder = put(tmp_path, "FashionMNIST", UNPACKED | ARCHIVES)  # whole archives beside it do not hide it
    (folder / name).write_bytes(harm(UNPACKED[name]))
    with pytest.raises(DataError, match=f"{name} is damaged .its md5 is"):
        IdxFiles(tmp_path, "FashionMNIST").load()


@pytest.mark.parametrize("dataset", SETS)
@pytest.mark.parametrize("harm", [altered, truncated, emptied])
def test_damaged_archive_is_named(tmp_path, dataset, harm):
    name = f"{FILES[2]}.gz"
    put(tmp_path, dataset, ARCHIVES | {name: harm(ARCHIVES[name])})
    with pytest.raises(DataError, match=f"{name} is damaged"):
        IdxFiles(tmp_path, dataset).load()


@pytest.mark.parametrize("dataset", SETS)
def test_whole_archive_of_another_content_is_named(tmp_path, dataset):
    name = f"{FILES[0]}.gz"
    put(tmp_path, dataset, ARCHIVES | {name: gzip.compress(altered(UNPACKED[FILES[0]]))})
    with pytest.raises(DataError, match=f"{name} is damaged .its (md5|sha256) is"):
        IdxFiles(tmp_path, dataset).load()


def test_archive_damaged_inside_is_named(tmp_path):
    """Compressed bytes that zlib itself cannot read."""
    name = f"{FILES[0]}.gz"
    content = ARCHIVES[name]
    put(tmp_path, "MNIST", ARCHIVES | {name: content[:10] + b"\xff" * 50 + content[60:]})
    with pytest.raises(DataError, match=f"{name} is damaged .*invalid block type"):
        IdxFiles(tmp_path, "MNIST").load()


def test_an_archive_is_unpacked_no_further_than_the_largest_file(tmp_path, monkeypatch):
    """A small archive can unpack to gigabytes; then it is none of ours."""
    put(tmp_path, "MNIST", ARCHIVES | {f"{FILES[1]}.gz": gzip.compress(b"a" * 10**6)})
    monkeypatch.setattr("cvae.data.idx_files.LARGEST", len(UNPACKED[FILES[0]]))
    with pytest.raises(DataError, match=f"{FILES[1]}.gz is damaged .its md5 is {md5(b'a' * len(UNPACKED[FILES[0]]))}"):
        IdxFiles(tmp_path, "MNIST").load()
    put(tmp_path, "MNIST", ARCHIVES)
    assert_loads(IdxFiles(tmp_path, "MNIST"))


def test_the_largest_file_of_the_real_sets_is_unpacked_whole():
    assert 4 + 3 * 4 + 60_000 * 28 * 28 < LARGEST < 10**8


def test_the_sums_are_those_of_the_files(tmp_path, monkeypatch):
    """Without the stand-in sums the small files are not Fashion-MNIST."""
    put(tmp_path, "FashionMNIST", ARCHIVES)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged"):
        IdxFiles(tmp_path, "FashionMNIST").load()


def test_the_known_sums(monkeypatch):
    """Their own sum, taken when the genuine files had them: a changed digit would refuse everybody's files."""
    monkeypatch.undo()
    found = {dataset: md5("".join(sums[name] for name in FILES if sums).encode()) for dataset, sums in MD5.items()}
    assert found == {
        "MNIST": "f85aa589f05f099f408a1805d8a18637",
        "FashionMNIST": "4472cc9bf98ecb6e389ca9544c9d9233",
        "KMNIST": md5(b""),
    }
    archives = {name: md5("".join(sums[f"{file}.gz"] for file in FILES).encode()) for name, sums in SHA256.items()}
    assert archives == {
        "MNIST": "d26432a049d3d1a72e5a94537a595a3a",
        "FashionMNIST": "a70c2a205859844e092088e3fbb73590",
        "KMNIST": "d9c6fdaab04da83b3ec9dcfa8a4589ab",
    }


@pytest.mark.parametrize("dataset", SETS)
def test_a_mirror_with_another_content_of_the_same_md5_is_refused(tmp_path, dataset, monkeypatch):
    """As if somebody had made one."""
    others = {name: content + b"!" for name, content in ARCHIVES.items()}
    mirror = put(tmp_path / "mirror", dataset, others)
    known = [(name, md5(content)) for name, content in others.items()]
    monkeypatch.setattr(getattr(datasets, dataset), "resources", known)
    with serving(mirror) as address, pytest.raises(DataError, match="its sha256 is"):
        monkeypatch.setattr(getattr(datasets, dataset), "mirrors", [address])
        IdxFiles(tmp_path / "data", dataset).download()
    assert below(tmp_path / "data" / dataset / "raw") == []


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(tmp_path, name):
    folder = put(tmp_path, "MNIST", UNPACKED)
    (folder / name).unlink()
    with pytest.raises(DataError) as error:
        IdxFiles(tmp_path, "MNIST").load()
    assert str(error.value) == f"{folder / name} is missing"


def test_unpacked_file_without_its_archive_where_only_the_archive_is_known(tmp_path):
    folder = put(tmp_path, "KMNIST", UNPACKED)
    with pytest.raises(DataError) as error:
        IdxFiles(tmp_path, "KMNIST").load()
    path = folder / FILES[0]
    assert str(error.value) == (
        f"{path}.gz is missing, and {path} cannot be checked: only the sum of the archive is known"
    )
    with pytest.raises(DataError) as error:
        IdxFiles(tmp_path, "KMNIST").download()
    lines = str(error.value).splitlines()
    assert f"Put these archives, not unpacked, into {folder}:" in lines
    assert [line.strip() for line in lines if line.endswith("ubyte.gz")] == [*ARCHIVES]


@pytest.mark.parametrize("dataset", SETS)
def test_archives_are_fetched_from_the_mirror_that_has_them(tmp_path, dataset, monkeypatch):
    mirror = put(tmp_path / "mirror", dataset, ARCHIVES)
    with serving(mirror) as address:
        monkeypatch.setattr(getattr(datasets, dataset), "mirrors", [NOWHERE, address])
        source = IdxFiles(tmp_path / "data", dataset, more_ways=[("another way", never)])
        source.download()
    assert source.folder == tmp_path / "data" / dataset / "raw" and below(source.folder) == sorted(ARCHIVES)
    assert_loads(source)


def never(folder):
    pytest.fail("fetched")


def test_only_missing_files_are_fetched(tmp_path, monkeypatch):
    name = f"{FILES[1]}.gz"
    mirror = put(tmp_path / "mirror", "FashionMNIST", {name: ARCHIVES[name]})
    put(tmp_path, "FashionMNIST", {other: content for other, content in ARCHIVES.items() if other != name})
    with serving(mirror) as address:
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
        IdxFiles(tmp_path, "FashionMNIST").download()
    assert_loads(IdxFiles(tmp_path, "FashionMNIST"))


def test_more_ways_come_after_the_mirrors(tmp_path):
    def all_four(folder):
        return [*put(folder, "unpacked", UNPACKED).iterdir()]

    source = IdxFiles(tmp_path, "MNIST", more_ways=[("another way", all_four)])
    source.download()
    assert below(source.folder) == sorted(UNPACKED)
    assert_loads(source)


@pytest.mark.parametrize("harm", [altered, truncated])
def test_altered_download_leaves_nothing(tmp_path, monkeypatch, harm):
    mirror = put(tmp_path / "mirror", "FashionMNIST", {name: harm(content) for name, content in ARCHIVES.items()})
    with serving(mirror) as address, pytest.raises(DataError, match="corrupted"):
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
        source = IdxFiles(tmp_path / "data", "FashionMNIST")
        source.download()
    assert below(source.folder) == []


def test_where_nothing_can_be_fetched_the_error_says_what_to_do(tmp_path):
    source = IdxFiles(tmp_path, "FashionMNIST")
    with pytest.raises(DataError) as error:
        source.download()
    first, reason, *rest = str(error.value).splitlines()
    assert first == f"FashionMNIST is not in {source.folder} and could not be fetched:"
    assert reason.startswith(f"  {NOWHERE}{FILES[0]}.gz: ") and "Connection refused" in reason
    assert rest == [
        f"Put these files (unpacked, or as .gz) into {source.folder}:",
        *(f"  {name}" for name in FILES),
        "or point data.root (or the environment variable CVAE_DATA) at a folder that has them in FashionMNIST/raw/.",
    ]


def test_home_is_understood_and_other_sets_are_refused():
    assert IdxFiles("~/x", "KMNIST").folder == Path.home() / "x" / "KMNIST" / "raw"
    for dataset in ("EMNIST", "mnist", None, ["MNIST"]):
        with pytest.raises(ConfigError, match=r"source.dataset=.*: must be one of MNIST, FashionMNIST, KMNIST"):
            IdxFiles("x", dataset)


@pytest.mark.parametrize("shape", [(3, 5, 7), (300,), (2, 300)])
def test_idx_round_trip(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape)
    write_idx(tmp_path / "idx", array)
    content = (tmp_path / "idx").read_bytes()
    assert content == idx(array.astype(np.uint8))
    read = read_idx(content)
    assert read.dtype == torch.uint8 and read.shape == shape
    np.testing.assert_array_equal(read, array)
    read[0] = 255 - read[0]  # a tensor of its own: the bytes stay
    assert content == idx(array.astype(np.uint8))
