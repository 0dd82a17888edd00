"""A user's own images: which files, which classes, which splits."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from user_images import folder_data, folder_of, many, noise, save

from cvae.data.folder import ImageFolder
from cvae.data.module import ImageData
from cvae.errors import ConfigError, DataError


def test_train_and_test_folders(tmp_path):
    """The class is the folder's number in alphabetical order, over both parts."""
    levels = {
        "train/cat/a.png": 1,
        "train/cat/deeper/b.PNG": 2,
        "train/ant/c.png": 3,
        "test/cat/d.png": 4,
        "test/bee/e.png": 5,
    }
    for name, level in levels.items():
        save(tmp_path / name, np.full((8, 8), level, np.uint8))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image, and not called one")
    (tmp_path / "train" / "cat" / "._a.png").write_bytes(b"what some systems put beside a file")
    (tmp_path / ".thumbnails").mkdir()
    assert folder_of(tmp_path).classes() == 3
    train, test = folder_of(tmp_path).load()
    assert (train.x.shape, test.x.shape) == ((3, 1, 8, 8), (2, 1, 8, 8))
    assert train.x.dtype == test.x.dtype == torch.uint8 and train.y.dtype == test.y.dtype == torch.int64
    assert dict(zip(train.x[:, 0, 0, 0].tolist(), train.y.tolist(), strict=True)) == {3: 0, 1: 2, 2: 2}  # ant, bee, cat
    assert dict(zip(test.x[:, 0, 0, 0].tolist(), test.y.tolist(), strict=True)) == {5: 1, 4: 2}


@pytest.mark.parametrize("test_size, expected", [(0.25, 5), (7, 7), (0.001, 1)])
def test_part_of_one_set_is_kept_for_testing(tmp_path, test_size, expected):
    many(tmp_path)
    train, test = folder_of(tmp_path, test_size=test_size).load()
    assert len(test.x) == expected
    levels = torch.cat([train.x, test.x])[:, 0, 0, 0]
    assert sorted(levels.tolist()) == list(range(20))  # each image once
    assert torch.equal(torch.cat([train.y, test.y]), levels.long() % 2)


def test_the_part_is_drawn_by_seed(tmp_path):
    many(tmp_path)

    def chosen(seed):
        return folder_of(tmp_path, test_size=0.25, seed=seed).load()[1].x[:, 0, 0, 0].tolist()

    before = torch.get_rng_state()
    assert chosen(0) == chosen(0) != chosen(1)
    assert torch.equal(torch.get_rng_state(), before)  # its own generator
    assert chosen(0) != list(range(5))


def test_image_folder_passes_its_values_on(tmp_path):
    many(tmp_path)
    data = folder_data(tmp_path)
    assert isinstance(data, ImageData) and (data.seed, data.image_shape) == (3, (1, 8, 8))
    source = data.source
    assert (source.root, source.reading.shape, source.test_size, source.seed) == (tmp_path, (1, 8, 8), 0.25, 3)
    data.prepare_data()
    data.setup()
    assert torch.equal(data.test.images.x, folder_of(tmp_path, test_size=0.25, seed=3).load()[1].x)


def test_number_of_classes_is_that_of_the_folders(tmp_path, monkeypatch):
    many(tmp_path)
    assert folder_data(tmp_path).classes() == 2 and folder_data(tmp_path, num_classes=2).classes() == 2
    folder_data(tmp_path, num_classes=2).setup()
    folder_data(tmp_path).setup()
    monkeypatch.setattr(ImageFolder, "load", lambda _: pytest.fail("loaded"))
    for wrong in (1, 5):
        with pytest.raises(ConfigError) as error:
            folder_data(tmp_path, num_classes=wrong).setup()
        expected = f"data.num_classes={wrong}: must be 2, the classes in {tmp_path}, or null (they are counted)"
        assert str(error.value) == expected


def test_home_is_understood():
    assert folder_of("~/x").root == Path.home() / "x"


def test_classes_of_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        folder_data(tmp_path / "no-such").classes()


@pytest.mark.parametrize(
    "values, key",
    [
        ({"root": None}, "root"),
        ({"shape": (2, 8, 8)}, "channels"),
        ({"skip_unreadable": 1}, "skip_unreadable"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        *(({"test_size": size}, "test_size") for size in (0, -1, 0.0, 1.0, 1.5, True, "half", None)),
    ],
)
def test_folder_names_wrong_values(values, key):
    with pytest.raises(ConfigError) as error:
        folder_of(**{"root": "x"} | values)
    assert error.value.key == key


def test_drawn_part_by_value(tmp_path):
    """The files in alphabetical order, those that the seed chose and the others."""
    many(tmp_path)
    levels = [*range(0, 20, 2), *range(1, 20, 2)]  # a/00, a/02, …, b/01, b/03, …
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5)).tolist()
    train, test = folder_of(tmp_path, test_size=0.25, seed=5).load()
    assert test.x[:, 0, 0, 0].tolist() == [levels[i] for i in sorted(order[:5])]
    assert train.x[:, 0, 0, 0].tolist() == [levels[i] for i in sorted(order[5:])]


def test_images_in_no_folder_are_the_first_class(tmp_path):
    save(tmp_path / "train" / "z.png", noise(8, 8))
    save(tmp_path / "train" / "A" / "a.png", noise(8, 8))
    save(tmp_path / "test" / "A" / "a.png", noise(8, 8))
    train, test = folder_of(tmp_path).load()
    assert train.y.tolist() == [1, 0] and test.y.tolist() == [1]  # A/a.png, z.png


def test_linked_folders_are_read_and_hidden_ones_are_not(tmp_path):
    for folder in ("there", "here/a", "here/.thumbnails"):
        save(tmp_path / folder / "1.png", noise(8, 8))
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    source = folder_of(tmp_path / "here", test_size=1)
    assert source.classes() == 2 and sum(len(images.x) for images in source.load()) == 2


def test_no_folder_is_read_twice(tmp_path):
    """Links that lead in a circle, and those that double what they lead to."""
    many(tmp_path, 4)
    for link, target in (("b/loop", tmp_path), ("again", tmp_path / "a")):
        (tmp_path / link).symlink_to(target)
        with pytest.raises(DataError, match=r"^(\S+) and (\S+) are the same folder: remove the link$") as error:
            folder_of(tmp_path).download()
        one, _, two, *_ = str(error.value).split()
        assert {Path(one).resolve(), Path(two).resolve()} == {target} and str(tmp_path / link) in (one, two)
        (tmp_path / link).unlink()
    assert folder_of(tmp_path).classes() == 2


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    many(tmp_path, 4)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"^{tmp_path}/a cannot be read: Permission denied$"):
        folder_of(tmp_path).download()


def test_images_in_no_folder_have_label_0(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(8, 8))
    assert folder_of(tmp_path).classes() == 1
    train, test = folder_of(tmp_path).load()
    assert train.y.tolist() == [0, 0, 0] and test.y.tolist() == [0]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="no-such: there is no such folder"):
        folder_of(tmp_path / "no-such").download()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.txt").write_text("")
    with pytest.raises(DataError, match=r"There are no images in .*\.jpg, .*\.webp"):
        folder_of(tmp_path).download()
    save(tmp_path / "a" / "only.png", noise(8, 8))
    with pytest.raises(
        DataError, match=r"There is 1 image in .*: at least 2 are needed, as one is kept \(data.test_size\)"
    ):
        folder_of(tmp_path).download()


@pytest.mark.parametrize("present, missing", [("train", "test"), ("test", "train")])
def test_one_of_train_and_test_alone_is_not_guessed_at(tmp_path, present, missing):
    save(tmp_path / present / "a" / "1.png", noise(8, 8))
    with pytest.raises(
        DataError, match=rf"a folder {present} but none called {missing}\. Add {missing}; or set data.root="
    ):
        folder_of(tmp_path).download()


@pytest.mark.parametrize("present, empty", [("train", "test"), ("test", "train")])
def test_empty_part_is_named(tmp_path, present, empty):
    save(tmp_path / present / "a" / "1.png", noise(8, 8))
    (tmp_path / empty).mkdir()
    with pytest.raises(DataError, match=f"There are no images in .*{empty}:"):
        folder_of(tmp_path).download()


def test_names_classes_and_a_validation_folder(tmp_path):
    """By value: which image has which name, and where."""
    for level, name in enumerate(("train/cat/a.png", "train/ant/b.png", "val/ant/c.png", "Test/bee/d.png")):
        save(tmp_path / name, np.full((8, 8), level, np.uint8))
    data = folder_data(tmp_path, split="hash")
    data.setup()
    found = {
        split: list(zip(images.names, images.x[:, 0, 0, 0].tolist(), images.y.tolist(), strict=True))
        for split in ("train", "validation", "test")
        if (images := getattr(data, split).images)
    }
    assert found == {
        "train": [("train/ant/b.png", 1, 0), ("train/cat/a.png", 0, 2)],
        "validation": [("val/ant/c.png", 2, 0)],
        "test": [("Test/bee/d.png", 3, 1)],
    }
    assert data.test.images.classes == ("ant", "bee", "cat")
    with pytest.raises(ConfigError, match=r"data.validation_size=1: must be 0: \S+ has validation images of its own"):
        folder_data(tmp_path, split="hash", validation_size=1).setup()


def test_validation_images_are_drawn_by_their_names(tmp_path):
    def chosen():
        data = folder_data(tmp_path, split="hash", validation_size=0.3)
        data.setup()
        return {split: set(getattr(data, split).images.names) for split in ("train", "validation", "test")}

    many(tmp_path, 60)
    before = chosen()
    assert sum(map(len, before.values())) == 60 and 5 < len(before["validation"]) < 25
    save(tmp_path / "a" / "000.png", noise(8, 8))
    after = chosen()
    assert all(before[split] == after[split] - {"a/000.png"} for split in before)
