"""Binarization and splits of ImageData, wrong values, and the config of every data set."""

import pytest
import torch
from conftest import ROOT
from given import TEST, TRAIN, VALUES, Given, batches, data, images, ready, trained_on
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cvae.build import build_data, make
from cvae.checks import image_shape
from cvae.data import ImageData, Images
from cvae.data.images import draw, drawn_once
from cvae.errors import ConfigError

CONF = ROOT / "conf"
PUBLISHED = ("dsprites", "mpi3d", "shapes3d", "cars3d", "smallnorb")
DATA = ("mnist", "fashion_mnist", "kmnist", "cifar10", "image_folder", "sprites", "synthetic", *PUBLISHED)


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


@pytest.mark.parametrize("how", ["static", "stochastic", "fixed", "none"])
@pytest.mark.parametrize("invert", [False, True])
def test_own_images_are_seen_as_those_of_the_test_set(how, invert):
    made = ready(binarization=how, invert=invert)
    expected = batches(made, made.test_dataloader())[0]
    made.train = made.test = None  # neither is needed
    seen = made.as_tested(TEST.x)
    assert seen.dtype == torch.float32 and torch.equal(seen, expected)


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
    """Its example draws image < uniform, ours uniform < 1 - image: the same with uniform -> 1 - uniform."""
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
    def evaluated(**changed):
        made = ready(binarization=how, **changed)
        return batches(made, made.test_dataloader())[0]

    expected = evaluated()
    torch.manual_seed(99)
    for changed in (
        {"eval_batch_size": 1},
        {"eval_batch_size": 300},
        {"batch_size": 7},
        {"train": TEST},
        {"train_on": "all"},
    ):
        assert torch.equal(expected, evaluated(**changed)), changed
    assert not torch.equal(expected, evaluated(seed=1))


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


def numbered(count, start=0):
    """Images whose level, label and factors are their number."""
    n = torch.arange(start, start + count)
    return Images(n.byte()[:, None, None, None].expand(-1, 1, 4, 5).clone(), n, torch.stack([n, -n], 1))


@pytest.mark.parametrize("how", ["static", "stochastic", "fixed", "none"])
def test_labels_and_factors_stay_with_their_images(how):
    """Whatever is done to the images: each (pixels, label, factors) comes from one image of the source."""
    made = ready(
        numbered(150), numbered(50, 150), num_classes=None, binarization=how, validation_size=40, train_on="all",
        invert=True, seed=5,
    )  # fmt: skip
    order = torch.randperm(200, generator=torch.Generator().manual_seed(5)).tolist()
    splits = {"train": order[40:], "validation": order[:40], "test": list(range(150, 200))}
    for split, numbers in splits.items():
        images = getattr(made, split).images
        assert images.y.tolist() == numbers and images.factors.tolist() == [[n, -n] for n in numbers]
        if how == "none":
            assert images.x[:, 0, 3, 4].tolist() == [255 - n for n in numbers]
        if how == "static":
            assert images.x[:, 0, 3, 4].tolist() == [255 * (255 - n > 127) for n in numbers]


def test_what_is_drawn_once_follows_from_the_seed():
    """By value: first the test images, then those for training (fixed) or validation (stochastic), by one generator."""
    once = torch.Generator().manual_seed(7)
    expected = drawn_once(TEST, once), drawn_once(TRAIN, once)
    made = ready(binarization="fixed", seed=7)
    assert torch.equal(made.test.images.x, expected[0].x) and torch.equal(made.train.images.x, expected[1].x)
    once = torch.Generator().manual_seed(7)
    order = torch.randperm(1100, generator=torch.Generator().manual_seed(7))
    expected = drawn_once(TEST, once), drawn_once(TRAIN.take(order[:100]), once)
    made = ready(binarization="stochastic", seed=7, validation_size=100)
    assert torch.equal(made.test.images.x, expected[0].x) and torch.equal(made.validation.images.x, expected[1].x)
    assert torch.equal(made.train.images.x, TRAIN.x[order[100:]])  # grey: drawn anew


def test_static_threshold():
    """127 / 255 is below one half, 128 / 255 above."""
    levels = torch.tensor([0, 126, 127, 128, 129, 255], dtype=torch.uint8).reshape(1, 1, 2, 3)
    given = Images(levels, torch.zeros(1, dtype=torch.int64))
    for invert, expected in ((False, [0, 0, 0, 1, 1, 1]), (True, [1, 1, 1, 0, 0, 0])):
        made = ready(given, given, image_shape=[1, 2, 3], binarization="static", invert=invert)
        for split in ("train", "test"):
            assert made.batch(split, [0])[0].flatten().tolist() == expected


def test_classes_as_configured_or_as_the_source_counts_them():
    assert data().classes() == 10 and data(num_classes=None).classes() is None
    counted = Given(TRAIN, TEST)
    counted.classes = lambda: 10
    for num_classes in (10, None):
        made = ImageData(counted, **VALUES | {"num_classes": num_classes})
        assert made.classes() == 10
        made.setup()
    made = ImageData(counted, **VALUES | {"num_classes": 12, "root": "somewhere"})
    assert made.classes() == 12
    with pytest.raises(ConfigError, match=r"data.num_classes=12: must be 10, the classes in somewhere, or null"):
        made.setup()


def test_the_source_gets_the_root_and_is_used_once():
    calls = []

    class Source:
        def __init__(self, root):
            calls.append(root)

        def download(self):
            calls.append("download")

        def load(self):
            calls.append("load")
            return TRAIN, TEST

    made = ImageData(Source, **VALUES | {"root": "somewhere"})
    assert calls == ["somewhere"] and made.train is made.validation is made.test is None
    made.prepare_data()
    made.setup("fit")
    made.setup("test")
    assert calls == ["somewhere", "download", "load"] and made.validation is None


@pytest.mark.parametrize(("share", "size"), [(0.1, 110), (1e-6, 1), (0.4995, 549)])
def test_a_share_of_the_training_images_for_validation(share, size):
    made, counted = ready(validation_size=share), ready(validation_size=size)
    assert len(made.validation) == size and len(made.train) == 1100 - size
    assert torch.equal(made.validation.images.x, counted.validation.images.x)


@pytest.mark.parametrize(
    "key, value",
    [
        ("batch_size", 0), ("batch_size", True), ("eval_batch_size", 2.5), ("eval_batch_size", 0),
        ("binarization", "dynamic"), ("binarization", None), ("train_on", "test"), ("train_on", True),
        ("invert", "yes"), ("invert", 1), ("invert", 0), ("invert", None),
        ("validation_size", -1), ("validation_size", True), ("validation_size", 1.0), ("validation_size", None),
        ("seed", -1), ("seed", "a"), ("seed", 2**32), ("seed", True), ("seed", None),
        ("num_classes", 0), ("num_classes", True), ("num_classes", "ten"),
        ("image_shape", [28, 28]), ("image_shape", [1, 0, 5]), ("image_shape", "145"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(key, value):
    with pytest.raises(ConfigError) as error:
        data(**{key: value})
    assert (error.value.key, error.value.value) == (key, value)
    allowed = {"invert": "true or false", "validation_size": "an integer of at least 0 or a share between 0 and 1"}
    assert error.value.allowed == allowed.get(key, error.value.allowed)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"image_shape": [3, 4, 5]}, "data.image_shape=[3, 4, 5]: must be [1, 4, 5], as the images are"),
        ({"validation_size": 1100}, "data.validation_size=1100: must be below the 1100 training images"),
        ({"num_classes": 9}, "data.num_classes=9: must be at least 10: the labels are 0 … 9"),
        ({"train": TRAIN.take([1]), "num_classes": 9}, "data.num_classes=9: must be at least 10: the labels are 0 … 9"),
        ({"test": TEST.take([1]), "num_classes": 9}, "data.num_classes=9: must be at least 10: the labels are 0 … 9"),
        (
            {"test": images(3, 0, (1, 4, 6))},
            "data.image_shape=[1, 4, 5]: must be [1, 4, 6], as the images are",
        ),
    ],
)
def test_values_that_do_not_fit_the_images(changed, message):
    with pytest.raises(ConfigError) as error:
        ready(**changed)
    assert str(error.value) == message


def test_the_least_that_validation_leaves_for_training():
    assert len(ready(validation_size=1099).train) == 1
    assert len(ready(validation_size=1100, train_on="all").train) == 300


@pytest.mark.parametrize("value", [[1, 4, 5], (3, 28, 32), OmegaConf.create({"n": 7, "x": [1, "${n}", 9]}).x])
def test_image_shapes(value):
    shape = image_shape("image_shape", value)
    assert type(shape) is tuple and shape == tuple(value)


@pytest.mark.parametrize(
    "value, allowed",
    [
        *((value, "three positive integers [channels, height, width]") for value in (
            None, 28, "128", True, [], [1, 28], [1, 28, 28, 1], [1, 28, 0], [1, -28, 28], [1, 28.0, 28], [True, 28, 28],
            [1, "28", 28], {"c": 1, "h": 2, "w": 3},
        )),
    ],
)  # fmt: skip
def test_wrong_image_shapes(value, allowed):
    with pytest.raises(ConfigError) as error:
        image_shape("key", value)
    shown = list(value) if isinstance(value, tuple) else value
    assert (error.value.key, error.value.value, error.value.allowed) == ("key", shown, allowed)


def config(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_table_of_data_is_complete():
    elsewhere = ("huggingface", "npz")  # with tests of their own
    assert sorted((*DATA, *elsewhere)) == sorted(path.stem for path in (CONF / "data").glob("*.yaml"))


@pytest.mark.parametrize("name", DATA)
def test_each_config_makes_its_data(name, tmp_path):
    cfg = config(f"data={name}", f"data.root={tmp_path}", "data.binarization=fixed", "data.validation_size=5", "seed=7")
    made = build_data(cfg)
    assert isinstance(made, ImageData) and list(made.image_shape) == list(cfg.data.image_shape)
    assert (made.binarization, made.validation_size, made.seed, made.train_on, made.invert) == (
        "fixed",
        5,
        7,
        "train",
        False,
    )


def test_the_images_left_for_training_are_too_few_for_validation():
    with pytest.raises(ConfigError, match="validation_size=5: must be below the 2 images in the training part of here"):
        few = ready(validation_size=0).train.images.take([0, 1])._replace(names=None)
        data = ready(validation_size=0)
        data.validation_size, data.split, data.root = 5, "hash", "here"
        data._parted(few)


def test_image_folder_shape_from_size_and_channels(tmp_path):
    cfg = config("data=image_folder", f"data.root={tmp_path}", "data.image_size=64", "data.channels=1")
    assert make(cfg, "data").image_shape == make(cfg, "data").source.reading.shape == (1, 64, 64)
    cfg = config("data=image_folder", f"data.root={tmp_path}", "data.image_size=[48,64]")
    assert build_data(cfg).image_shape == tuple(cfg.data.image_shape) == (3, 48, 64)
    cfg = config("data=image_folder", f"data.root={tmp_path}", "data.image_shape=[3,48,64]")
    assert make(cfg, "data").image_shape == make(cfg, "data").source.reading.shape == (3, 48, 64)


@pytest.mark.parametrize(
    "overrides, key",
    [
        (["data=image_folder"], "data.root"),  # never another set's folder by accident
        (["data=image_folder", "data.root=x", "data.test_size=0"], "data.test_size"),
        (["data=image_folder", "data.root=x", "data.test_size=1.5"], "data.test_size"),
        (["data=image_folder", "data.root=x", "data.channels=2"], "data.channels"),
        (["data=image_folder", "data.root=x", "data.image_size=0"], "data.image_size"),
        (["data=image_folder", "data.root=x", "data.image_size=[8,8,8]"], "data.image_size"),
        (["data=image_folder", "data.root=x", "data.image_size=[8,x]"], "data.image_size"),
        (["data=image_folder", "data.root=x", "data.channels=x"], "data.channels"),
        (["data=synthetic", "data.source.train_size=0"], "data.source.train_size"),
        (["data=synthetic", "data.num_classes=null"], "data.num_classes"),
        (["data=sprites", "data.source.x=33"], "data.source.x"),
        (["data=kmnist", "data.source.dataset=EMNIST"], "data.source.dataset"),
    ],
)
def test_wrong_values_in_a_config_are_named_from_the_root(overrides, key):
    with pytest.raises(ConfigError) as error:
        make(config(*overrides), "data")
    assert error.value.key == key
