"""Images drawn from known factors, by value."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cvae.data import sprites as module
from cvae.data.mapped import IN_MEMORY, Mapped
from cvae.data.module import ImageData
from cvae.data.sprites import NAMES, Drawn, Sprites, places, templates
from cvae.errors import ConfigError

GRID = {"shape": 3, "size": 2, "rotation": 5, "x": 4, "y": 3}  # 360 images


def sprites(side=20, train_size=300, test_size=60, seed=0, **counts):
    return Sprites(None, (1, side, side), **GRID | counts, train_size=train_size, test_size=test_size, seed=seed)


def inside(shape, right, down):
    """Whether a point of the unit circle is in a shape, in words of its own."""
    if shape == 0:
        return abs(right) <= 0.7 and abs(down) <= 0.7
    if shape == 1:
        return math.hypot(right, down / 0.5) <= 1
    a, b = 1.35 * right, 0.15 - 1.35 * down
    return (a * a + b * b - 1) ** 3 <= a * a * b**3


def test_each_pixel_of_each_image():
    """Side 20: centres from 5 to 14, so radius 5 and 2.5; the k-th of n rotations is by k / n of a turn, clockwise."""
    train, test = sprites().load()
    centres = {4: [5, 8, 11, 14], 3: [5, 9, 14]}  # 4.5 is rounded to the even number, 4
    for images, count in ((train, 300), (test, 60)):
        assert images.x.shape == (count, 1, 20, 20) and images.x.dtype == torch.uint8
        assert images.factor_names == NAMES == ("shape", "size", "rotation", "x", "y")
        assert images.classes == ("square", "ellipse", "heart") and torch.equal(images.y, images.factors[:, 0])
        for x, (shape, size, rotation, column, row) in zip(images.x[:40, 0], images.factors.tolist(), strict=False):
            turn, radius = 2 * math.pi * rotation / 5, (2.5, 5)[size]
            cos, sin = math.cos(turn), math.sin(turn)
            for i in range(20):
                for j in range(20):
                    down, right = (i - centres[3][row]) / radius, (j - centres[4][column]) / radius
                    u, v = cos * right + sin * down, cos * down - sin * right
                    assert x[i, j] == 255 * inside(shape, u, v), (shape, size, rotation, column, row, i, j)


def test_both_sets_are_drawn_from_the_grid_without_repeats():
    train, test = sprites().load()
    every = torch.cat([train.factors, test.factors])
    assert len(every.unique(dim=0)) == 360 and every.amax(0).tolist() == [2, 1, 4, 3, 2] and every.amin() == 0


def test_the_images_depend_on_the_seed_alone():
    train, test = sprites().load()
    few, same = sprites(train_size=20).load()
    assert torch.equal(test.x, same.x) and torch.equal(train.x[:20], few.x) and len(few.x) == 20
    assert torch.equal(train.factors[:20], few.factors)
    assert not torch.equal(sprites(seed=1).load()[1].factors, test.factors)
    before = torch.get_rng_state()
    whole, _ = sprites(train_size=None).load()
    assert len(whole.x) == 300 and torch.equal(before, torch.get_rng_state())


def test_templates_have_the_symmetries_of_their_shapes():
    """Of 40 rotations a square has 10, an ellipse 20 and a heart 40 pictures, in each size; nothing is cut off."""
    drawn = templates(3, 6, 40, 64).reshape(3, 6, 40, 33, 33)
    for shape, different in enumerate((10, 20, 40)):
        for size in range(6):
            assert len(np.unique(drawn[shape, size].reshape(40, -1), axis=0)) == different
    away = np.hypot(*np.meshgrid(*[np.arange(33) - 16] * 2))
    assert 15 < (away * (drawn > 0)).max() <= 16
    areas = (drawn > 0).sum((2, 3, 4))
    assert all(small < large for sizes in areas for small, large in pairwise(sizes))
    assert np.allclose(areas[:, 0] / areas[:, -1], 1 / 4, atol=0.01)  # half as wide and high
    assert np.ptp(np.diff(areas**0.5, axis=1), axis=1).max() < 2  # even steps


def test_the_whole_grid_takes_megabytes():
    train, test = Sprites(None, (1, 64, 64), 3, 6, 40, 32, 32, None, 5000, 0).load()
    assert (len(train.x), len(test.x)) == (732_280, 5000) and train.nbytes > 10 * IN_MEMORY
    assert isinstance(train.x, Mapped) and isinstance(test.x, torch.Tensor)
    (part,) = train.x.parts
    assert part.array.windows.base is not None and len(part.array) == 737_280  # a view of the templates
    kept = sum(tensor.nbytes for tensor in (train.y, train.factors)) + train.x.rows.nbytes
    assert kept < 50 * 2**20
    few, _ = Sprites(None, (1, 64, 64), 3, 6, 40, 32, 32, 100, 5000, 0).load()
    assert torch.equal(train.x[:100], few.x) and torch.equal(train.x[[7, 3, 7]], few.x[[7, 3, 7]])


def test_a_batch_is_drawn_by_one_index():
    drawn = Drawn(templates(2, 1, 1, 16), 3, 2, 16)
    rows = np.array([0, 5, 6, 11])
    assert drawn.take(rows).shape == (4, 1, 16, 16) and len(drawn) == 12
    square = drawn.take(rows[:1])[0, 0] > 0
    assert np.array_equal(np.roll(square, (7, 7), (0, 1)), drawn.take(rows[1:2])[0, 0] > 0)  # from corner to corner


def test_places_are_as_even_as_whole_pixels_can_be():
    assert places(4, 31).tolist() == [0, 10, 21, 31]
    assert places(32, 31).tolist() == list(range(32))


def test_one_place_is_in_the_middle():
    train, _ = sprites(x=1, y=1, shape=1, size=1, rotation=4, train_size=3, test_size=1).load()
    assert all(torch.equal(x, train.x[0]) for x in train.x)  # a square, after quarters of a turn
    rows = train.x[0, 0].amax(1).nonzero()[:, 0]
    assert (rows.min() + rows.max()) / 2 == 9  # of 0 … 19: templates have an odd side


def test_factors_stay_with_their_images_in_splits():
    data = ImageData(
        lambda _: sprites(), None, (1, 20, 20), 3, 8, 8, "static", False, "all", 100, 0, split="position"
    )  # fmt: skip
    data.setup()
    known = {tuple(f): x for part in sprites().load() for f, x in zip(part.factors.tolist(), part.x, strict=True)}
    for split, count in ((data.train, 260), (data.validation, 100), (data.test, 60)):
        images = split.images
        assert len(images.x) == count and images.factor_names == NAMES
        for f, x in zip(images.factors.tolist(), images.x, strict=True):
            assert torch.equal(known[tuple(f)], x)


@pytest.mark.parametrize(
    "values, key",
    [
        ({"shape": 4}, "source.shape"), ({"size": 0}, "source.size"), ({"rotation": True}, "source.rotation"),
        ({"x": 11}, "source.x"), ({"y": 11}, "source.y"), ({"rotation": 1001}, "source.rotation"),
        ({"test_size": 360}, "source.test_size"), ({"test_size": 0}, "source.test_size"),
        ({"train_size": 301}, "source.train_size"), ({"train_size": 0}, "source.train_size"),
        ({"train_size": 2.5}, "source.train_size"), ({"seed": -1}, "source.seed"), ({"side": 15}, "image_shape"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(values, key):
    with pytest.raises(ConfigError) as error:
        sprites(**values)
    assert error.value.key == key


@pytest.mark.parametrize("shape", [(3, 20, 20), (1, 20, 24), (1, 20)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ConfigError) as error:
        Sprites(None, shape, *GRID.values(), 300, 60, 0)
    assert error.value.key == "image_shape"


def test_the_most_places_fit():
    assert len(sprites(x=10, y=10).load()[0].x) == 300


def test_it_counts_its_classes_and_fetches_nothing(tmp_path):
    source = sprites(shape=2, train_size=100)
    source.download()
    assert source.classes() == 2 and source.load()[0].classes == ("square", "ellipse")


@pytest.mark.parametrize(("shape", "u", "v"), [
    ("square", 0.7, 0.0), ("square", 0.0, -0.7), ("square", -0.7, 0.7), ("ellipse", 1.0, 0.0), ("ellipse", 0.0, -0.5),
    ("ellipse", 0.6, 0.4), ("heart", 0.0, 1.15 / 1.35), ("heart", 0.0, -0.85 / 1.35), ("heart", 1 / 1.35, 0.15 / 1.35),
])  # fmt: skip
def test_points_at_the_edge_of_a_shape(shape, u, v):
    """Just inside and just outside, seen from its middle."""
    assert module.inside(shape, np.array(0.999 * u), np.array(0.999 * v))
    assert not module.inside(shape, np.array(1.001 * u), np.array(1.001 * v))
