"""Known factors of a user's own images."""

import numpy as np
import pytest
import torch

from cvae.data.known import Known, read_factors
from cvae.data.npz import Npz
from cvae.errors import DataError

X = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
FACTORS = np.stack([np.arange(20), np.arange(20) % 3], 1)
NAMES = ["level", "third"]


def source(folder, x=X, **arrays):
    np.savez(folder / "images.npz", x=x, **arrays)
    return Npz(str(folder / "images.npz"), 5, 0, "hash")


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16])
def test_factors_stay_with_their_images(tmp_path, dtype):
    for images, count in zip(
        source(tmp_path, factors=FACTORS.astype(dtype), factor_names=NAMES).load(), (15, 5), strict=True
    ):
        assert images.factors.dtype == torch.int64 and images.factors.shape == (count, 2)
        assert images.factors[:, 0].tolist() == images.x[:, 0, 0, 0].tolist() and images.factor_names == (
            "level",
            "third",
        )
        assert images.factors[:, 1].tolist() == [level % 3 for level in images.factors[:, 0].tolist()]


def test_factors_without_names_and_images_without_factors(tmp_path):
    train, _ = source(tmp_path, factors=FACTORS).load()
    assert train.factors.shape == (15, 2) and train.factor_names is None
    train, _ = source(tmp_path).load()
    assert train.factors is None and train.factor_names is None


def test_a_set_of_several_files_has_no_factors(tmp_path):
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for file in files:
        np.savez(file, x=X, factors=FACTORS)
    assert read_factors(files) == Known(None, None)
    assert read_factors(files[:1]).factors.tolist() == FACTORS.tolist()


def test_other_factors_are_other_contents(tmp_path):
    found = []
    for arrays in ({}, {"factors": FACTORS}, {"factors": FACTORS + 1}):
        read = source(tmp_path, **arrays)
        read.load()
        found.append(read.contents)
    assert found[0] != found[1] != found[2] and found[0].items() < found[1].items()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"factors": FACTORS[:, 0]}, r"factors is int64 \(20,\); it must be integers \(20, F\)"),
        ({"factors": FACTORS[:9]}, r"factors is int64 \(9, 2\)"),
        ({"factors": FACTORS[:, :0]}, r"factors is int64 \(20, 0\)"),
        ({"factors": FACTORS / 2}, r"factors is float64 \(20, 2\)"),
        ({"factors": FACTORS, "factor_names": ["one"]}, r"factor_names is <U3 \(1,\); it must be texts \(2,\)"),
        ({"factors": FACTORS, "factor_names": [1, 2]}, r"factor_names is int64 \(2,\)"),
    ],
)
def test_wrong_factors_are_named_before_anything_is_read(tmp_path, arrays, said):
    with pytest.raises(DataError, match=f"images.npz: {said}"):
        source(tmp_path, **arrays).download()


def test_two_files_have_the_same_factors(tmp_path):
    def save(train, test):
        np.savez(tmp_path / "train.npz", x=X, **train)
        np.savez(tmp_path / "test.npz", x=X[:7], **test)
        return Npz(str(tmp_path), 5, 0, "hash").load()

    named = {"factors": FACTORS, "factor_names": NAMES}
    few = named | {"factors": FACTORS[:7]}
    train, test = save(named, few)
    assert train.factors.tolist() == FACTORS.tolist() and test.factors.tolist() == FACTORS[:7].tolist()
    for other in ({}, {"factors": FACTORS[:7, :1]}, few | {"factor_names": ["third", "level"]}):
        with pytest.raises(DataError, match="both must have the same factors"):
            save(named, other)
