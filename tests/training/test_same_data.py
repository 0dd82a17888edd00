"""A run on a user's own images goes on with these images alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import config
from omegaconf import OmegaConf
from PIL import Image
from tiny import QUIET, TINY, tiny

from cvae.build import load_data
from cvae.data.contents import fingerprint
from cvae.data.dataset import images_of
from cvae.data.images import Images, texts
from cvae.errors import DataError, UserError
from cvae.runs.checkpoint import read_checkpoint
from cvae.runs.comparison import read
from cvae.runs.directory import Run
from cvae.runs.small_files import read_json
from cvae.training.same_data import list_data, require_same_data
from cvae.training.train import train


def own(folder, root, *words):
    values = [word for word in TINY if not word.startswith(("data.source", "data=synthetic"))]
    return config(
        "data=image_folder", f"data.root={root}", "data.channels=1", *values, f"run_dir={folder}", *QUIET, *words
    )


@pytest.fixture
def images(tmp_path):
    for number in range(12):
        save(tmp_path / "images" / "ab"[number % 2] / f"{number}.bmp", number)
    return tmp_path / "images"


def save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(path)


def changed(images, how):
    if how == "added":
        save(images / "a" / "new.bmp", 200)
    elif how == "removed":
        (images / "b" / "1.bmp").unlink()
    else:  # the same size
        save(images / "b" / "1.bmp", 77)


@pytest.mark.parametrize(
    ("how", "said"),
    [("added", "1 new (a/new.bmp)"), ("removed", "1 missing (b/1.bmp)"), ("replaced", "1 changed (b/1.bmp)")],
)
def test_other_images_are_not_gone_on_with(tmp_path, images, how, said, caplog):
    cfg, folder = own(tmp_path / "run", images), tmp_path / "run"
    train(cfg)
    mark = cfg.data.fingerprint
    assert read_json(Run(folder).metrics)["data"] == mark == OmegaConf.load(Run(folder).config_file).data.fingerprint
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["cvae"]["data"] == mark
    cfg.trainer.max_epochs = 3
    train(cfg, resume=True)  # the same images: it goes on
    changed(images, how)
    cfg.trainer.max_epochs = 4
    with pytest.raises(DataError) as error:
        train(cfg, resume=True)
    assert f"not those that this run was begun with: {said}. Put them back to go on" in str(error.value)
    caplog.clear()
    load_data(Run(folder))
    assert f"not those that this run was begun with: {said}. Its figures are of others" in caplog.text


def test_a_checkpoint_of_other_images(tmp_path, images):
    train(own(tmp_path / "one", images))
    changed(images, "replaced")
    cfg = own(tmp_path / "two", images)
    train(cfg)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "one" / "checkpoints" / name).replace(tmp_path / "two" / "checkpoints" / name)
    cfg.trainer.max_epochs = 3
    with pytest.raises(UserError, match="the checkpoint is of a training with other images"):
        train(cfg, resume=True)


def test_runs_on_other_images_are_not_ranked_with_each_other(tmp_path, images):
    """The same images elsewhere are the same."""
    train(own(tmp_path / "one", images, "trainer.max_epochs=1"))
    images = images.rename(tmp_path / "moved")
    train(own(tmp_path / "two", images, "trainer.max_epochs=1"))
    changed(images, "replaced")
    train(own(tmp_path / "three", images, "trainer.max_epochs=1"))
    one, two, three = (entry.modelled for entry in read(map(Run, (tmp_path / n for n in ("one", "two", "three")))))
    assert one == two != three


def test_files_left_out_are_listed_in_the_run(tmp_path, images, caplog):
    (images / "a" / "bad.png").write_bytes(b"no image")
    (images / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"2 of 14 images cannot be read\. Repair or delete them, or leave them out"):
        train(own(tmp_path / "no", images))
    cfg = own(tmp_path / "run", images, "data.skip_unreadable=true")
    train(cfg)
    assert "2 of 14 images cannot be read and are left out (a run lists all in data.csv)" in caplog.text
    lines = Run(tmp_path / "run").data.read_text().splitlines()
    assert lines[-2:] == [
        "a/bad.png,,,,,not an image of a known format",
        'a/gone.png,,,,,"not a file, or a link to none"',
    ]
    assert len(lines) == 1 + 12 + 2 and sum(",test," in line for line in lines) >= 1


class Mine:
    """A source of one's own, with a dataset of images and labels."""

    numbers, kinds = list(range(12)), 3

    def __init__(self, root):
        pass

    def download(self):
        pass

    def load(self):
        rows = [(np.full((1, 8, 8), number, np.uint8), number % self.kinds) for number in self.numbers]
        return images_of(rows[:9], [1, 8, 8]), images_of(rows[9:], [1, 8, 8])


def of_mine(folder):
    cfg = tiny(folder, *QUIET)
    cfg.data.source = {"_target_": "test_same_data.Mine", "_partial_": True}
    return cfg


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"numbers": [51, *range(1, 12)]}, r"1 changed \(train x\[0:9\]\)"),
        (
            {"numbers": list(range(13))},
            r"2 new \(test x\[0:4\], test y\[0:4\]\), 2 missing \(test x\[0:3\], test y\[0:3\]\)",
        ),
        ({"kinds": 2}, r"2 changed \(test y\[0:3\], train y\[0:9\]\)"),
    ],
)
def test_a_dataset_of_ones_own_is_known_by_its_images(tmp_path, monkeypatch, change, said):
    cfg = of_mine(tmp_path)
    train(cfg)
    assert cfg.data.fingerprint == read_json(Run(tmp_path).metrics)["data"]
    cfg.trainer.max_epochs = 3
    train(cfg, resume=True)
    for name, value in change.items():
        monkeypatch.setattr(Mine, name, value)
    cfg.trainer.max_epochs = 4
    same = "It must give the same ones at each start to go on, or start a new run: with others its test"
    with pytest.raises(DataError, match=f"^data of Mine: the images are not those .*: {said}. {same}"):
        train(cfg, resume=True)


def test_data_sets_known_by_name_have_no_fingerprint(tmp_path):
    cfg = tiny(tmp_path, *QUIET)
    train(cfg)
    assert cfg.data.fingerprint is None and "data" not in read_json(Run(tmp_path).metrics)


@pytest.mark.parametrize(("scale", "said"), [("1.0", True), ("global", False)])
def test_a_gaussian_as_wide_as_the_range_is_advised_against(tmp_path, images, caplog, scale, said):
    caplog.set_level("INFO")
    words = ["likelihood=gaussian", f"likelihood.scale={scale}", "data.binarization=none", "trainer.max_epochs=1"]
    train(own(tmp_path / "run", images, *words))
    assert ("likelihood.scale=global learns it" in caplog.text) == said


def test_what_of_the_data_is_put_into_the_config(tmp_path):
    """A config of before there were fingerprints stays without one, and data known by name have none."""
    contents, mark = {"a.png": "0" * 16}, fingerprint({"a.png": "0" * 16})
    for known, before, put, then in (
        (contents, {"fingerprint": None}, {"fingerprint": mark}, mark), (contents, {}, {}, "before"),
        (None, {"fingerprint": None}, {"fingerprint": None}, "before"),
    ):  # fmt: skip
        cfg = OmegaConf.create({"run_dir": str(tmp_path), "data": before}, flags={"struct": True})
        data = SimpleNamespace(contents=known, fingerprint="before")
        require_same_data(cfg, data)
        assert cfg.data == put and data.fingerprint == then


def split_of(*names, label=0):
    levels = torch.zeros(len(names), 1, 2, 2, dtype=torch.uint8)
    return SimpleNamespace(images=Images(levels, torch.full((len(names),), label), None, texts(names), ("cat", "dog")))


def test_the_list_of_a_run_has_each_split_and_is_written_once(tmp_path):
    run = Run(tmp_path)
    splits = {"train": split_of("a.png", "b.png"), "validation": split_of("c.png", label=1), "test": split_of("d.png")}
    contents = {name: name[0] * 16 for name in ("a.png", "b.png", "c.png", "d.png")}
    list_data(run, SimpleNamespace(contents=None, source=SimpleNamespace(), **splits))  # data known by name
    assert not run.data.exists()
    list_data(run, SimpleNamespace(contents=contents, source=SimpleNamespace(left_out={"e.png": "empty"}), **splits))
    lines = [f"{name[0]}.png,{name[2:]},{name[0] * 16},\n" for name in (
        "a train,cat,0", "b train,cat,0", "c validation,dog,1", "d test,cat,0",
    )]  # fmt: skip
    expected = "name,split,class,label,digest,left out\n" + "".join(lines) + "e.png,,,,,empty\n"
    assert run.data.read_text() == expected
    list_data(run, SimpleNamespace(contents={}, source=SimpleNamespace(), **splits | {"validation": None}))
    assert run.data.read_text() == expected  # a run that goes on keeps the list that it began with
    run.data.unlink()
    list_data(run, SimpleNamespace(contents={}, source=SimpleNamespace(), **splits | {"validation": None}))
    assert [line[:9] for line in run.data.read_text().splitlines()[1:]] == ["a.png,tra", "b.png,tra", "d.png,tes"]
