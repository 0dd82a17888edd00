"""The images made in memory."""

import math

import pytest
import torch

from cvae.data.synthetic import Synthetic
from cvae.errors import ConfigError


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 5, 9)])
def test_synthetic(shape):
    train, test = Synthetic(None, shape, 5, 40, 11).load()
    assert (train.x.shape, test.x.shape) == ((40, *shape), (11, *shape))
    assert train.x.dtype == torch.uint8 and train.y.dtype == torch.int64
    assert train.y.bincount().tolist() == [8] * 5
    again = Synthetic("anywhere", shape, 5, 40, 11).load()
    assert torch.equal(train.x, again[0].x) and torch.equal(test.x, again[1].x)
    assert not torch.equal(train.x[:11], test.x)


def test_synthetic_class_decides_the_place():
    """The nearest class mean of the training images names every test image's class."""
    train, test = (
        images._replace(x=images.x.double().flatten(1)) for images in Synthetic(None, (1, 28, 28), 6, 240, 60).load()
    )
    means = torch.stack([train.x[train.y == label].mean(0) for label in range(6)])
    assert torch.equal(torch.cdist(test.x, means).argmin(1), test.y)


def test_synthetic_pixels():
    """Pixel by pixel: a Gaussian spot of width 0.12 within 5 % of its class's point, between 70 and 100 % bright."""
    shape, classes = (3, 5, 7), 3
    before = torch.get_rng_state()
    sets = Synthetic(None, shape, classes, 4, 2).load()
    assert torch.equal(torch.get_rng_state(), before)  # its own generator
    generator = torch.Generator().manual_seed(0)
    for images in sets:  # the test images' draws follow those of the training images
        count = len(images.x)
        shift = torch.randn(count, 2, generator=generator)
        bright = torch.rand(count, 3, 1, 1, generator=generator)
        assert images.y.tolist() == [i % classes for i in range(count)]
        for i in range(count):
            angle = 2 * math.pi * (i % classes) / classes
            down = 0.5 + 0.3 * math.sin(angle) + 0.05 * shift[i, 0]
            right = 0.5 + 0.3 * math.cos(angle) + 0.05 * shift[i, 1]
            for c in range(3):
                for row in range(5):
                    for column in range(7):
                        distance = ((row + 0.5) / 5 - down) ** 2 + ((column + 0.5) / 7 - right) ** 2
                        level = 255 * (0.7 + 0.3 * bright[i, c, 0, 0]) * math.exp(-distance / (2 * 0.12**2))
                        assert abs(images.x[i, c, row, column] - level) < 0.51


@pytest.mark.parametrize(
    "values, key",
    [
        (((1, 0, 9), 5, 4, 4), "image_shape"),
        (((1, 5, 9), None, 4, 4), "num_classes"),
        (((1, 5, 9), 5, 0, 4), "source.train_size"),
        (((1, 5, 9), 5, 4, True), "source.test_size"),
    ],
)
def test_synthetic_names_wrong_values(values, key):
    with pytest.raises(ConfigError) as error:
        Synthetic(None, *values)
    assert error.value.key == key


def test_synthetic_fetches_nothing(tmp_path):
    Synthetic(tmp_path / "none", (1, 5, 9), 5, 4, 4).download()
    assert list(tmp_path.iterdir()) == []
