"""Binarization, splits and batches of ImageData, and the config of every data set."""

from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir

from cvae.build import make
from cvae.data import ImageData, Images
from cvae.data.images import draw
from cvae.errors import ConfigError

CONF = ROOT / "conf"
DATA = ("mnist", "fashion_mnist", "kmnist", "cifar10", "image_folder", "synthetic")


class Given:
    """A source of given images."""

    def __init__(self, train, test):
        self.train, self.test = train, test

    def __call__(self, root):
        return self

    def download(self):
        pass

    def load(self):
        return self.train, self.test


def images(count, seed, shape=(1, 4, 5)):
    """Every level occurs; the label is the image's number modulo 10."""
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8), torch.arange(count) % 10)


TRAIN, TEST = images(1100, 1), images(300, 2)  # more than the 1,000 that are drawn at once


def data(train=TRAIN, test=TEST, **changed):
    values = dict(
        root=None, image_shape=[1, 4, 5], num_classes=10, batch_size=32, eval_batch_size=70, binarization="static",
        invert=False, train_on="train", validation_size=0, seed=0,
    )  # fmt: skip
    return ImageData(Given(train, test), **values | changed)


def ready(*args, **changed):
    made = data(*args, **changed)
    made.setup()
    return made


def batches(made, loader):
    """All of a loader's (x, y), as the model gets them."""
    x, y = zip(*(made.on_after_batch_transfer(batch, 0) for batch in loader), strict=True)
    return torch.cat(x), torch.cat(y)


def trained_on(made):
    """Every training image as the model would get it, in the order of the set."""
    return made.on_after_batch_transfer((made.train.images.x, made.train.images.y), 0)[0]


def test_static_is_one_above_one_half():
    made = ready(binarization="static")
    assert torch.equal(trained_on(made), (TRAIN.x.double() / 255 > 0.5).float())
    assert torch.equal(batches(made, made.test_dataloader())[0], (TEST.x.double() / 255 > 0.5).float())


def test_none_is_level_over_255():
    made = ready(binarization="none")
    x = trained_on(made)
    assert x.dtype == torch.float32 and x.min() == 0 and x.max() == 1
    assert torch.equal(x, TRAIN.x.float() / 255)


def test_invert_comes_before_binarization():
    assert torch.equal(trained_on(ready(binarization="none", invert=True)), (255 - TRAIN.x).float() / 255)
    assert torch.equal(trained_on(ready(binarization="static", invert=True)), (TRAIN.x < 128).float())


def ramp(repeats):
    """`repeats` images that each have all 256 levels: (repeats, 1, 16, 16)."""
    return Images(
        torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(repeats, 1, 1, 1), torch.zeros(repeats).long()
    )


@pytest.mark.parametrize("how", ["stochastic", "fixed"])
@pytest.mark.parametrize("invert", [False, True])
def test_probability_of_one_is_the_level(how, invert):
    made = ready(ramp(4000), ramp(4000), image_shape=[1, 16, 16], binarization=how, invert=invert)
    p = torch.arange(256).double() / 255
    p = 1 - p if invert else p
    for x in (trained_on(made), batches(made, made.test_dataloader())[0]):
        assert set(x.unique().tolist()) == {0, 1}
        share = x.double().mean(0).flatten()
        assert share[p == 0] == 0 and share[p == 1] == 1  # exactly: black stays black
        assert (share - p).abs().max() < 4.5 * 0.5 / 4000**0.5


def test_invert_then_stochastic_is_tensorflow_probabilitys_comparison():
    """Its example draws image < uniform; ours uniform < 1 - image: one where the other is, with uniform -> 1 - uniform."""
    x = torch.arange(256, dtype=torch.float64) / 255
    torch.manual_seed(3)
    ours = draw((1 - x).expand(500, 256))
    torch.manual_seed(3)
    assert torch.equal(ours, (x < 1 - torch.rand(500, 256)).double())


def test_stochastic_draws_training_images_anew_and_test_images_once():
    made = ready(binarization="stochastic")
    assert not torch.equal(trained_on(made), trained_on(made))
    first = batches(made, made.test_dataloader())[0]
    assert torch.equal(first, batches(made, made.test_dataloader())[0])
    assert torch.equal(first, batches(made, made.val_dataloader())[0])


@pytest.mark.parametrize("how", ["stochastic", "fixed"])
def test_evaluation_images_depend_on_the_seed_alone(how):
    expected = batches(made := ready(binarization=how), made.test_dataloader())[0]
    torch.manual_seed(99)
    for changed in (
        {"eval_batch_size": 1},
        {"eval_batch_size": 300},
        {"batch_size": 7},
        {"train": TEST},
        {"train_on": "all"},
    ):
        assert torch.equal(expected, batches(made := ready(binarization=how, **changed), made.test_dataloader())[0]), (
            changed
        )
    assert not torch.equal(expected, batches(made := ready(binarization=how, seed=1), made.test_dataloader())[0])


def test_fixed_and_stochastic_measure_the_same_test_images():
    assert torch.equal(ready(binarization="fixed").test.images.x, ready(binarization="stochastic").test.images.x)


def test_fixed_never_changes():
    made = ready(binarization="fixed")
    x = trained_on(made)
    assert torch.equal(x, trained_on(made)) and torch.equal(x, trained_on(ready(binarization="fixed")))
    assert not torch.equal(x, trained_on(ready(binarization="fixed", seed=1)))
    assert made.train.images.x.dtype == torch.uint8  # in memory


def test_fixed_draw_is_a_function_of_seed_and_index():
    """Leaving the last images away changes none of the others; equal images at different indices are drawn apart."""
    everything = trained_on(ready(binarization="fixed"))
    for count in (1, 999, 1001):
        part = Images(TRAIN.x[:count], TRAIN.y[:count])
        assert torch.equal(trained_on(ready(part, binarization="fixed")), everything[:count])
    x = trained_on(ready(ramp(1500), ramp(1), image_shape=[1, 16, 16], binarization="fixed"))
    assert len(x.flatten(1).unique(dim=0)) == 1500


def test_fixed_draw_is_the_same_with_a_validation_split():
    """The split takes images away; it does not draw them again."""
    whole, split = ready(binarization="fixed"), ready(binarization="fixed", validation_size=100)
    order = torch.randperm(1100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(split.validation.images.x, whole.train.images.x[order[:100]])
    assert torch.equal(split.train.images.x, whole.train.images.x[order[100:]])


def test_validation_split_parts_the_training_images():
    made = ready(binarization="none", validation_size=100)
    assert (len(made.train), len(made.validation), len(made.test)) == (1000, 100, 300)
    both = torch.cat([made.train.images.x, made.validation.images.x])
    assert torch.equal(both.unique(dim=0), TRAIN.x.unique(dim=0))
    assert torch.equal(batches(made, made.val_dataloader())[0], made.validation.images.x.float() / 255)


def test_stochastic_validation_images_are_drawn_once():
    made, again = (ready(binarization="stochastic", validation_size=100) for _ in range(2))
    x = batches(made, made.val_dataloader())[0]
    assert set(x.unique().tolist()) == {0, 1}
    assert torch.equal(x, batches(made, made.val_dataloader())[0]) and torch.equal(
        x, batches(again, again.val_dataloader())[0]
    )


@pytest.mark.parametrize("how", ["static", "stochastic", "fixed", "none"])
def test_train_on_all_adds_the_test_images(how):
    made, plain = ready(binarization=how, train_on="all"), ready(binarization=how)
    assert (len(made.train), len(made.test)) == (1400, 300)
    assert torch.equal(made.test.images.x, plain.test.images.x)
    assert torch.equal(made.train.images.x[:1100], plain.train.images.x)
    added = TEST.x if how == "stochastic" else made.test.images.x  # stochastic: grey, to be drawn anew
    assert torch.equal(made.train.images.x[1100:], added)
    assert torch.equal(made.train.images.y, torch.cat([TRAIN.y, TEST.y]))


@pytest.mark.parametrize(
    "how, kind", [("static", "binary"), ("stochastic", "binary"), ("fixed", "binary"), ("none", "levels")]
)
def test_kind(how, kind):
    assert data(binarization=how).kind == kind


def test_the_source_is_left_as_it_was():
    before = TRAIN.x.clone(), TEST.x.clone()
    for how in ("static", "stochastic", "fixed", "none"):
        ready(binarization=how, invert=True, train_on="all")
    assert torch.equal(TRAIN.x, before[0]) and torch.equal(TEST.x, before[1])


def test_labels_stay_with_their_images():
    numbered = Images(torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 5), torch.arange(200))
    made = ready(numbered, numbered, num_classes=None, binarization="none", validation_size=50)
    for loader in (made.train_dataloader(), made.val_dataloader(), made.test_dataloader()):
        x, y = batches(made, loader)
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), y)


def test_every_evaluation_image_once_whatever_the_processes():
    made, seen = ready(binarization="none"), []
    for rank in range(3):
        made.trainer = SimpleNamespace(world_size=3, global_rank=rank)
        seen.append(batches(made, made.test_dataloader())[0])
    together = torch.cat(seen)
    assert len(together) == 300 and torch.equal(together.unique(dim=0), (TEST.x.float() / 255).unique(dim=0))


def test_training_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        loader = data_of[seed].train_dataloader()
        loader.sampler.set_epoch(epoch)
        return list(loader.sampler)

    data_of = {seed: ready(seed=seed) for seed in (0, 1)}
    assert sorted(order(0, 0)) == list(range(1100))
    assert order(0, 0) == order(0, 0) and order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)


@pytest.mark.parametrize(
    "key, value",
    [
        ("batch_size", 0), ("eval_batch_size", 2.5), ("binarization", "dynamic"), ("invert", "yes"), ("train_on", "test"),
        ("validation_size", -1), ("seed", -1), ("seed", "a"), ("num_classes", 0), ("image_shape", [28, 28]), ("image_shape", [1, 0, 5]),
    ],
)  # fmt: skip
def test_wrong_values_are_named(key, value):
    with pytest.raises(ConfigError) as error:
        data(**{key: value})
    assert (error.value.key, error.value.value) == (key, value)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"image_shape": [3, 4, 5]}, "data.image_shape=[3, 4, 5]: must be [1, 4, 5], as the images are"),
        ({"validation_size": 1100}, "data.validation_size=1100: must be below the 1100 training images"),
        ({"num_classes": 9}, "data.num_classes=9: must be at least 10: the labels are 0 … 9"),
    ],
)
def test_values_that_do_not_fit_the_images(changed, message):
    with pytest.raises(ConfigError) as error:
        ready(**changed)
    assert str(error.value) == message


def config(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_table_of_data_is_complete():
    assert sorted(DATA) == sorted(path.stem for path in (CONF / "data").glob("[!_]*.yaml"))


@pytest.mark.parametrize("name", DATA)
def test_each_config_makes_its_data(name, tmp_path):
    cfg = config(f"data={name}", f"data.root={tmp_path}", "data.binarization=fixed", "data.validation_size=5", "seed=7")
    made = make(cfg, "data")
    assert isinstance(made, ImageData) and list(made.image_shape) == list(cfg.data.image_shape)
    assert (made.binarization, made.validation_size, made.seed, made.train_on, made.invert) == (
        "fixed",
        5,
        7,
        "train",
        False,
    )


def test_image_folder_shape_from_size_and_channels(tmp_path):
    cfg = config("data=image_folder", f"data.root={tmp_path}", "data.image_size=64", "data.channels=1")
    assert make(cfg, "data").image_shape == make(cfg, "data").source.shape == (1, 64, 64)
    cfg = config("data=image_folder", f"data.root={tmp_path}", "data.image_shape=[3,48,64]")
    assert make(cfg, "data").image_shape == make(cfg, "data").source.shape == (3, 48, 64)


@pytest.mark.parametrize(
    "overrides, key",
    [
        (["data=image_folder"], "data.root"),  # never another set's folder by accident
        (["data=image_folder", "data.root=x", "data.test_size=0"], "data.test_size"),
        (["data=image_folder", "data.root=x", "data.test_size=1.5"], "data.test_size"),
        (["data=image_folder", "data.root=x", "data.channels=2"], "data.image_shape"),
        (["data=synthetic", "data.source.train_size=0"], "data.source.train_size"),
        (["data=synthetic", "data.num_classes=null"], "data.num_classes"),
        (["data=kmnist", "data.source.dataset=EMNIST"], "data.source.dataset"),
    ],
)
def test_wrong_values_in_a_config_are_named_from_the_root(overrides, key):
    with pytest.raises(ConfigError) as error:
        make(config(*overrides), "data")
    assert error.value.key == key
