"""Turn the values of a user's own arrays into levels."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cvae.checks import is_int, positive_number
from cvae.errors import ConfigError, DataError

log = logging.getLogger(__name__)

BLOCK = 100  # images that are looked at or changed at once: all of them would need several times the memory
ROUNDING = 1e-6  # how far a float may lie outside its range, as a share of it


@dataclass(frozen=True)
class Values:
    """How images x (N, H, W[, C]) of any type become levels uint8 (N, C, H, W).

    Args:
        white: the value that is white; None: 255 of uint8, 1 of floats and bool
        first: the channels that come first, as [3, 2, 1]: pictures show the first three. None: as they are

    Raises:
        ConfigError: a value is not as above.
    """

    white: float | None = None
    first: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.white is not None:
            positive_number("white", self.white)
        if self.first is not None and not (
            all(is_int(n) and n >= 0 for n in self.first) and len(set(self.first)) == len(self.first)
        ):
            raise ConfigError("first", list(self.first), "a list of different channels, counted from 0, or null")

    def require_channels(self, channels: int) -> None:
        """Raise ConfigError unless there are such channels."""
        if self.first and max(self.first) >= channels:
            raise ConfigError("data.first", list(self.first), f"of channels from 0 to {channels - 1}")

    def levels(self, x: np.ndarray, file: Path) -> Tensor:
        """x (N, H, W[, C]) as uint8 (N, C, H, W). Raises DataError as `require` does."""
        self.require(x, file)
        out = np.empty((len(x), x.shape[3] if x.ndim == 4 else 1, *x.shape[1:3]), np.uint8)
        for start in range(0, len(x), BLOCK):
            out[start : start + BLOCK] = self.of(x[start : start + BLOCK])
        return torch.from_numpy(out)

    def of(self, x: np.ndarray) -> np.ndarray:
        """Images (B, H, W[, C]) whose values are in the range, as levels uint8 (B, C, H, W), a view where it can be."""
        if x.dtype != np.uint8 or self.white is not None:
            x = np.rint(255 / (self.white or 1) * x.astype(np.float64)).clip(0, 255).astype(np.uint8)
        x = x.reshape(*x.shape[:3], -1)
        if self.first is not None:
            x = x[..., [*self.first, *(n for n in range(x.shape[3]) if n not in self.first)]]
        return x.transpose(0, 3, 1, 2)

    def require(self, x: np.ndarray, file: Path) -> None:
        """Raise DataError, with what to do, unless all values are in the range; warn where all stay far below it."""
        if x.dtype == np.bool_ and self.white is None:
            return
        top, highest = self.white or (255 if x.dtype == np.uint8 else 1), 0.0
        for start in range(0, len(x), BLOCK):
            block = x[start : start + BLOCK]
            low, high = float(block.min()), float(block.max())
            if not (low >= -ROUNDING * top and high <= top * (1 + ROUNDING)):  # NaN too
                raise DataError(f"{file}: x is {x.dtype} and {outside(block, start, top, low, high)}")
            highest = max(highest, high)
            if x.dtype == np.uint8 and highest >= top / 4:
                return
        if x.dtype == np.uint8 and self.white is None and highest == 1:
            allowed = (
                "levels go from 0 (black) to 255 (white). Save binary images as bool or as floats; or data.white=1"
            )
            raise DataError(f"{file}: x is uint8 and has only 0 and 1; {allowed}")
        if 0 < highest < top / 4:
            said = f"the largest value in them is {highest:g}, and {top:g} is white. If another is, say data.white"
            log.warning("%s: all %s images are almost black: %s", file, f"{len(x):,}", said)


def outside(block: np.ndarray, start: int, top: float, low: float, high: float) -> str:
    """What is wrong with the values of the images from index `start` on, and what to do."""
    values = block.reshape(len(block), -1)
    bad = ~((values >= -ROUNDING * top) & (values <= top * (1 + ROUNDING)))
    images = np.flatnonzero(bad.any(1))
    of = f"{bad.sum():,} values of {len(images):,} of the images {start} to {start + len(block) - 1}"
    where = f"{of} are not in it, the first in image {start + images[0]}"
    if not np.isfinite([low, high]).all():
        gone = int((~np.isfinite(values)).sum())
        return (
            f"has NaN or infinity {gone:,} times; it must be in [0, {top:g}]: {where}. numpy.nan_to_num replaces them"
        )
    kind = "floats" if np.issubdtype(block.dtype, np.floating) else "values"
    advice = "divide grey levels by 255"
    if low >= -1 - ROUNDING and low < 0 and high <= 1 + ROUNDING:
        advice = "of [-1, 1] save (x + 1) / 2"
    elif high > 255 or top != 1 or kind == "values":
        advice = "data.white=VALUE says which one is white"
    said = f"goes from {low:g} to {high:g} in the images {start} to {start + len(block) - 1}"
    return f"{said}; {kind} must be in [0, {top:g}]: {advice} ({where})"
