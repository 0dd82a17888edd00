"""data.cache: what a run, its resuming and its commands take from the decoded images, and where nothing is written."""

import numpy as np
import pytest
import torch
from conftest import config
from PIL import Image
from tiny import QUIET, tiny

from cvae.build import load_data
from cvae.data import cache, folder, mapped
from cvae.data.folder import image_folder
from cvae.data.mapped import Mapped
from cvae.errors import ConfigError, DataError
from cvae.runs.directory import Run
from cvae.training.train import train

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """12 images of two classes, for which data.cache=auto keeps what is decoded."""
    monkeypatch.setattr(folder, "MANY", 12)
    for number in range(12):
        place = tmp_path / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8), np.uint8)).save(place / f"{number:02}.png")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """How many files are decoded at each call."""
    calls, blocks = [], cache.decoded_blocks
    monkeypatch.setattr(
        cache, "decoded_blocks", lambda files, reading: calls.append(len(files)) or blocks(files, reading)
    )
    return calls


def data_of(root, **changed):
    values = dict(
        image_shape=[1, 8, 8], num_classes=None, batch_size=4, eval_batch_size=4, binarization="none", invert=False,
        train_on="train", validation_size=0, test_size=0.25, seed=3, split="hash",
    )  # fmt: skip
    made = image_folder(root=str(root), **values | changed)
    made.prepare_data()
    made.setup()
    return made


def require_same(one, other):
    for split in ("train", "test"):
        ours, theirs = getattr(one, split).images, getattr(other, split).images
        assert torch.equal(ours.x[slice(None)], theirs.x[slice(None)]) and torch.equal(ours.y, theirs.y)
        assert ours.names.tolist() == theirs.names.tolist()
    assert one.source.contents == other.source.contents


@pytest.mark.parametrize("where", ["auto", "elsewhere"])
@pytest.mark.parametrize("limit", [0, 10**6])
def test_a_second_start_decodes_nothing_and_has_the_same_images(root, decoded, monkeypatch, where, limit):
    """In memory, or where they are many on disk."""
    for module in (mapped, cache):
        monkeypatch.setattr(module, "IN_MEMORY", limit)
    where = where if where == "auto" else str(root.parent / where / "deeper")
    plain = data_of(root, cache=None)
    one, two = data_of(root, cache=where), data_of(root, cache=where)
    assert sum(decoded) == 12 + 12
    for made in (one, two):
        require_same(made, plain)
        assert isinstance(made.train.images.x, Mapped) == (limit == 0)


@pytest.mark.parametrize("limit", [0, 10**6])
def test_images_that_are_kept_and_others_that_are_not(root, monkeypatch, limit):
    """As where a run of somebody else's is read, for which nothing is written: each image is its own."""
    for module in (mapped, cache):
        monkeypatch.setattr(module, "IN_MEMORY", limit)
    data_of(root)
    for number in (1, 4, 20):  # two are changed, one is new
        Image.fromarray(RNG.integers(0, 256, (8, 8), np.uint8)).save(root / "ab"[number % 2] / f"{number:02}.png")
    monkeypatch.setattr(folder.ImageFolder, "keeps", False)
    made = data_of(root)
    assert isinstance(made.train.images.x, Mapped) == (limit == 0)
    require_same(made, data_of(root, cache=None))


def test_auto_keeps_many_images_in_a_hidden_folder(root, monkeypatch):
    data_of(root)
    assert [path.name for path in root.iterdir() if path.name not in "ab"] == [folder.BESIDE]
    assert data_of(root).source.listing().classes == ["a", "b"]
    monkeypatch.setattr(folder, "MANY", 13)
    assert data_of(root).source.cache() is None and data_of(root, cache=None).source.cache() is None


def test_folders_share_no_cache(root, tmp_path):
    other = tmp_path / "other" / "images"
    for kind in "ab":
        (other / kind).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8), np.uint8)).save(other / kind / "1.png")
    for place in (root, other, root):
        require_same(data_of(place, cache=str(tmp_path / "kept")), data_of(place, cache=None))
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_images_that_cannot_be_read_are_told_each_time(root, decoded):
    (root / "a" / "02.png").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of 12 images cannot be read(.|\n)*02.png: not an image of a known"):
            data_of(root)
    assert decoded == [12, 1, 1]  # the others are kept
    made = data_of(root, skip_unreadable=True)
    require_same(made, data_of(root, skip_unreadable=True, cache=None))
    assert list(made.source.left_out) == ["a/02.png"]


def test_what_does_not_fit_into_the_memory_is_said(root, monkeypatch):
    monkeypatch.setattr(cache, "main_memory", lambda: 12 * 64 - 1)
    with pytest.raises(DataError, match="12 images of .* take 0.0 GiB, and .* let them be kept on disk"):
        data_of(root, cache=None)
    data_of(root)


@pytest.mark.parametrize("value", [True, 3, "", ["a"]])
def test_wrong_values_are_named(root, value):
    with pytest.raises(ConfigError, match="cache=.*: must be auto, a folder, or null"):
        data_of(root, cache=value)


def run_on(root, path, *words):
    cfg = tiny(path, *QUIET)
    own = config("data=image_folder", f"data.root={root}", "data.image_shape=[1,8,8]", "data.batch_size=4", *words)
    cfg.data = own.data
    cfg.data.seed = 1
    train(cfg)
    return path


def test_a_run_and_its_commands_decode_once(root, tmp_path, decoded):
    run = run_on(root, tmp_path / "run")
    assert [count for count in decoded if count] == [12]
    load_data(Run(run))
    assert [count for count in decoded if count] == [12]


def test_weights_are_those_of_a_run_without(root, tmp_path):
    one, two = (
        torch.load(run_on(root, tmp_path / name, *words) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name, words in (("a", []), ("b", ["data.cache=null"]))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_nothing_is_written_where_only_a_run_says_so(root, tmp_path):
    """Neither beside images that the run alone names, nor into a folder that it names for images of the user."""
    run = run_on(root, tmp_path / "run", "data.cache=null")
    file = Run(run).config_file
    text = file.read_text()
    file.write_text(text.replace("cache: null", "cache: auto"))
    load_data(Run(run))
    assert not (root / folder.BESIDE).exists()
    load_data(Run(run), str(root))
    assert (root / folder.BESIDE).exists()
    file.write_text(text.replace("cache: null", f"cache: {tmp_path}/theirs"))
    for place in (None, str(root)):
        load_data(Run(run), place)
    assert not (tmp_path / "theirs").exists()
    load_data(Run(run, trust=True))
    assert (tmp_path / "theirs").exists()
