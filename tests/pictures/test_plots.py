"""Figures with axes: what they show, and where."""

import numpy as np
import pytest
import torch

from cvae import pictures
from cvae.pictures import grid, plots


@pytest.fixture
def figure(monkeypatch):
    """The functions return matplotlib's figure instead of its pixels."""
    monkeypatch.setattr(plots, "to_pixels", lambda figure: figure)


def ticks(axis):
    labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return {round(float(place), 6): label.get_text() for place, label in labels}


def size(figure):
    return tuple(round(inches * plots.DPI) for inches in figure.get_size_inches())


def pixel_box(axes):
    """left, bottom, width, height in pixels."""
    width, height = size(axes.figure)
    box = axes.get_position()
    return [round(value, 3) for value in (box.x0 * width, box.y0 * height, box.width * width, box.height * height)]


def test_pixels():
    """As uint8 with three channels; the picture in it is drawn pixel for pixel."""
    inside = np.arange(60, dtype=np.uint8).reshape(4, 5, 3).repeat(40, 0).repeat(40, 1)
    pixels = plots.to_pixels(plots.framed(inside, (2, 2), 50, 20, 30, 40)[0])
    assert pixels.dtype == np.uint8 and pixels.shape == (160 + 70, 200 + 70, 3)
    # but for the line around it
    assert np.array_equal(pixels[30 + 2 : 190 - 2, 50 + 2 : 250 - 2], inside[2:-2, 2:-2])


def test_a_frame_counts_in_cells(figure):
    _, axes = plots.framed(np.zeros((60, 90, 3), np.uint8), (2, 3), 10, 20, 30, 40)
    assert size(axes.figure) == (120, 130) and pixel_box(axes) == [10, 40, 90, 60]
    assert axes.get_xlim() == (0, 3) and axes.get_ylim() == (0, 2)
    assert axes.images[0].get_extent() == [0, 3, 0, 2] and axes.images[0].origin == "upper"


def test_the_manifold_has_axes(figure):
    z = torch.stack([torch.linspace(-1, 1, 11), torch.linspace(5, 15, 11)], 1)
    images = torch.rand(121, 1, 4, 4)
    found = pictures.manifold(images, z, "a title")
    (axes,) = found.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("z[0]", "z[1]", "a title")
    assert ticks(axes.xaxis) == {0.5: "−1.00", 2.5: "−0.60", 4.5: "−0.20", 6.5: "0.20", 8.5: "0.60", 10.5: "1.00"}
    assert ticks(axes.yaxis) == {0.5: "5.00", 2.5: "7.00", 4.5: "9.00", 6.5: "11.00", 8.5: "13.00", 10.5: "15.00"}
    assert np.array_equal(axes.images[0].get_array(), grid(images, 11, padding=0, zoom=12))  # 560 // 44
    assert pixel_box(axes)[2:] == [528, 528]
    large = pictures.manifold(torch.rand(4, 3, 300, 300), z[:2], "")
    assert large.axes[0].images[0].get_array().shape == (600, 600, 3) and len(ticks(large.axes[0].xaxis)) == 2


@pytest.mark.parametrize(("classes", "colours"), [(2, "tab10"), (10, "tab10"), (11, "tab20"), (20, "tab20")])
@pytest.mark.parametrize("step", [1, 7])
def test_a_map_by_class_has_its_legend_outside(figure, classes, colours, step):
    """Classes that occur have a colour each, whatever their numbers."""
    labels = np.arange(classes).repeat(3)
    points = np.stack([labels * 0.5, np.arange(3 * classes) * -1.0], 1)
    found = pictures.latent_map(points, step * labels, ("one", "two"), "a title")
    (axes,) = found.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("one", "two", "a title")
    (drawn,) = axes.collections
    assert np.array_equal(drawn.get_offsets(), points) and np.array_equal(drawn.get_array(), labels)
    assert drawn.get_cmap().name == colours and axes.get_aspect() == 1
    assert list(drawn.get_sizes()) == [20] and list(drawn.get_linewidths()) == [0]
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [str(step * k) for k in range(classes)]
    assert legend.get_title().get_text() == "class"
    found.canvas.draw()
    seen = [tuple(dot.get_markerfacecolor()) for dot in legend.get_lines()]
    assert seen == [tuple(drawn.to_rgba(k)) for k in range(classes)] and len(set(seen)) == classes
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1  # it covers no points


def test_a_legend_has_the_names_of_the_classes(figure):
    names = ("$x^", "_cat", "b\nline", "caf\udce9", 40 * "long", "never")
    found = pictures.latent_map(np.random.rand(6, 2), np.array([0, 1, 2, 3, 4, 9]), ("", ""), "", names)
    texts = [text.get_text() for text in found.axes[0].get_legend().get_texts()]
    assert texts == [r"\$x^", " _cat", "b line", r"caf\udce9", "longlonglon…longlonglong", "9"]
    found.canvas.draw()


def test_a_map_of_many_classes_has_a_scale_and_one_of_one_class_nothing(figure):
    labels = np.arange(21)
    found = pictures.latent_map(np.random.rand(21, 2), labels, ("", ""), "")
    axes, scale = found.axes
    assert axes.get_legend() is None and scale.get_ylabel() == "class"
    assert axes.collections[0].get_cmap().name == "nipy_spectral"
    (axes,) = pictures.latent_map(np.random.rand(21, 2), 0 * labels, ("", ""), "").axes
    assert axes.get_legend() is None
    sizes = [pictures.latent_map(np.random.rand(n, 2), np.zeros(n), ("", ""), "").axes[0] for n in (2000, 10_000)]
    assert [list(axes.collections[0].get_sizes()) for axes in sizes] == [[10], [4]]


def test_a_traversal_row_by_row(figure):
    images = torch.rand(2, 3, 1, 5, 5)
    found = pictures.traversal(images, [4, 0], [-3.0, 0.0, 1.5], [1.4, -9.0], [2.0, 0.25], True, "a title")
    axes, bars = found.axes
    assert np.array_equal(axes.images[0].get_array(), grid(images.flatten(0, 1), 3))
    assert ticks(axes.yaxis) == {1.5: "z[4]", 0.5: "z[0]"} and ticks(axes.xaxis) == {0.5: "−3", 1.5: "0", 2.5: "1.5"}
    assert axes.get_title() == "a title" and axes.get_xlabel() == "standard deviations from the mean of all images"
    frames = [(frame.get_xy(), frame.get_width(), frame.get_height(), frame.get_fill()) for frame in axes.patches]
    assert frames == [((2, 1), 1, 1, False), ((0, 0), 1, 1, False)]
    lengths = {round(bar.get_y() + bar.get_height() / 2, 6): bar.get_width() for bar in bars.patches}
    assert lengths == {1.5: 2.0, 0.5: 0.25}
    assert [text.get_text() for text in bars.texts] == ["2.00", "0.25"]
    assert bars.get_ylim() == (0, 2) and bars.get_xlim() == (0, 3.0) and bars.get_xlabel() == "rate, nats"
    assert len(bars.get_xticks()) == len(bars.get_yticks()) == 0
    left, bottom, width, height = pixel_box(axes)
    assert pixel_box(bars) == pytest.approx([left + width + 20, bottom, 130, height], abs=0.01)


def test_a_traversal_of_one_latent_that_tells_nothing(figure):
    found = pictures.traversal(torch.rand(1, 2, 3, 5, 5), [0], [-3.0, 3.0], [0.5], [0.0], False, "")
    assert found.axes[1].get_xlabel() == "information, nats" and found.axes[1].get_xlim() == (0, 0.015)


def test_rates_highest_first(figure):
    rate = torch.tensor([0.5, 2.0, 0.0])
    (axes,) = pictures.rates(rate, True).axes
    assert [bar.get_height() for bar in axes.patches] == [2.0, 0.5, 0.0]
    assert ticks(axes.xaxis) == {0: "1", 1: "0", 2: "2"}
    assert axes.get_title() == "rate of each latent dimension, 2.50 nats in all"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("dimension of z", "nats per image")
    (axes,) = pictures.rates(rate, False).axes
    assert axes.get_title() == "what each latent dimension tells of the image, estimated by variances"
    few, many, very_many = (pictures.rates(torch.rand(count), True) for count in (32, 64, 200))
    assert len(ticks(many.axes[0].xaxis)) == 64 and len(ticks(very_many.axes[0].xaxis)) < 64
    assert few.axes[0].get_xticklabels()[0].get_fontsize() > many.axes[0].get_xticklabels()[0].get_fontsize()
    assert size(few)[0] < size(many)[0] < size(very_many)[0] == 1600


def test_learning_curves_by_figure_and_split(figure):
    history = {
        "test/elbo": [(1, -190.0), (3, -170.0)], "train/elbo": [(1, -200.0), (2, -180.0)], "test/rate": [(1, 3.0)],
        "train/distortion": [(1, 190.0)], "test/distortion": [(2, 170.0)],
    }  # fmt: skip
    found = pictures.curves(history)
    shown = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in found.axes]
    assert shown == [
        {"train": [[1, -200], [2, -180]], "test": [[1, -190], [3, -170]]},
        {"test": [[1, 3]]},
        {"train": [[1, 190]], "test": [[2, 170]]},
    ]
    assert [axes.get_title() for axes in found.axes] == ["ELBO", "rate", "distortion"]
    assert all((axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "nats per image") for axes in found.axes)
    names = [text.get_text() for text in found.axes[0].get_legend().get_texts()]
    assert names == ["train", "test"] and found.axes[0].lines[0].get_marker() == "."
    assert found.axes[0].get_xlim() == (0, 1.05 * 3)
    short = pictures.curves({"train/elbo": [(1, -200.25)], "test/elbo": [(1, -200.5)]}).axes[0]
    assert short.get_xlim() == (0, 2) and [*short.get_xticks()] == [0, 1, 2]  # not a tenth of an epoch
    short.figure.draw_without_rendering()
    assert short.yaxis.get_offset_text().get_text() == ""
    long = pictures.curves({"train/elbo": [(epoch, 0.0) for epoch in range(30)]})
    assert long.axes[0].lines[0].get_marker() in (None, "None")


def test_no_window_is_opened():
    """The figures are not pyplot's, which keeps all of them."""
    import matplotlib.pyplot as plt

    assert pictures.rates(torch.rand(3), True).shape == (400, 600, 3) and plt.get_fignums() == []
