"""Grids, manifold, GIF and files, by their pixels."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cvae import pictures


def test_grid_places_images_row_by_row():
    images = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 1, 2, 2)
    pixels = pictures.grid(images, columns=2, padding=1, zoom=2)
    assert pixels.shape == (14, 14, 3) and pixels.dtype == np.uint8
    assert [pixels[y, x, 0] for y in (3, 9) for x in (3, 9)] == [0, 85, 170, 255]


def test_grid_pads_by_two_zooms_by_three_and_rounds():
    image = torch.tensor([[-1.0, 0.5], [0.998, 2.0]], requires_grad=True)
    pixels = pictures.grid(image.expand(2, 1, 2, 2), columns=1)
    expected = np.zeros((10, 6), np.uint8)
    expected[2:4, 2:4] = expected[6:8, 2:4] = [[0, 128], [254, 255]]
    assert np.array_equal(pixels, expected.repeat(3, 0).repeat(3, 1)[..., None].repeat(3, 2))


def test_grid_of_colours_in_half_precision():
    images = torch.tensor([1.0, 0.0, 0.25], dtype=torch.bfloat16)[None, :, None, None].expand(3, 3, 1, 1)
    pixels = pictures.grid(images, columns=2, padding=0, zoom=1)
    assert pixels.tolist() == [[[255, 0, 64]] * 2, [[255, 0, 64], [0, 0, 0]]]


def test_manifold_of_a_class_asks_for_its_label():
    asked = []

    def decode(z, y):
        asked.append((tuple(z.shape), y.tolist(), torch.is_grad_enabled()))
        return SimpleNamespace(mean=torch.zeros(len(z), 1, 2, 3))

    assert pictures.latent_manifold(SimpleNamespace(decode=decode), 3, "cpu", 0).shape == (6, 9, 3)
    assert asked == [((9, 2), [0] * 9, False)]


def test_side_by_side_with_a_gap_of_white():
    dark = lambda height, width: np.full((height, width, 3), 7, np.uint8)
    for left, right in ((dark(4, 5), dark(6, 3)), (dark(6, 5), dark(4, 3))):
        pixels = pictures.side_by_side(left, right)
        assert pixels.shape == (6, 5 + 24 + 3, 3) and pixels.dtype == np.uint8
        expected = np.full((6, 32), 255)
        expected[: len(left), :5], expected[: len(right), 29:] = 7, 7
        assert np.array_equal(pixels[..., 0], expected)


def played(frames, *pace):
    """[(milliseconds, brightness)] of a GIF's frames."""
    found = []
    with Image.open(io.BytesIO(pictures.gif(frames, *pace))) as image:
        for index in range(image.n_frames):
            image.seek(index)
            found.append((image.info["duration"], int(np.asarray(image.convert("RGB"))[0, 0, 0])))
    return found


def test_equal_frames_are_one_longer_one():
    a, b = (np.full((8, 8, 3), value, np.uint8) for value in (0, 200))
    assert played([a, a, b], 300, 3000) == [(600, 0), (3000, 200)]
    assert played([a, b, b], 300, 3000) == [(300, 0), (3300, 200)]
    assert played([a, b, a], 100, 500) == [(100, 0), (100, 200), (500, 0)]
    assert played([a], 300, 3000) == [(3000, 0)] and played([a, a], 300, 3000) == [(3300, 0)]


@pytest.mark.parametrize(("classes", "colours"), [(10, "tab10"), (11, "nipy_spectral")])
def test_scatter_names_its_axes_and_classes(monkeypatch, classes, colours):
    import matplotlib.figure

    made, Figure = [], matplotlib.figure.Figure

    def figure(**arguments):
        made.append(Figure(**arguments))
        return made[-1]

    monkeypatch.setattr(matplotlib.figure, "Figure", figure)
    labels = np.arange(classes)
    means = np.stack([labels * 0.5, labels * -1.0, labels * 9.0], 1)
    pixels = pictures.latent_scatter(means, labels)
    assert pixels.shape == (660, 770, 3) and pixels.dtype == np.uint8
    ((axes,),) = (figure.axes for figure in made)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "z[0]", "z[1]", "posterior means of the test images",
    )  # fmt: skip
    legend, (points,) = axes.get_legend(), axes.collections
    assert legend.get_title().get_text() == "class" and len(legend.get_texts()) == classes and legend._loc_real == 1
    assert legend.get_texts()[0].get_fontsize() < legend.get_title().get_fontsize() or legend.prop.get_size() < 9
    assert np.array_equal(points.get_offsets(), means[:, :2]) and np.array_equal(points.get_array(), labels)
    assert (
        points.get_cmap().name == colours and list(points.get_sizes()) == [3] and list(points.get_linewidths()) == [0]
    )
    assert axes.get_aspect() == 1


def test_encoded_pictures():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    content = pictures.png(pixels)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)
    (value,) = pictures.image_summary("a tag", content, 2, 4).value
    image = value.image
    assert value.tag == "a tag" and (image.height, image.width, image.colorspace) == (2, 4, 3)
    assert image.encoded_image_string == content


def test_manifold_spans_the_quantiles_right_and_up():
    """A decoder that paints z itself: the first dimension grows to the right, the second upwards, as in the scatter."""
    mean = lambda z: torch.stack([z[:, 0], z[:, 1], 0 * z[:, 0]], 1)[:, :, None, None] / 4 + 0.5
    vae = SimpleNamespace(decode=lambda z, y: SimpleNamespace(mean=mean(z)))
    pixels = pictures.latent_manifold(vae, 20, "cpu") / 255 * 4 - 2
    low, high = -1.6449, 1.6449  # the 0.05 and 0.95 quantiles of the standard normal
    assert pixels.shape == (20, 20, 3)
    np.testing.assert_allclose(pixels[[0, 0, -1, -1], [0, -1, 0, -1], 0], [low, high, low, high], atol=0.02)
    np.testing.assert_allclose(pixels[[0, 0, -1, -1], [0, -1, 0, -1], 1], [high, high, low, low], atol=0.02)


def test_gif_holds_its_last_frame_and_loops():
    frames = [np.full((8, 8, 3), value, np.uint8) for value in (0, 100, 200)]
    with Image.open(io.BytesIO(pictures.gif(frames, 300, 3000))) as image:
        durations, values = [], []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
            values.append(np.asarray(image.convert("RGB"))[0, 0, 0])
        assert durations == [300, 300, 3000] and values == [0, 100, 200] and image.info["loop"] == 0


def test_gif_of_one_frame_or_equal_frames():
    frame = np.zeros((8, 8, 3), np.uint8)
    for frames in ([frame], [frame, frame]):
        assert pictures.gif(frames, 300, 3000).startswith(b"GIF8")


def test_scatter_draws_every_class_in_its_own_colour():
    labels = np.arange(10).repeat(30)
    means = np.stack([labels * 1.0, np.zeros(300)], 1)
    pixels = pictures.latent_scatter(means, labels).reshape(-1, 3)
    strong = pixels[np.ptp(pixels.astype(int), 1) > 60]
    assert len({tuple(colour // 48) for colour in strong}) >= 8
