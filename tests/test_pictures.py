"""Grids, manifold, GIF and files, by their pixels."""

import io
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cvae import pictures
from cvae.files import save


def test_grid_places_images_row_by_row():
    images = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 1, 2, 2)
    pixels = pictures.grid(images, columns=2, padding=1, zoom=2)
    assert pixels.shape == (14, 14, 3) and pixels.dtype == np.uint8
    assert [pixels[y, x, 0] for y in (3, 9) for x in (3, 9)] == [0, 85, 170, 255]


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


def test_save_writes_a_whole_file_or_none(tmp_path, monkeypatch):
    save(tmp_path / "new" / "a.bin", b"first")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"first"

    def full(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "new" / "a.bin", b"second")
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"first"]
