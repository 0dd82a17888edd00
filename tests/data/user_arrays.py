"""A user's own arrays, saved for a test."""

import numpy as np
import pytest

from cvae.data.npz import Npz

RNG = np.random.default_rng(0)


@pytest.fixture
def saved(tmp_path):
    def save(name="images.npz", **arrays):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, **arrays)
        return str(tmp_path / name)

    return save


def grey(count=20, height=6, width=4):
    """uint8 (N, H, W): an image's number in its first pixel."""
    x = RNG.integers(0, 256, (count, height, width)).astype(np.uint8)
    x[:, 0, 0] = np.arange(count)
    return x


def source(root, test_size=0.25, seed=0):
    return Npz(root, test_size, seed)
