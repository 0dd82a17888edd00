"""A user's own arrays: which image goes where, what is refused, and that nothing is run."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import config
from omegaconf import OmegaConf
from tiny import QUIET, tiny
from user_arrays import (
    RNG,
    grey,
    saved,  # noqa: F401, a fixture
    source,
)

from cvae.build import build_data, build_vae
from cvae.data.images import held_out
from cvae.data.npz import Npz, npz
from cvae.data.values import Values
from cvae.errors import ConfigError, DataError, UserError
from cvae.pictures import grid
from cvae.training.train import train


def options(**changed):
    values = dict(
        num_classes=None, batch_size=4, eval_batch_size=3, binarization="none", invert=False, train_on="train",
        validation_size=0, seed=3, test_size=5, image_shape=None,
    )  # fmt: skip
    return values | changed


# What is read


def test_a_part_of_one_file_is_kept_for_testing(saved):
    x, y = grey(), np.arange(20) % 3
    train, test = source(saved(x=x, y=y), seed=5).load()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5)).tolist()
    assert test.x[:, 0, 0, 0].tolist() == sorted(order[:5]) and train.x[:, 0, 0, 0].tolist() == sorted(order[5:])
    for part in (train, test):
        numbers = part.x[:, 0, 0, 0].numpy()
        assert part.x.dtype == torch.uint8 and part.x.shape[1:] == (1, 6, 4) and part.y.dtype == torch.int64
        np.testing.assert_array_equal(part.x[:, 0], x[numbers])
        np.testing.assert_array_equal(part.y, numbers % 3)


@pytest.mark.parametrize("size, expected", [(0.25, 5), (7, 7), (0.001, 1), (0.2, 4), (19, 19)])
def test_the_size_of_the_part(size, expected):
    train, test = held_out(20, size, 0, "here")
    assert len(test) == expected and sorted(train + test) == list(range(20))


def test_the_part_leaves_images_for_training():
    with pytest.raises(ConfigError, match=r"data.test_size=20: must be below the 20 images in here, so that some are"):
        held_out(20, 20, 0, "here")


def test_two_files(saved, tmp_path):
    first, second = grey(5), grey(3)
    saved("own/train.npz", x=first, y=[0, 1, 2, 3, 4])
    saved("own/test.npz", x=second, y=[2, 1, 0])
    train, test = source(str(tmp_path / "own")).load()
    np.testing.assert_array_equal(train.x[:, 0], first)
    np.testing.assert_array_equal(test.x[:, 0], second)
    assert train.y.tolist() == [0, 1, 2, 3, 4] and test.y.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "y, numbers, classes",
    [
        ([0, 200_000, 100_000, 0], [0, 2, 1, 0], ("0", "100000", "200000")),
        (["dog", "ant", "dog", "cow"], [2, 0, 2, 1], ("ant", "cow", "dog")),
        ([b"x", b"y", b"x", b"x"], [0, 1, 0, 0], ("x", "y")),
    ],
)
def test_labels_that_occur_are_numbered(saved, y, numbers, classes):
    """In both files alike; the largest label once made as many classes."""
    root = saved(x=grey(4), y=y)
    own = Npz(root, 1, 0, "hash")
    parts = own.load()
    assert own.classes() == len(classes)
    found = {name: label for part in parts for name, label in zip(part.names, part.y.tolist(), strict=True)}
    assert found == dict(enumerate(numbers)) and all(part.classes == classes for part in parts)


def test_labels_of_two_files_are_numbered_together(saved, tmp_path):
    saved("own/train.npz", x=grey(2), y=["b", "d"])
    saved("own/test.npz", x=grey(2), y=["c", "b"])
    train, test = Npz(str(tmp_path / "own"), 0.1, 0, "hash").load()
    assert train.y.tolist() == [0, 2] and test.y.tolist() == [1, 0] and test.classes == ("b", "c", "d")
    saved("own/test.npz", x=grey(2), y=[1, 2])
    with pytest.raises(DataError, match="y is of numbers in one and of texts in the other"):
        Npz(str(tmp_path / "own"), 0.1, 0, "hash").load()


def test_a_new_image_moves_no_other(saved):
    def held(count):
        return set(Npz(saved(x=grey(count)), 0.3, 0, "hash").load()[1].names.tolist())

    assert held(40) == {name for name in held(60) if name < 40}


def test_colours_come_first(saved):
    x = RNG.integers(0, 256, (9, 4, 5, 3)).astype(np.uint8)
    own = source(saved(x=x), test_size=1)
    train, test = own.load()
    assert own.image_shape() == (3, 4, 5)
    both = torch.cat([test.x, train.x]).permute(0, 2, 3, 1).numpy()
    assert sorted(map(bytes, both)) == sorted(map(bytes, x))


def test_one_channel_is_grey(saved):
    x = grey(4)
    own = source(saved(x=x[..., None]), test_size=1)
    train, test = own.load()
    assert own.image_shape() == (1, 6, 4)
    numbers = torch.cat([train.x, test.x])[:, 0, 0, 0].numpy()
    np.testing.assert_array_equal(torch.cat([train.x, test.x])[:, 0], x[numbers])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_are_rounded_to_the_nearest_level(saved, dtype):
    """Also beyond the first block of images."""
    wanted = RNG.integers(0, 256, (230, 2, 3))
    x = np.clip(wanted / 255 + RNG.uniform(-0.0015, 0.0015, wanted.shape), 0, 1).astype(dtype)
    train, test = source(saved(x=x), test_size=30).load()
    kept, held = held_out(230, 30, 0, "")
    np.testing.assert_array_equal(train.x[:, 0], wanted[kept])
    np.testing.assert_array_equal(test.x[:, 0], wanted[held])


def test_binary_images(saved):
    x = RNG.integers(0, 2, (4, 3, 3))
    for form in (x.astype(bool), x.astype(np.float32), (255 * x).astype(np.uint8)):
        parts = source(saved(x=form), test_size=1).load()
        assert sorted(map(bytes, torch.cat([part.x for part in parts]).numpy())) == sorted(
            map(bytes, (255 * x).astype(np.uint8))
        )


def test_labels(saved, tmp_path):
    assert source(saved(x=grey())).classes() == 1
    assert source(saved(x=grey())).load()[0].y.tolist() == [0] * 15
    assert source(saved(x=grey(3), y=np.array([0, 4, 1], np.uint8))).classes() == 5
    saved("own/train.npz", x=grey(3), y=[0, 1, 2])
    saved("own/test.npz", x=grey(2), y=[6, 0])
    assert source(str(tmp_path / "own")).classes() == 7
    saved("own/test.npz", x=grey(2))
    assert source(str(tmp_path / "own")).classes() == 3


def test_home_is_understood(monkeypatch, saved, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved("images.npz", x=grey())
    source("~/images.npz").download()


# As data=npz


def test_the_values_of_the_config_arrive(saved):
    data = npz(root=saved(x=grey()), **options())
    assert (data.image_shape, data.seed, data.source.seed, data.source.test_size) == ((1, 6, 4), 3, 3, 5)
    data.prepare_data()
    data.setup()
    assert torch.equal(data.test.images.x, Npz(str(data.root), 5, 3).load()[1].x)
    assert npz(root=data.root, **options(image_shape=[1, 8, 8])).image_shape == (1, 8, 8)


def test_what_is_left_to_the_file_goes_into_the_config(saved):
    root = saved(x=grey(), y=np.arange(20) % 3)
    cfg = config("data=npz", f"data.root={root}", "model=mlp", "conditional=true")
    data = build_data(cfg)
    assert cfg.data.image_shape == [1, 6, 4] and cfg.data.num_classes == 3 and data.image_shape == (1, 6, 4)
    assert build_vae(cfg).sample(2, torch.tensor([0, 2])).shape == (2, 1, 6, 4)
    cfg = config("data=npz", f"data.root={root}", "data.image_shape=[1,6,4]")
    build_data(cfg)
    assert cfg.data.image_shape == [1, 6, 4] and cfg.data.num_classes is None


def test_a_run(saved, tmp_path):
    """The config that is saved has the shape: the model can be loaded without the file."""
    root, cfg = saved(x=grey(30)), tiny(tmp_path / "run", *QUIET)
    cfg.data = config("data=npz", f"data.root={root}", "data.batch_size=8").data
    cfg.data.seed = 1
    train(cfg)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 2 * 4  # 27 images in batches of 8
    assert OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml").data.image_shape == [1, 6, 4]


def test_a_shape_that_is_not_that_of_the_images(saved):
    data = npz(root=saved(x=grey()), **options(image_shape=[1, 6, 5]))
    with pytest.raises(ConfigError, match=r"data.image_shape=\[1, 6, 5\]: must be \[1, 6, 4\], as the images are"):
        data.setup()


def test_errors_of_the_file_are_said_as_they_are():
    with pytest.raises(UserError, match="^data.root=nowhere.npz: there is no such file$"):
        build_data(config("data=npz", "data.root=nowhere.npz"))
    with pytest.raises(ConfigError, match="^data.root=None: must be your file of arrays"):
        build_data(config("data=npz", "data.root=null"))
    with pytest.raises(ConfigError, match="^data.test_size=0: must be a positive integer"):
        build_data(config("data=npz", "data.root=x", "data.test_size=0"))


# What is refused


@pytest.mark.parametrize("call", ["download", "classes", "load", "image_shape"])
def test_missing_files(tmp_path, saved, call):
    (tmp_path / "own").mkdir()
    with pytest.raises(DataError, match="own: the folder has no train.npz and no test.npz, nor such"):
        getattr(source(str(tmp_path / "own")), call)()
    saved("own/train.npz", x=grey())
    with pytest.raises(DataError, match="own: the folder has no test.npz, nor such .npy files$"):
        getattr(source(str(tmp_path / "own")), call)()
    with pytest.raises(DataError, match="data.root=.*none.npz: there is no such file$"):
        getattr(source(str(tmp_path / "none.npz")), call)()


X = np.zeros((4, 3, 3))
SHAPES = r"it must be (N, H, W) or (N, H, W, C), N above 0"
WRONG = {
    "no x": ({"images": X, "y": [0] * 4}, "has no array x, the images; it has: images, y"),
    "no array": ({}, "has no array x, the images; it has: none"),
    "integers": ({"x": X.astype(np.int64)}, ": x is int64; it must be uint8, floats in [0, 1] or bool"),
    "complex": ({"x": X.astype(complex)}, ": x is complex128; it must be uint8"),
    "text": ({"x": X.astype(str)}, "; it must be uint8, floats in [0, 1] or bool"),
    "flat": ({"x": X.reshape(4, 9)}, f": x is (4, 9); {SHAPES}"),
    "channels first": (
        {"x": np.zeros((4, 3, 5, 5))},
        ": x is (4, 3, 5, 5); it must be (N, H, W, C), the",
    ),
    "13 channels first": ({"x": np.zeros((4, 13, 64, 64))}, "the channels last: numpy.moveaxis(x, 1, -1) makes it so"),
    "five axes": ({"x": np.zeros((4, 5, 5, 1, 1))}, SHAPES),
    "no images": ({"x": np.zeros((0, 5, 5))}, SHAPES),
    "no pixels": ({"x": np.zeros((5, 0, 5))}, SHAPES),
    "too few labels": (
        {"x": X, "y": [0, 1, 2]},
        ": y is int64 (3,); it must be integers or texts (4,), a label for each",
    ),
    "columns of labels": (
        {"x": X, "y": np.zeros((4, 1), int)},
        ": y is int64 (4, 1); it must be integers or texts (4,)",
    ),
    "labels with a point": ({"x": X, "y": np.zeros(4)}, ": y is float64 (4,); it must be integers or texts (4,)"),
    "objects": ({"x": X.astype(object)}, ": x is object; it must be uint8"),
    "objects as labels": ({"x": X, "y": np.zeros(4, object)}, ": y is object (4,); it must be integers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_are_refused_before_their_values_are_read(saved, name, monkeypatch):
    arrays, said = WRONG[name]
    root = saved(**arrays)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(DataError, match=re.escape(said)) as error:
        source(root).download()
    assert root in str(error.value)


@pytest.mark.parametrize(
    "place, value, said",
    [
        (150, 1.5, "from 0 to 1.5 in the images 100 to 199; floats must be in [0, 1]: divide grey levels by 255"),
        (0, -0.5, "from -0.5 to 0 in the images 0 to 99;"),
        (150, 255.0, "(1 values of 1 of the images 100 to 199 are not in it, the first in image 150)"),
        (150, 4000.0, "data.white=VALUE says which one is white"),
        (3, -1.0, "floats must be in [0, 1]: of [-1, 1] save (x + 1) / 2"),
        (
            240,
            np.nan,
            "has NaN or infinity 1 times; it must be in [0, 1]: 1 values of 1 of the images 200 to 249 are",
        ),
        (30, np.inf, "has NaN or infinity 1 times"),
    ],
)
def test_floats_outside_the_range(saved, place, value, said):
    x = np.zeros((250, 2, 2), np.float32)
    x[place, 1, 0] = value
    with pytest.raises(
        DataError, match=re.escape(f": x is float32 and goes {said}" if said.startswith("from") else said)
    ):
        source(saved(x=x)).load()


def test_rounding_is_no_error(saved):
    x = np.array([[[-1e-7, 1 + 9e-7], [0.5, 1]]] * 3)
    train = source(saved(x=x), test_size=1).load()[0]
    assert train.x[0].flatten().tolist() == [0, 255, 128, 255]
    with pytest.raises(DataError, match="goes from"):
        source(saved(x=x + 1e-5), test_size=1).load()


@pytest.mark.parametrize("dtype, white", [(np.uint16, 4095), (np.uint8, 2), (np.int64, 100_000), (np.float32, 5)])
def test_the_value_that_is_white(saved, dtype, white):
    x = np.linspace(0, white, 16).astype(dtype).reshape(4, 2, 2)
    root, how = saved(x=x), dict(num_classes=None, binarization="none", invert=False, train_on="train")
    data = npz(None, 1, 0, root, white=white, batch_size=2, eval_batch_size=2, validation_size=0, **how)
    data.setup()
    found = torch.cat([data.train.images.x, data.test.images.x])[
        np.argsort([*data.train.images.names, *data.test.images.names])
    ]
    np.testing.assert_array_equal(found[:, 0], (x * (255 / white)).round())
    if dtype in (np.uint16, np.int64):
        with pytest.raises(DataError, match=r"it must be uint8, .* or with data.white=VALUE integers from 0 to that"):
            source(root).download()
    with pytest.raises(DataError, match=rf"must be in \[0, {white / 2:g}\]: data.white=VALUE"):
        Npz(root, 1, 0, values=Values(white / 2)).load()


def test_masks_are_almost_black(saved, caplog):
    x = np.arange(16, dtype=np.uint8).reshape(4, 2, 2) % 3
    source(saved(x=x), test_size=1).load()
    assert "all 4 images are almost black: the largest value in them is 2, and 255 is white" in caplog.text
    caplog.clear()
    source(saved(x=100 * x), test_size=1).load()
    source(saved(x=x / 2), test_size=1).load()
    assert not caplog.text


def test_more_than_three_channels(saved):
    x = RNG.integers(0, 256, (5, 6, 6, 7)).astype(np.uint8)
    own = Npz(saved(x=x), 1, 0, values=Values(first=(4, 2, 0)))
    train, _ = own.load()
    assert own.image_shape() == (7, 6, 6)
    np.testing.assert_array_equal(train.x[0], x[train.names[0]].transpose(2, 0, 1)[[4, 2, 0, 1, 3, 5, 6]])
    assert np.array_equal(grid(train.x / 255, 2), grid(train.x[:, :3] / 255, 2))
    with pytest.raises(ConfigError, match=r"data.first=\[7\]: must be of channels from 0 to 6"):
        Npz(own.root, 1, 0, values=Values(first=(7,))).download()
    with pytest.raises(ConfigError, match=r"first=\[1, 1\]: must be a list of different channels"):
        Values(first=(1, 1))


def test_levels_of_0_and_1_are_not_guessed_at(saved):
    x = np.array([[[0, 1], [1, 0]]] * 4, np.uint8)
    with pytest.raises(DataError, match="x is uint8 and has only 0 and 1; levels go from 0 .* Save .* as bool or"):
        source(saved(x=x), test_size=1).load()
    source(saved(x=0 * x), test_size=1).load()  # black images
    source(saved(x=2 * x), test_size=1).load()


def test_labels_below_0(saved):
    root = saved(x=grey(3), y=[0, -2, 1])
    for call in ("classes", "load"):
        with pytest.raises(DataError, match="y has the label -2; labels are integers of at least 0"):
            getattr(source(root, test_size=1), call)()


def test_headers_of_the_second_version(saved, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive, archive.open("x.npy", "w") as stream:
        np.lib.format.write_array(stream, grey(3), version=(2, 0))
    assert source(str(tmp_path / "two.npz")).image_shape() == (1, 6, 4)


@pytest.mark.parametrize(
    "values, key", [((None, 0.1, 0), "root"), (("x", 1.5, 0), "test_size"), (("x", 1, -1), "seed")]
)
def test_wrong_values_name_their_key(values, key):
    with pytest.raises(ConfigError) as error:
        Npz(*values)
    assert error.value.key == key


@pytest.mark.parametrize(("bright", "said"), [(None, True), (20, False), (149, False)])
def test_images_of_which_some_are_bright_are_not_almost_black(bright, said, caplog, tmp_path):
    """Wherever they are: images are looked at a hundred at a time."""
    x = np.full((150, 4, 4), 0.1, np.float32)
    if bright is not None:
        x[bright] = 0.25
    Values().require(x, tmp_path / "a.npz")
    assert ("almost black" in caplog.text) is ("all 150 images are almost black" in caplog.text) is said
