"""Grids of images and encoded pictures, by their pixels."""

import io

import imageio.v3 as imageio
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


def test_encoded_pictures():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    content = pictures.png(pixels)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)
    (value,) = pictures.image_summary("a tag", content, 2, 4).value
    image = value.image
    assert value.tag == "a tag" and (image.height, image.width, image.colorspace) == (2, 4, 3)
    assert image.encoded_image_string == content


def test_how_large_a_pixel_is_drawn():
    for side, zoom in ((1, 3), (64, 3), (85, 3), (86, 2), (128, 2), (129, 1), (256, 1), (700, 1)):
        for size in ((side, 1), (1, side)):
            height, width = (zoom * (length + 4) for length in size)
            assert pictures.grid(torch.zeros(1, 1, *size), 1).shape == (height, width, 3)


def test_names_stand_below_the_images():
    """Three of them in two columns; what is too long ends in dots, and nothing is written over a neighbour."""
    images = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1, 1).expand(3, 3, 30, 20)
    names = ["cat", "a name that is far too long", "ø"]
    found = pictures.named(images, 2, names)
    plain = pictures.named(images, 2, [""] * 3)
    assert found.shape == plain.shape == (3 * (2 * (30 + 7 + 2) + 2), 3 * (2 * (20 + 2) + 2), 3)
    written = (found != plain).any(2)
    for number, (row, column) in enumerate(((0, 0), (0, 1), (1, 0))):
        top, left = 3 * (2 + 39 * row), 3 * (2 + 22 * column)
        assert (found[top : top + 90, left : left + 60] == round(255 * (0.2 + 0.2 * number))).all()
        below = slice(top + 90, top + 111), slice(left, left + 60)
        assert (plain[below] == 255).all() and written[below].sum() > 10
        written[below] = False
    assert not written.any()
    assert not np.array_equal(found, pictures.named(images, 2, ["cow", *names[1:]]))
    assert np.array_equal(found, pictures.named(images, 2, ["c\nat".replace("\n", ""), names[1] + " indeed", "ø"]))


def test_a_pair_of_grids():
    sets = torch.rand(2, 4, 1, 30, 30)
    heads = ("left", "right")
    plain = [pictures.headed(pictures.grid(images, 2), head) for images, head in zip(sets, heads, strict=True)]
    assert np.array_equal(pictures.pair(tuple(sets), heads, 2), pictures.side_by_side(*plain))
    names = ["a", "b", "c", "d"]
    with_names = [
        pictures.headed(pictures.named(images, 2, names), head) for images, head in zip(sets, heads, strict=True)
    ]
    assert np.array_equal(pictures.pair(tuple(sets), heads, 2, names), pictures.side_by_side(*with_names))


def test_side_by_side_with_a_gap_of_white():
    dark = lambda height, width: np.full((height, width, 3), 7, np.uint8)
    for left, right in ((dark(4, 5), dark(6, 3)), (dark(6, 5), dark(4, 3))):
        pixels = pictures.side_by_side(left, right)
        assert pixels.shape == (6, 5 + 24 + 3, 3) and pixels.dtype == np.uint8
        expected = np.full((6, 32), 255)
        expected[: len(left), :5], expected[: len(right), 29:] = 7, 7
        assert np.array_equal(pixels[..., 0], expected)
    three = pictures.side_by_side(dark(2, 1), dark(2, 2), dark(2, 3))
    assert np.array_equal(three[0, :, 0] == 7, [True] + [False] * 24 + [True] * 2 + [False] * 24 + [True] * 3)


def test_strips_have_their_ends_at_the_sides():
    """Two ways of three steps between images of one pixel."""
    a, b = torch.tensor([0.1, 0.2]).view(2, 1, 1, 1), torch.tensor([0.9, 0.8]).view(2, 1, 1, 1)
    way = torch.tensor([[0.3, 0.4], [0.5, 0.6], [0.7, 0.75]]).view(3, 2, 1, 1, 1)
    pixels = pictures.strips(a, way, b)
    left, right = pictures.grid(a, 1), pictures.grid(b, 1)
    middle = pictures.grid(way.transpose(0, 1).reshape(6, 1, 1, 1), 3)
    assert np.array_equal(pixels, pictures.side_by_side(left, middle, right))
    start = left.shape[1] + 24
    levels = [[int(pixels[6 + 9 * row, start + 6 + 9 * column, 0]) for column in range(3)] for row in range(2)]
    assert levels == [[round(255 * value) for value in row] for row in ((0.3, 0.5, 0.7), (0.4, 0.6, 0.75))]


def test_a_heading_stands_above():
    pixels = np.full((40, 300, 3), 7, np.uint8)
    found = pictures.headed(pixels, "epoch 1")
    assert found.shape == (68, 300, 3) and np.array_equal(found[28:], pixels)
    text, other = found[:28], pictures.headed(pixels, "epoch 2")[:28]
    assert text[:, 0].min() == 255 and text.min() == 0 and not np.array_equal(text, other)
    assert (text[:, 150:] == 255).all()  # at the left


def played(frames, pace):
    """[(milliseconds, brightness)] of a GIF's frames."""
    found = []
    with Image.open(io.BytesIO(pictures.gif(frames, pace))) as image:
        assert image.info["loop"] == 0
        for index in range(image.n_frames):
            image.seek(index)
            found.append((image.info["duration"], int(np.asarray(image.convert("RGB"))[0, 0, 0])))
    return found


def test_each_frame_of_a_gif_has_its_time():
    a, b, c = (np.full((8, 8, 3), value, np.uint8) for value in (0, 100, 200))
    assert played([a, b, c], [300, 100, 3000]) == [(300, 0), (100, 100), (3000, 200)]
    with pytest.raises(ValueError, match="shorter"):
        pictures.gif([a, b], [300])


def test_frames_of_another_size_are_scaled_to_the_first():
    """Those that a run saved before its pictures had another size; they would be cut off."""
    small, large = np.zeros((8, 8, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    large[8:, 8:] = 200
    frames = imageio.imread(pictures.gif([small, large], [300, 300]), index=None, extension=".gif")
    assert frames.shape[:3] == (2, 8, 8) and frames[1, 7, 7].max() > 150 and frames[1, 0, 0].max() < 50


def test_equal_frames_are_one_longer_one():
    """Where they have no GIF's loop: that of one frame."""
    a, b = (np.full((8, 8, 3), value, np.uint8) for value in (0, 200))
    assert played([a, a, b], [300, 200, 3000]) == [(500, 0), (3000, 200)]
    assert played([a, b, b], [300, 300, 3000]) == [(300, 0), (3300, 200)]
    assert played([a, b, a], [100, 100, 500]) == [(100, 0), (100, 200), (500, 0)]
    assert pictures.gif([a], [3000]).startswith(b"GIF8") and pictures.gif([a, a], [300, 3000]).startswith(b"GIF8")
