"""Which images are below a folder: names, classes, splits, and that none of them is opened."""

import os

import pytest
from conftest import config
from omegaconf import OmegaConf

from cvae.build import build_data
from cvae.data.decode import Reading
from cvae.data.folder import ImageFolder
from cvae.data.listing import drawn, list_folder
from cvae.errors import ConfigError, DataError


def touch(root, *names):
    """Files that have no content: whoever opens them as images fails."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def listed(root, test_size=0.2, seed=0, split="hash"):
    return list_folder(root, test_size, seed, split)


def split_of(listing):
    return dict(zip(listing.names, listing.splits, strict=True))


@pytest.mark.parametrize("train, test", [("Train", "Test"), ("training", "testing"), ("TRAIN", "test")])
@pytest.mark.parametrize("validation", [None, "val", "Valid", "validation"])
def test_folders_of_splits_are_used_for_what_they_are(tmp_path, train, test, validation):
    touch(tmp_path, f"{train}/cat/1.png", f"{train}/ant/2.png", f"{test}/cat/3.png")
    if validation:
        touch(tmp_path, f"{validation}/bee/4.png", f"{validation}/5.png")
    listing = listed(tmp_path)
    own = {f"{validation}/5.png": "validation", f"{validation}/bee/4.png": "validation"} if validation else {}
    assert list(split_of(listing).items()) == [
        (f"{train}/ant/2.png", "train"), (f"{train}/cat/1.png", "train"), *own.items(), (f"{test}/cat/3.png", "test"),
    ]  # fmt: skip
    assert listing.classes == (["", "ant", "bee", "cat"] if validation else ["ant", "cat"])
    assert all(listing.path(number).is_file() for number in range(len(listing.names)))


@pytest.mark.parametrize(
    "folders, said",
    [
        (["train", "Training", "test"], "has the folders Training and train: which are the train images?"),
        (["train"], "has a folder train but none called test. Add test; or set data.root="),
        (["train", "val"], "has a folder train and val but none called test. Add test; or set"),
        (["Testing"], "has a folder Testing but none called train. Add train; or set data.root="),
        (["valid"], "has a folder valid but none called train and none called test. Add train and test; or set"),
    ],
)
def test_what_is_not_clear_is_asked(tmp_path, folders, said):
    for folder in folders:
        touch(tmp_path, f"{folder}/a/1.png", f"{folder}/a/2.png")
    touch(tmp_path, "b/3.png")
    with pytest.raises(DataError) as error:
        listed(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_an_empty_folder_of_a_split_is_named(tmp_path):
    touch(tmp_path, "train/a/1.png", "test/a/2.png")
    (tmp_path / "val").mkdir()
    with pytest.raises(
        DataError, match=rf"^There are no images in {tmp_path}/val: .* Remove this folder, or put images into it$"
    ):
        listed(tmp_path)


def test_saved_runs_keep_their_reading(tmp_path):
    """Up to cvae 0.1 only train and test in small letters were splits."""
    touch(tmp_path, *(f"{folder}/{n}.png" for folder in ("Train", "Test") for n in range(5)))
    listing = listed(tmp_path, 2, split="position")
    assert listing.classes == ["Test", "Train"] and listing.splits == ["train"] * 8 + ["test"] * 2


@pytest.mark.parametrize("size", [0.3, 30])
def test_the_test_set_is_that_of_the_names(tmp_path, size):
    """Wherever the root is; not that of the places in the list, nor of another seed."""
    names = [f"{'ab'[n % 2]}/{n}.png" for n in range(100)]
    touch(tmp_path / "one", *names)
    touch(tmp_path / "two", *names)
    one, two = (listed(tmp_path / root, size) for root in ("one", "two"))
    assert split_of(one) == split_of(two) != split_of(listed(tmp_path / "one", size, seed=1))
    held = [name for name, split in split_of(one).items() if split == "test"]
    assert len(held) == 30 if size == 30 else 15 < len(held) < 45
    assert one.names == sorted(set(names) - set(held), key=lambda name: name.split("/")) + held


def test_a_new_file_moves_no_other(tmp_path):
    names = [f"a/{n}.png" for n in range(200)]
    touch(tmp_path, *names)
    before = split_of(listed(tmp_path, 0.3))
    touch(tmp_path, *(f"a/000{n}.png" for n in range(50)))
    (tmp_path / "a" / "17.png").unlink()
    after = split_of(listed(tmp_path, 0.3))
    assert {name: after[name] for name in names if name != "a/17.png"} == {
        name: split for name, split in before.items() if name != "a/17.png"
    }
    old = split_of(listed(tmp_path, 0.3, split="position"))
    assert any(old[name] != before[name] for name in old if name in before)  # what this is for


def test_a_number_takes_the_lowest_hashes():
    """Of those that a larger number takes; so a new image moves at most one."""
    chosen = [set(drawn(range(50), size, 3, "here", "hash")[1]) for size in (5, 6, 20)]
    assert [len(part) for part in chosen] == [5, 6, 20] and chosen[0] < chosen[1] < chosen[2]
    more = set(drawn(range(51), 20, 3, "here", "hash")[1])
    assert len(more & chosen[2]) >= 19


def test_the_hash_is_the_same_on_all_machines():
    assert drawn(range(20), 3, 0, "here", "hash")[1] == [6, 11, 16]
    assert drawn(["b/ü.png", "a/\udcff.png", "c.png"], 1, 0, "here", "hash")[1] == [2]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size", [0.001, 0.999])
def test_of_few_images_one_is_held_out_and_one_is_left(count, size):
    for seed in range(5):
        kept, held = drawn(range(count), size, seed, "here", "hash")
        assert sorted(kept + held) == list(range(count)) and min(len(kept), len(held)) == 1


@pytest.mark.parametrize("size", [0.5, 1, 3])
def test_none_left_for_training(size):
    with pytest.raises(
        DataError, match=r"There is 1 image in here: at least 2 are needed, as one is kept \(data.test_size\)"
    ):
        drawn(["a.png"], size, 0, "here", "hash")
    if size == 3:
        with pytest.raises(ConfigError, match="data.test_size=3: must be below the 2 images in here, so that some"):
            drawn(["a.png", "b.png"], size, 0, "here", "hash")


def test_names_of_any_signs(tmp_path):
    """Spaces, newlines, bytes that are no UTF-8."""
    names = ["a b/c d.png", "new\nline/1.png", os.fsdecode(b"caf\xe9/2.png"), "ü/3.png"]
    touch(tmp_path, *names)
    listing = listed(tmp_path, 1)
    assert sorted(listing.names) == sorted(names)
    assert all(listing.path(number).is_file() for number in range(4))
    assert set(listing.classes) == {name.split("/")[0] for name in names}


def test_the_experiment_draws_by_hash_and_a_saved_run_by_position(tmp_path):
    touch(tmp_path, *(f"a/{n}.png" for n in range(40)))
    cfg = config("data=image_folder", f"data.root={tmp_path}", "data.test_size=8")
    assert split_of(build_data(cfg).source.listing()) == split_of(listed(tmp_path, 8))
    OmegaConf.set_struct(cfg, False)
    del cfg.data["split"]
    assert split_of(build_data(cfg).source.listing()) == split_of(listed(tmp_path, 8, split="position"))
    with pytest.raises(ConfigError, match=r"^split=name: must be one of hash, position$"):
        ImageFolder(Reading((1, 8, 8)), str(tmp_path), 0.1, 0, "name")


def test_the_same_images_are_drawn_on_all_machines_by_each_version():
    """A run that goes on must find the split that it began with: by blake2b of "KEY:SEED", a zero byte and the name."""
    names = [f"{kind}/{number}.png" for kind in "ab" for number in range(5)]
    assert drawn(names, 3, 0, "here", "hash") == ([0, 1, 2, 3, 6, 7, 8], [4, 5, 9])
    assert drawn(names, 0.4, 7, "here", "hash") == ([0, 1, 4, 5, 6], [2, 3, 7, 8, 9])
    assert drawn(names, 2, 0, "here", "hash", "data.validation_size")[1] == [4, 5]
    for share, count in ((1e-9, 1), (0.999, 9)):  # at least one, and one is left
        assert len(drawn(names, share, 0, "here", "hash")[1]) == count
