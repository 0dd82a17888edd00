"""The known factors of a user's own images, in the same file of numpy.savez."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvae.data.arrays import array, headers
from cvae.errors import DataError


class Known(NamedTuple):
    """Factors int64 (N, F) of a set of images and what they are called; None and None where there are none."""

    factors: Tensor | None = None
    names: tuple[str, ...] | None = None


def check_factors(file: Path) -> None:
    """Raise DataError unless `factors` are integers (N, F) and `factor_names` F texts, where a file has them.

    The file's array x has been checked.
    """
    arrays = headers(file)
    if "factors" not in arrays:
        return
    count, (shape, dtype) = arrays["x"].shape[0], arrays["factors"][:2]
    if len(shape) != 2 or shape[0] != count or shape[1] == 0 or not np.issubdtype(dtype, np.integer):
        allowed = f"integers ({count}, F), for each image of x the numbers of its factors' values"
        raise DataError(f"{file}: factors is {dtype} {shape}; it must be {allowed}")
    names, of = arrays["factor_names"][:2] if "factor_names" in arrays else (shape[1:], np.dtype("U1"))
    if names != shape[1:] or of.kind != "U":
        raise DataError(f"{file}: factor_names is {of} {names}; it must be texts {shape[1:]}, a name for each factor")


def read_factors(files: Sequence[Path]) -> Known:
    """The factors of the images of a set, whose files have been checked. A set of several files has none."""
    arrays = headers(files[0])
    if len(files) > 1 or "factors" not in arrays:
        return Known()
    factors = array(files[0], "factors").astype(np.int64)
    names = tuple(array(files[0], "factor_names").tolist()) if "factor_names" in arrays else None
    return Known(torch.from_numpy(factors), names)


def require_alike(sets: Sequence[Known]) -> None:
    """Raise DataError unless the training and the test images have the same factors, or none."""
    if len({None if known.factors is None else (known.factors.shape[1], known.names) for known in sets}) > 1:
        raise DataError("train.npz and test.npz: both must have the same factors and factor_names, or none")
