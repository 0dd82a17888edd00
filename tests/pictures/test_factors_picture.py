"""The picture of latents against factors: which numbers stand where."""

import numpy as np
import pytest

from cvae import pictures
from cvae.pictures import known_factors as module


@pytest.fixture
def figure(monkeypatch):
    """The function returns matplotlib's figure instead of its pixels."""
    monkeypatch.setattr(module, "to_pixels", lambda figure: figure)


def codes(latents):
    known = np.stack([np.arange(60) % 3, np.arange(60) % 4], 1)
    z = np.random.default_rng(0).normal(size=(60, latents))
    told = np.zeros((latents, 2))
    told[1], told[latents - 1] = (0.5, 0.25), (0.25, 0.75)
    return z, known, told


def test_the_matrix_and_the_best_latents(figure):
    z, known, told = codes(4)
    drawn = pictures.factors(z, known, told, ("shape", "_x$"))
    above, below = drawn.subfigs
    matrix = above.axes[0]
    assert np.array_equal(matrix.images[0].get_array(), told.T) and matrix.images[0].get_clim() == (0, 0.75)
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["shape", r" _x\$"]
    assert [label.get_text() for label in matrix.get_xticklabels()] == ["z[0]", "z[1]", "z[2]", "z[3]"]
    assert {(t.get_position(), t.get_text()) for t in matrix.texts} >= {((1, 0), "0.50"), ((3, 1), "0.75")}
    for panel, f, dim in zip(below.axes, (0, 1), (1, 3), strict=True):
        (line,) = panel.lines
        values = range(3 + f)
        assert line.get_xdata().tolist() == list(values) and panel.get_ylabel() == f"z[{dim}]"
        assert line.get_ydata() == pytest.approx([z[known[:, f] == value, dim].mean() for value in values])
        low = z[known[:, f] == 0, dim].mean() - z[known[:, f] == 0, dim].std()
        assert low in panel.collections[0].get_paths()[0].vertices[:, 1]


def test_of_many_latents_those_are_shown_that_tell_most(figure):
    drawn = pictures.factors(*codes(40), ("a", "b"))
    shown = drawn.subfigs[0].axes[0]
    assert shown.images[0].get_array().shape == (2, module.SHOWN) and not shown.texts
    labels = [label.get_text() for label in shown.get_xticklabels()]
    assert {"z[1]", "z[39]"} <= set(labels) and labels == sorted(labels, key=lambda text: int(text[2:-1]))


def test_pixels():
    z, known, told = codes(3)
    assert pictures.factors(z, known, 0 * told, ("a", "b")).dtype == np.uint8
