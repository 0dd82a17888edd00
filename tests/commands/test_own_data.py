"""Commands on a user's own data: classes by their names, and files that are decoded already."""

import os
import shutil

import numpy as np
import pytest
import torch
from conftest import config
from PIL import Image
from tiny import QUIET, TINY, tiny

from cvae.build import build_data, load_data
from cvae.data import cache, workers
from cvae.data.contents import saved_classes
from cvae.runs.directory import Run
from cvae.training.train import train

RNG = np.random.default_rng(0)


def images(folder, count=12):
    for number in range(count):
        place = folder / ("cat", "dog", "eel")[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8)).astype(np.uint8)).save(place)
    return folder


def run_on(root, folder, *words):
    base = [word for word in TINY if not word.startswith(("data=", "data.source", "data.image_shape"))]
    own = ["data=image_folder", f"data.root={root}", "data.channels=1", "data.image_size=8", "data.binarization=none"]
    train(config(*base, *own, *QUIET, "likelihood=discretized_logistic", f"run_dir={folder}", *words))
    return folder


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return run_on(images(folder / "images"), folder / "run", "conditional=true")


def labels(call, run, word, tmp_path):
    code, said = call("sample", run, "--num", 4, "--class", word, "--out", tmp_path / "s.npz")
    return np.load(tmp_path / "s.npz")["y"].tolist() if code == 0 else said


def test_a_class_by_its_name_or_number(conditional, call, tmp_path):
    assert saved_classes(Run(conditional)) == {"cat": 0, "dog": 1, "eel": 2}
    assert labels(call, conditional, "dog", tmp_path) == labels(call, conditional, "1", tmp_path) == [1] * 4
    said = labels(call, conditional, "cow", tmp_path)
    assert "--class=cow: must be from 0 to 2, or a name: cat, dog, eel" in said
    assert "--class=3: must be from 0 to 2" in labels(call, conditional, "3", tmp_path)
    data = load_data(Run(conditional))
    file = data.root + "/eel/2.png"
    by_name, by_number = (tmp_path / f"{word}.npz" for word in ("eel", "2"))
    for out in (by_name, by_number):
        assert call("encode", conditional, file, "--class", out.stem, "--out", out)[0] == 0
    assert np.array_equal(np.load(by_name)["latents"], np.load(by_number)["latents"])


def arrays(call, command, run, *words, out):
    """The arrays that a command writes, or what it says where it fails."""
    code, said = call(command, run, *words, "--out", out)
    return dict(np.load(out)) if code == 0 else said


@pytest.fixture
def mixed(tmp_path):
    """Images in sub-folders of two of the three classes, and the same ones in a folder for each of these."""
    for number, kind in enumerate(("eel", "cat", "eel", "cat", "cat")):
        x = Image.fromarray(RNG.integers(0, 256, (8, 8)).astype(np.uint8))
        for place in (tmp_path / "mixed" / kind, tmp_path / "apart" / kind / "one"):
            place.mkdir(parents=True, exist_ok=True)
            x.save(place.parent / f"{number}.png" if place.name == "one" else place / f"{number}.png")
    return tmp_path / "mixed"


def test_sub_folders_say_the_class(conditional, call, tmp_path, mixed):
    found = arrays(call, "encode", conditional, mixed, out=tmp_path / "all.npz")
    assert found["labels"].tolist() == [0, 0, 0, 2, 2] and found["classes"].tolist() == ["cat"] * 3 + ["eel"] * 2
    drawn = arrays(call, "reconstruct", conditional, mixed / "..", "--class", "eel", out=tmp_path / "x.npz")
    assert len(drawn["x"]) == 10  # what --class says holds for all, whatever their folders are called
    for kind, rows in (("cat", slice(0, 3)), ("eel", slice(3, 5))):
        words = [tmp_path / "apart" / kind, "--class", kind]
        alone = arrays(call, "encode", conditional, *words, out=tmp_path / f"{kind}.npz")
        np.testing.assert_allclose(alone["latents"], found["latents"][rows], rtol=0, atol=1e-6)
    same = [arrays(call, "encode", conditional, mixed, "--class", kind, out=tmp_path / "o.npz") for kind in ("0", "2")]
    assert same[0]["labels"].tolist() == [0] * 5
    assert not np.allclose(same[0]["latents"], same[1]["latents"], rtol=0, atol=1e-6)  # the class matters


def test_sub_folders_say_the_class_of_reconstructions(conditional, call, tmp_path, mixed):
    (mixed / "eel").rename(tmp_path / "eel")  # so that all are cats, with the noise of a folder of cats
    found = arrays(call, "reconstruct", conditional, mixed, out=tmp_path / "x.npz")
    by_hand = [
        arrays(call, "reconstruct", conditional, mixed / "cat", "--class", k, out=tmp_path / "y.npz") for k in "01"
    ]
    np.testing.assert_array_equal(found["x"], by_hand[0]["x"])
    assert not np.array_equal(found["x"], by_hand[1]["x"])


def test_images_beside_the_folders_of_splits_are_encoded_too(conditional, call, tmp_path, mixed):
    """And a folder of a split without images, or one whose like is missing, keeps nothing from being encoded."""
    root = mixed.parent / "root"
    for split in ("train", "test"):
        shutil.copytree(mixed, root / split)
    shutil.copytree(mixed / "eel", root / "eel")
    (root / "val").mkdir()
    found = arrays(call, "encode", conditional, root, out=tmp_path / "all.npz")
    assert found["names"][:2].tolist() == ["eel/0.png", "eel/2.png"] and len(found["names"]) == 12
    assert found["classes"].tolist() == ["eel"] * 2 + (["cat"] * 3 + ["eel"] * 2) * 2


def test_classes_below_the_folders_of_splits(conditional, call, tmp_path, mixed):
    (tmp_path / "split").mkdir()
    mixed.rename(tmp_path / "split" / "Train")
    (tmp_path / "apart").rename(tmp_path / "split" / "test")
    found = arrays(call, "encode", conditional, tmp_path / "split", out=tmp_path / "all.npz")
    assert found["labels"].tolist() == [0, 0, 0, 2, 2] * 2 and found["names"][[0, 5]].tolist() == [
        "Train/cat/1.png", "test/cat/1.png",
    ]  # fmt: skip


def test_a_sub_folder_that_is_no_class(conditional, call, tmp_path, mixed):
    for name, named in (("co\nw", "co w"), ("0", "0")):
        (mixed / "eel").rename(mixed / name)
        said = arrays(call, "encode", conditional, mixed, out=tmp_path / "x.npz")
        assert f"this run has no class called {named}: its classes are cat, dog, eel" in " ".join(said.split())
        (mixed / name).rename(mixed / "eel")
    Image.new("L", (8, 8)).save(mixed / "beside.png")
    assert "no class called (no folder): its" in arrays(call, "encode", conditional, mixed, out=tmp_path / "x.npz")
    assert "--class=None: must be" in arrays(call, "encode", conditional, mixed / "eel", out=tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_sub_folders_of_numbers_where_classes_have_no_names(call, tmp_path, mixed):
    train(tiny(tmp_path / "run", *QUIET, "conditional=true"))
    said = arrays(call, "encode", tmp_path / "run", mixed, out=tmp_path / "x.npz")
    assert "no class called cat, eel: its classes are 0, 1, 2, …" in said
    (mixed / "cat").rename(mixed / "1")
    (mixed / "eel").rename(mixed / "0")
    assert arrays(call, "encode", tmp_path / "run", mixed, out=tmp_path / "x.npz")["labels"].tolist() == [0, 0, 1, 1, 1]


def test_labels_that_are_numbers_are_called_as_they_are(call, tmp_path):
    """Labels 1 and 2 are numbered 0 and 1; tables and legends say 1 and 2, and so does --class."""
    np.savez(tmp_path / "a.npz", x=RNG.integers(0, 256, (12, 8, 8)).astype(np.uint8), y=np.arange(12) % 2 + 1)
    cfg = tiny(tmp_path / "run", *QUIET, "conditional=true")
    cfg.data = config("data=npz", f"data.root={tmp_path / 'a.npz'}", "data.batch_size=4", "data.seed=0").data
    train(cfg)
    assert labels(call, tmp_path / "run", "1", tmp_path) == [0] * 4
    assert labels(call, tmp_path / "run", "2", tmp_path) == [1] * 4
    assert labels(call, tmp_path / "run", "0", tmp_path) == [0] * 4  # no name, so a number


def test_without_names_there_are_numbers(conditional, call, tmp_path):
    Run(conditional).data.rename(tmp_path / "data.csv")
    try:
        assert "--class=dog: must be from 0 to 2\n" in labels(call, conditional, "dog", tmp_path)
        Run(conditional).data.write_text("name,split,class,digest,left out\n0.png,train,dog,12,\n")  # an earlier one
        assert "--class=dog: must be from 0 to 2\n" in labels(call, conditional, "dog", tmp_path)
        Run(conditional).data.write_text("name,split,class,label,digest\n0.png,train,dog,7,12\n")  # of another model
        assert "--class=dog: must be from 0 to 2\n" in labels(call, conditional, "dog", tmp_path)
    finally:
        (tmp_path / "data.csv").rename(Run(conditional).data)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    seen = []
    blocks = workers.decoded_blocks

    def watched(files, reading):
        seen.extend(os.path.basename(file) for file in files)
        return blocks(files, reading)

    monkeypatch.setattr(cache, "decoded_blocks", watched)
    return seen


def test_files_that_are_kept_are_not_decoded_again(call, tmp_path, decoded, monkeypatch):
    root = images(tmp_path / "images")
    run = run_on(root, tmp_path / "run", f"data.cache={tmp_path / 'kept'}")
    assert len(decoded) == 12
    assert call("encode", run, root, "--out", tmp_path / "all.npz")[0] == 0 and len(decoded) == 12
    for number, words in enumerate((["--data-root", root], [root / "dog"], [root / "dog" / "1.png", root / "cat"])):
        words = ["--split", "train", *words] if number == 0 else words
        assert call("encode", run, *words, "--out", tmp_path / f"{number}.npz")[0] == 0 and len(decoded) == 12
    monkeypatch.chdir(root)
    assert call("interpolate", run, "dog/1.png", "cat/0.png", "--out", tmp_path / "i.png")[0] == 0
    assert len(decoded) == 12
    rows = dict(zip(*(np.load(tmp_path / "all.npz")[name] for name in ("names", "latents")), strict=True))
    monkeypatch.setattr(cache.Cache, "read", lambda _: cache.Index([], np.zeros(0, cache.LINE)))  # without what is kept
    assert call("encode", run, root / "dog", "--out", tmp_path / "dog.npz")[0] == 0 and len(decoded) == 16
    found = np.load(tmp_path / "dog.npz")
    np.testing.assert_array_equal([rows[f"dog/{name}"] for name in found["names"]], found["latents"])


def test_files_that_changed_or_lie_elsewhere_are_decoded(call, tmp_path, decoded):
    root = images(tmp_path / "images")
    run = run_on(root, tmp_path / "run", f"data.cache={tmp_path / 'kept'}")
    Image.new("L", (8, 8), 9).save(root / "dog" / "1.png")
    other = images(tmp_path / "images2", 3)
    del decoded[:]
    assert call("encode", run, root, other, "--out", tmp_path / "all.npz")[0] == 0
    assert sorted(decoded) == ["0.png", "1.png", "1.png", "2.png"]
    assert not (other / ".cvae_cache").exists()


def test_the_index_is_read_once_for_all_images(tmp_path, monkeypatch):
    root = images(tmp_path / "images")
    run = run_on(root, tmp_path / "run", f"data.cache={tmp_path / 'kept'}")
    calls, read = [], cache.Cache.read
    monkeypatch.setattr(cache.Cache, "read", lambda self: calls.append(1) or read(self))
    data = load_data(Run(run, trust=True))
    assert len(calls) == 2  # whether something is new, and what is there
    assert sum(len(split) for split in (data.train, data.test)) == 12


def test_images_drawn_in_blocks_are_those_drawn_at_once(tmp_path):
    cfg = tiny(tmp_path, "data.binarization=stochastic")
    data, levels = build_data(cfg), torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    noise = torch.Generator().manual_seed(data.seed)
    blocks = [data.as_tested(block, noise) for block in levels.split(3)]
    assert torch.equal(torch.cat(blocks), data.as_tested(levels))


def test_a_folder_whose_name_has_a_dot(conditional, call, tmp_path):
    (tmp_path / "v1.2").mkdir()
    for out in (tmp_path / "v1.2", f"{tmp_path}/new.one/"):
        code, said = call("sample", conditional, "--num", 3, "--out", out)
        assert code == 0, said
        assert len(list((tmp_path / out).glob("*.png"))) == 3
    (tmp_path / "a.png").mkdir()
    for out in (tmp_path / "a.png", tmp_path / "x.gif"):
        code, said = call("sample", conditional, "--num", 3, "--out", out)
        assert code == 1 and "must be the name of a file that ends in .png or .npz, or a folder" in said
    assert call("encode", conditional, "--split", "test", "--out", tmp_path / "v1.2")[0] == 1


def test_files_are_encoded_alike_in_blocks_of_any_size(call, tmp_path, monkeypatch):
    """What is drawn of them goes on from block to block."""
    train(tiny(tmp_path / "run", *QUIET, "data.binarization=stochastic"))
    root = images(tmp_path / "images", 6)
    for size in (6, 2):
        monkeypatch.setattr("cvae.commands.encode.BATCH", size)
        assert call("encode", tmp_path / "run", root, "--out", tmp_path / f"{size}.npz")[0] == 0
    one, other = (np.load(tmp_path / f"{size}.npz")["latents"] for size in (6, 2))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def damaged(folder):
    """Six images in sub-folders, a damaged one, one that is empty, and a link to none."""
    images(folder, 6)
    (folder / "cat" / "0.png").write_bytes(b"no image")
    (folder / "dog" / "4.png").write_bytes(b"")
    (folder / "eel" / "gone.png").symlink_to(folder / "nowhere")
    return folder


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_all_that_cannot_be_read_is_said_at_once(conditional, call, tmp_path, command):
    root = damaged(tmp_path / "mine")
    (tmp_path / "other.png").symlink_to(tmp_path / "nowhere")
    said = arrays(call, command, conditional, root, tmp_path / "other.png", "--class", "0", out=tmp_path / "x.npz")
    assert "4 of 8 images cannot be read. Repair or delete them:" in said
    why, none = "not an image of a known format", "not a file, or a link to none"
    for name, reason in {"cat/0.png": why, "dog/4.png": why, "eel/gone.png": none, "../other.png": none}.items():
        assert f"  {os.path.normpath(root / name)}: {reason}" in said
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("cached", [False, True])
def test_it_is_left_out_where_the_data_of_the_run_leave_it_out(call, tmp_path, monkeypatch, cached):
    """Names, classes and labels of the others stay theirs, with their images on disk, too."""
    root = damaged(tmp_path / "mine")
    kept = tmp_path / "kept" if cached else "null"
    words = ["conditional=true", "data.skip_unreadable=true", f"data.cache={kept}", "data.test_size=3"]
    run = run_on(root, tmp_path / "run", *words)
    monkeypatch.setattr(cache, "IN_MEMORY", 0)
    found = arrays(call, "encode", run, root, out=tmp_path / "x.npz")
    assert found["names"].tolist() == ["cat/3.png", "dog/1.png", "eel/2.png", "eel/5.png"]
    assert found["labels"].tolist() == [0, 1, 2, 2] and found["classes"].tolist() == ["cat", "dog", "eel", "eel"]
    for name, latents in zip(found["names"], found["latents"], strict=True):
        alone = arrays(call, "encode", run, root / name, "--class", name[:3], out=tmp_path / "y.npz")
        np.testing.assert_allclose(alone["latents"][0], latents, rtol=0, atol=1e-6)
    drawn = arrays(call, "reconstruct", run, root, out=tmp_path / "z.npz")
    assert drawn["names"].tolist() == ["cat/3.png", "dog/1.png", "eel/2.png", "eel/5.png"]
    _, said = call("encode", run, root, "--out", tmp_path / "x.csv")
    assert "3 of 7 images cannot be read and are left out, as data.skip_unreadable=true says:" in said
    said = arrays(call, "encode", run, *[root / "cat" / "0.png"] * 2, out=tmp_path / "none.npz")
    assert "2 of 2 images cannot be read. Repair or delete them:" in said


def test_folders_of_splits_are_those_that_the_run_knows(call, tmp_path):
    """A run of before splits by hash has a class called Training."""
    root = tmp_path / "images"
    images(root / "Training", 3), images(root / "Testing", 3)
    for split, first in (("position", "Testing"), ("hash", "cat")):
        run = run_on(root, tmp_path / split, f"data.split={split}", "conditional=true", "data.test_size=2")
        found = arrays(call, "encode", run, root, out=tmp_path / f"{split}.npz")
        assert found["classes"][0] == first and found["names"][0] == "Testing/cat/0.png"
