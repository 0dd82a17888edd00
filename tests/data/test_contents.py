"""What a user's own data are known by, and how it is told that they have changed."""

import os
from hashlib import blake2b

import numpy as np
import pytest
import torch

from cvae.data.contents import (
    changed,
    difference,
    fingerprint,
    of_array,
    of_files,
    of_images,
    of_source,
    save_contents,
    saved_contents,
)
from cvae.data.images import Images, texts
from cvae.data.mapped import Mapped, Part
from cvae.runs.directory import Run

NAMES = ["a b.png", "new\nline.png", os.fsdecode(b"caf\xe9.png"), 'quote".png']
CONTENTS = of_files(NAMES, np.arange(4, dtype=np.uint64) + 2**63)


def test_the_fingerprint_is_that_of_names_and_content():
    again = dict(reversed(CONTENTS.items()))
    assert fingerprint(CONTENTS) == fingerprint(again) and len(fingerprint(CONTENTS)) == 16
    others = [{**CONTENTS, "a b.png": "0" * 16}, {**CONTENTS, "e.png": "0" * 16}, of_files(NAMES[1:], np.arange(3))]
    assert len({fingerprint(CONTENTS), *map(fingerprint, others)}) == 4


def test_what_changed_in_words():
    assert changed({"a": "1", "b": "1", "c": "1"}, {"a": "2", "d": "1", "b": "1"}) == (
        "1 new (d), 1 missing (c), 1 changed (a)"
    )
    many = {str(n): "1" for n in range(1000)}
    assert changed({}, many) == "1,000 new (0, 1, 10, …)" and changed(many, many) == ""


def test_parts_of_an_array():
    x = np.random.default_rng(0).integers(256, size=(2500, 4, 4)).astype(np.uint8)
    before = of_array("x", x)
    x[1700, 2, 2] ^= 1
    assert changed(before, of_array("x", x)) == "1 changed (x[1000:2000])"
    assert changed(before, of_array("x", x[:2000])) == "1 missing (x[2000:2500]), 1 changed (x[1000:2000])"
    assert changed(of_array("y", np.array(["a", "bc"])), of_array("y", np.array(["a", "bd"]))) == "1 changed (y[0:2])"
    assert changed(before, of_array("x", x.astype(float))).startswith("1 new (x float64 (4, 4)), 1 missing")


class Watched:
    """An array on disk that notes how many rows are read at once."""

    def __init__(self, x):
        self.x, self.taken = x, []

    def __len__(self):
        return len(self.x)

    def take(self, rows, axis):
        self.taken.append(len(rows))
        return self.x.take(rows, axis)


@pytest.mark.parametrize("piece", [1, 48 * 7, 48 * 999, 2**24])
def test_where_images_are_and_in_which_pieces_they_are_read_does_not_matter(monkeypatch, piece):
    """Of 2,500 images of 48 bytes the digests are those of one array in memory, written out here."""
    x = np.random.default_rng(0).integers(256, size=(2500, 3, 4, 4)).astype(np.uint8)
    y = torch.arange(2500) % 7
    monkeypatch.setattr("cvae.data.contents.PIECE", piece)
    parts = [Watched(x[::-1][:800]), Watched(x[::-1][800:])]
    on_disk = Mapped([Part(part) for part in parts], x.shape[1:], np.arange(2500)[::-1])
    blocks = {f"train x[{n}:{min(n + 1000, 2500)}]": x[n : n + 1000].tobytes() for n in (0, 1000, 2000)}
    blocks |= {f"train y[{n}:{min(n + 1000, 2500)}]": y.numpy()[n : n + 1000].tobytes() for n in (0, 1000, 2000)}
    expected = {name: blake2b(content, digest_size=8).hexdigest() for name, content in blocks.items()}
    expected |= {"train x uint8 (3, 4, 4)": "0" * 16, "train y int64 ()": "0" * 16}
    apart = torch.from_numpy(np.concatenate([x, x], 3))[..., :4]  # no row lies beside the next one
    for levels in (torch.from_numpy(x), apart, on_disk):
        assert of_images("train", Images(levels, y)) == expected
    read = parts[0].taken + parts[1].taken
    assert sum(read) == 2500 and max(read) <= max(1, min(piece // 48, 1000))


def test_images_on_disk_of_a_dataset_are_not_read_at_once():
    """As a source of somebody else gives them: in memory there is never more than a piece."""
    array = Watched(np.zeros((5000, 1, 64, 64), np.uint8))
    assert len(of_source(object(), [Images(Mapped([Part(array)], (1, 64, 64)), torch.zeros(5000))])) == 12
    assert sum(array.taken) == 5000 and max(array.taken) == 1000


def test_of_a_large_array_a_part_is_read(monkeypatch):
    monkeypatch.setattr("cvae.data.contents.READ", 100)
    x = np.zeros((20_000, 1), np.uint8)
    assert list(of_array("x", x))[1:] == ["x[0:1000]"] and len(of_array("x", x[:99])) == 2


def test_a_run_keeps_them(tmp_path):
    """Names of any signs come back; a file left out has no digest."""
    run = Run(tmp_path)
    images = Images(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]), None, texts(NAMES), ("cat", "dog"))
    splits = {"train": images.take([0, 1]), "validation": None, "test": images.take([2, 3])}
    save_contents(run, splits, CONTENTS, {"bad.png": "it is empty"})
    assert saved_contents(run) == CONTENTS
    text = run.data.read_bytes().decode("utf-8", "surrogateescape")
    assert "a b.png,train,cat,0,8000000000000000,\n" in text and "bad.png,,,,,it is empty\n" in text
    expected = fingerprint(CONTENTS)
    assert difference(run, expected, CONTENTS) is None is difference(run, None, CONTENTS) is difference(run, "x", None)
    said = "the images are not those that this run was begun with"
    fewer = {name: CONTENTS[name] for name in NAMES[1:]}
    assert difference(run, expected, fewer) == f"{said}: 1 missing (a b.png)"
    run.data.unlink()
    assert difference(run, expected, fewer) == said and saved_contents(run) == {}
    run.data.write_bytes(b"\xff,\n")
    assert difference(run, expected, fewer) == said
