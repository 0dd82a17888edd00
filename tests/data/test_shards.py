"""A folder of several .npy files: one set of images, in the order of the files' names, mapped where it is large."""

import tracemalloc

import numpy as np
import pytest
import torch
from conftest import config
from tiny import QUIET, tiny

from cvae.build import build_data
from cvae.data import npz as module
from cvae.data.contents import changed, fingerprint
from cvae.data.images import joined
from cvae.data.mapped import Mapped
from cvae.data.npz import Npz, shards
from cvae.data.survey import survey
from cvae.errors import DataError
from cvae.training.train import train

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 8, 6, 3)).astype(np.uint8)
Y = np.arange(30) % 4
CUTS = {"b": slice(12, 20), "a": slice(0, 12), "c": slice(20, 30)}  # not written in their order


def write(folder, labels=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in CUTS.items():
        np.save(folder / f"{name}.npy", X[rows])
        if labels:
            np.save(folder / f"{name}_y.npy", Y[rows])
    return folder


def source(root, **options):
    return Npz(str(root), **{"test_size": 0.25, "seed": 0, "split": "hash"} | options)


@pytest.mark.parametrize("disk", [False, True])
def test_they_are_one_array(tmp_path, monkeypatch, disk):
    """With the split, the labels and the levels of the same images in one file."""
    np.save(tmp_path / "one.npy", X)
    np.save(tmp_path / "one_y.npy", Y)
    write(tmp_path / "parts")
    monkeypatch.setattr(module, "IN_MEMORY", 0 if disk else 10**6)
    whole, parts = source(tmp_path / "one.npy"), source(tmp_path / "parts")
    assert parts.image_shape() == (3, 8, 6) and parts.classes() == 4
    for one, two in zip(whole.load(), parts.load(), strict=True):
        assert isinstance(two.x, Mapped if disk else torch.Tensor)
        assert torch.equal(one.x[slice(None)], two.x[slice(None)]) and torch.equal(one.y, two.y)
        assert one.names.tolist() == two.names.tolist() and one.classes == two.classes


def test_files_are_taken_in_the_order_of_their_names_without_those_of_labels(tmp_path):
    write(tmp_path)
    np.save(tmp_path / ".hidden.npy", X)
    np.save(tmp_path / "d_y.npy", X)  # of no d.npy: images
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "folder.npy").mkdir()
    assert [file.name for file in shards(tmp_path)] == ["a.npy", "b.npy", "c.npy", "d_y.npy"]


def test_folders_for_training_and_for_test(tmp_path):
    write(tmp_path / "train")
    (tmp_path / "test").mkdir()
    np.save(tmp_path / "test" / "a.npy", X[:5])
    np.save(tmp_path / "test" / "a_y.npy", Y[:5])
    own = source(tmp_path)
    train, test = own.load()
    assert torch.equal(train.x, torch.from_numpy(X.transpose(0, 3, 1, 2))) and torch.equal(test.x, train.x[:5])
    assert train.y.tolist() == Y.tolist() and test.y.tolist() == Y[:5].tolist()
    assert {name.split(" ")[0].split("[")[0] for name in own.contents} >= {"train/a.npy", "test/a.npy"}
    for file in (tmp_path / "test").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="its folders train and test must both have .npy files"):
        own.load()
    (tmp_path / "test").rmdir()
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(DataError, match="the folder has no train.npz and no test.npz, nor such .npy files$"):
        own.load()  # half a pair is no set: a test set may have been forgotten


@pytest.mark.parametrize(
    ("file", "array", "said"),
    [
        (
            "b",
            X[:8, :7],
            r"b.npy: x is \(8, 7, 6, 3\), and in .*a.npy \(12, 8, 6, 3\): images of one set have the same",
        ),
        ("c", X[:10, :, :, 0], r"c.npy: x is \(10, 8, 6\), and in .*a.npy \(12, 8, 6, 3\): images of one set"),
        ("b_y", None, "b.npy has no labels, and .*a.npy numbers as labels: in one set it must be the same"),
        ("c_y", np.array(["x"] * 10), "c.npy has texts as labels, and .*a.npy numbers as labels: in one set"),
        ("c_y", np.arange(9), r"c.npy: y is int64 \(9,\); it must be integers or texts \(10,\)"),
        ("b_y", np.arange(8) - 1, "b.npy: y has the label -1"),
        ("b", X[:8].astype(np.float32), r"b.npy: x is float32 and goes from 0 to 255"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, file, array, said):
    write(tmp_path)
    if array is None:
        (tmp_path / f"{file}.npy").unlink()
    else:
        np.save(tmp_path / f"{file}.npy", array)
    with pytest.raises(DataError, match=said):
        source(tmp_path).load()


def test_a_file_of_another_type_becomes_levels_too(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "b.npy", X[12:20].astype(np.float32) / 255)
    train, test = source(tmp_path).load()
    assert torch.equal(torch.cat([train.x, test.x])[np.argsort([*train.names, *test.names])],
                       torch.from_numpy(X.transpose(0, 3, 1, 2)))  # fmt: skip


def test_nothing_is_copied_into_memory(tmp_path, monkeypatch):
    """Files of which each alone would be read: 4 times 1 MB, of which a batch is."""
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.full((1000, 32, 32), number, np.uint8) * 60)
    monkeypatch.setattr(module, "IN_MEMORY", 2 * 10**6)
    tracemalloc.start()
    train, test = source(tmp_path).load()
    batch = train.x[[0, 999, 2000, len(train.x) - 1]]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(train.x, Mapped) and isinstance(test.x, Mapped) and peak < 10**6
    assert sorted({*batch[:, 0, 0, 0].tolist()} - {60, 120}) == [0, 180]


def test_what_must_be_read_is_counted_together(tmp_path, monkeypatch):
    """Arrays in Fortran's order have no rows on disk."""
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(X))
    each = 2 * X.size + 30 * 16
    monkeypatch.setattr(module, "main_memory", lambda: 2 * each)
    source(tmp_path).load()
    monkeypatch.setattr(module, "main_memory", lambda: 2 * each - 1)
    with pytest.raises(DataError, match=r"b.npy: x is uint8 \(30, 8, 6, 3\), which takes 0.0 GiB to read"):
        source(tmp_path).load()


def test_what_changed_is_said_by_file(tmp_path):
    write(tmp_path)
    own = source(tmp_path)
    own.load()
    before = dict(own.contents)
    np.save(tmp_path / "b.npy", 255 - X[12:20])
    again = source(tmp_path)
    again.load()
    assert changed(before, again.contents) == "1 changed (b.npy x[0:8])"
    assert fingerprint(before) != fingerprint(again.contents)


def test_digests_of_many_files_read_no_more_than_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.data.contents.BLOCK", 2)
    monkeypatch.setattr("cvae.data.contents.READ", X.nbytes // 3)
    write(tmp_path, labels=False)
    own = source(tmp_path)
    own.load()
    blocks = [name for name in own.contents if name.startswith(("a.npy x[", "b.npy x[", "c.npy x["))]
    assert blocks == ["a.npy x[0:2]", "a.npy x[6:8]", "b.npy x[0:2]", "b.npy x[6:8]", "c.npy x[0:2]", "c.npy x[6:8]"]


def test_levels_on_disk_and_in_memory_are_joined():
    here, there = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.ones(1, 3, 2, 2, dtype=torch.uint8)
    assert joined(here) is here and torch.equal(joined(here, there), torch.cat([here, there]))
    found = joined(here, Mapped.of(there).take([0, 0]), here)
    assert torch.equal(found[slice(None)], torch.cat([here, there, there, here]))


def test_a_look_and_a_run(tmp_path, monkeypatch):
    write(tmp_path / "parts")
    lines, words, _ = survey(tmp_path / "parts", lambda items, *_: items)
    assert "images: 30" in lines[0] and words[:2] == ["data=npz", f"data.root={tmp_path / 'parts'}"]
    cfg = tiny(tmp_path / "run", *QUIET)
    cfg.data = config("data=npz", f"data.root={tmp_path / 'parts'}", "data.batch_size=4").data
    cfg.data.seed = 0
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    train(cfg)
    assert cfg.data.image_shape == [3, 8, 6] and build_data(cfg).image_shape == (3, 8, 6)
