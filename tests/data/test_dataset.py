"""Datasets of images and labels, of torch and of the library datasets (here a stub with what is used of it)."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import config
from PIL import Image

from cvae.build import build_data
from cvae.data.contents import fingerprint
from cvae.data.dataset import images_of
from cvae.data.decode import Reading, read_file
from cvae.errors import ConfigError, DataError, UserError

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (12, 3, 8, 8)).astype(np.uint8)


def pillow(levels):
    return Image.fromarray(levels.transpose(1, 2, 0))


KINDS = {
    "uint8 tensor": torch.from_numpy,
    "float tensor": lambda x: torch.from_numpy(x).float() / 255,
    "array": lambda x: x,
    "float64": lambda x: x / 255,
    "Pillow": pillow,
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_labels_by_value(kind):
    dataset = [(KINDS[kind](x), number % 3) for number, x in enumerate(LEVELS)]
    images = images_of(dataset, [3, 8, 8], ["a", "b", "c"])
    assert torch.equal(images.x, torch.from_numpy(LEVELS)) and images.y.tolist() == [0, 1, 2] * 4
    assert images.classes == ("a", "b", "c") and images.y.dtype == torch.int64


def test_pillows_images_are_fitted_like_files(tmp_path):
    x = pillow(RNG.integers(0, 256, (3, 20, 30)).astype(np.uint8))
    x.save(tmp_path / "a.png")
    expected, *_ = read_file(tmp_path / "a.png", Reading((1, 8, 8)))
    np.testing.assert_array_equal(images_of([(x, 0)], [1, 8, 8]).x[0], expected)


@pytest.mark.parametrize(
    ("image", "label", "said"),
    [
        (np.zeros((3, 8, 9)), 0, r"its shape is \[3, 8, 9\], not \[3, 8, 8\]"),
        (np.full((3, 8, 8), 2.0), 0, r"float64 from 2 to 2; must be uint8 or within \[0, 1\]"),
        (np.full((3, 8, 8), np.nan), 0, "from nan"),
        (LEVELS[0], -1, "the label -1 is below 0"),
        (LEVELS[0], "cat", "invalid literal"),
    ],
)
def test_what_cannot_be_used_is_named(image, label, said):
    with pytest.raises(DataError, match=f"1 of 3 images cannot be used. Number 1: .*{said}"):
        images_of([(LEVELS[0], 0), (image, label), (LEVELS[2], 1)], [3, 8, 8])


def test_the_memory_that_is_needed(monkeypatch):
    monkeypatch.setattr("cvae.data.dataset.main_memory", lambda: 191)
    with pytest.raises(DataError, match="1 images take"):
        images_of([(LEVELS[0], 0)], [3, 8, 8])


# The library datasets


class Table(list):
    """A data set of the library."""

    column_names = ("image", "label")
    features = {"label": SimpleNamespace(names=["cat", "dog"])}


@pytest.fixture
def library(monkeypatch):
    """The library, with calls noted; what it loads is in `found`."""
    rows = [{"image": pillow(x), "label": number % 2} for number, x in enumerate(LEVELS)]
    fake = ModuleType("datasets")
    fake.calls, fake.found = [], {"train": Table(rows[:10]), "test": Table(rows[10:])}
    fake.DownloadConfig = lambda local_files_only: local_files_only
    fake.load_dataset = lambda *given, **named: fake.calls.append((*given, *named.values())) or fake.found
    fake.load_from_disk = lambda folder: fake.calls.append(("disk", folder)) or fake.found
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def data_of(*words):
    return build_data(config("data=huggingface", "data.image_shape=[3,8,8]", "data.binarization=none", *words))


def test_splits_by_value(library, tmp_path):
    data = data_of(f"data.root={tmp_path}")
    data.prepare_data()
    data.setup()
    assert torch.equal(data.train.images.x, torch.from_numpy(LEVELS[:10])) and data.test.images.y.tolist() == [0, 1]
    assert data.train.images.classes == ("cat", "dog") and set(library.calls) == {(str(tmp_path),)}


@pytest.mark.parametrize("file", ["dataset_dict.json", "state.json"])
def test_what_was_saved_to_disk_without_a_test_split(library, tmp_path, file):
    (tmp_path / file).touch()
    library.found = library.found["train"]
    data = data_of(f"data.root={tmp_path}", "data.test_size=3", "data.label=null")
    data.setup()
    assert len(data.train) == 7 and len(data.test) == 3 and library.calls == [("disk", str(tmp_path))]
    assert sorted([*data.train.images.names, *data.test.images.names]) == list(range(10))
    assert data.train.images.y.tolist() == [0] * 7


@pytest.mark.parametrize("test", [True, False])
def test_a_data_set_is_known_by_its_images_and_labels(library, tmp_path, test):
    def mark(*words):
        data = data_of(f"data.root={tmp_path}", *words)
        data.setup()
        return fingerprint(data.contents)

    if not test:
        del library.found["test"]
    first = mark()
    assert first == mark() == mark("data.test_size=3", "seed=7")  # not by what is drawn of them
    assert first != mark("data.label=null")
    row = library.found["test" if test else "train"][1]
    row["label"] = 1 - row["label"]
    other = mark()
    row["image"] = pillow(255 - LEVELS[1])
    assert len({first, other, mark()}) == 3


def test_data_seed_draws_the_test_set(library, tmp_path):
    """And the run's seed does not, where data.seed is set."""
    library.found = library.found["train"]

    def drawn(*words):
        data = data_of(f"data.root={tmp_path}", "data.test_size=3", *words)
        data.setup()
        return sorted(data.test.images.names)

    assert drawn("seed=1", "data.seed=0") == drawn() == drawn("data.seed=0") != drawn("data.seed=1") == drawn("seed=1")


def test_only_download_reaches_out(library):
    data = data_of("data.name=ylecun/mnist")
    data.prepare_data()
    data.setup()
    assert library.calls == [("ylecun/mnist", False), ("ylecun/mnist", True)]  # local files only?


def test_what_is_wrong_is_said(library, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        data_of("data.root=nowhere").setup()
    with pytest.raises(ConfigError, match="data.root=None: must be a folder, or"):
        data_of()
    with pytest.raises(DataError, match="has no column picture .* it has image, label"):
        data_of(f"data.root={tmp_path}", "data.image=picture").setup()
    library.found = {"validation": library.found["test"]}
    with pytest.raises(DataError, match="has no split train; it has validation"):
        data_of(f"data.root={tmp_path}").setup()
    library.load_dataset = lambda *_, **__: 1 / 0
    with pytest.raises(DataError, match="cannot be loaded by the library datasets: division by zero"):
        data_of(f"data.root={tmp_path}").setup()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the library datasets: pip install"):
        data_of(f"data.root={tmp_path}").setup()


def test_the_library_itself(tmp_path):
    """Folders that it has saved, of one split and of two, and a file of Parquet. It reaches nothing: all is here."""
    datasets = pytest.importorskip("datasets")
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [pillow(x) for x in LEVELS], "label": [number % 2 for number in range(12)]}
    whole = datasets.Dataset.from_dict(rows, columns)
    parts = datasets.DatasetDict(train=whole.select(range(10)), test=whole.select(range(10, 12)))
    whole.save_to_disk(tmp_path / "one")
    parts.save_to_disk(tmp_path / "two")
    data = data_of(f"data.root={tmp_path}/two")
    data.prepare_data()
    data.setup()
    assert torch.equal(data.train.images.x, torch.from_numpy(LEVELS[:10])) and data.test.images.y.tolist() == [0, 1]
    assert data.train.images.classes == ("cat", "dog")
    data = data_of(f"data.root={tmp_path}/one", "data.test_size=3")
    data.setup()
    assert sorted([*data.train.images.names, *data.test.images.names]) == list(range(12)) and len(data.test) == 3
    with pytest.raises(DataError, match=r"has no column picture .*; it has image, label"):
        data_of(f"data.root={tmp_path}/two", "data.image=picture").setup()
