"""Images from a torch Dataset, or from anything else that gives images and labels by index."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cvae import checks
from cvae.data.decode import Reading, levels_of, limited
from cvae.data.images import Images
from cvae.errors import DataError
from cvae.runtime.devices import main_memory


def images_of(dataset: Any, image_shape: Sequence[int], classes: Sequence[str] | None = None) -> Images:
    """All images of a dataset in memory, in their order; each is read once.

    Args:
        dataset: has a length; dataset[i] is an image and its label, an integer of at least 0. An image is one of
            Pillow, which is made grey or RGB, cropped around its centre and resized; or an array or tensor (C, H, W) of
            the shape, uint8 or floats in [0, 1]
        image_shape: [C, H, W]
        classes: what the classes are called

    Raises:
        DataError: an image or a label is not as above, or there is not enough memory.
    """
    reading, count = Reading(checks.image_shape("image_shape", image_shape)), len(dataset)
    if (needed := count * int(np.prod(reading.shape))) > main_memory():
        raise DataError(f"{count:,} images take {needed / 2**30:.1f} GiB, more than there is of memory")
    x, y = np.empty((count, *reading.shape), np.uint8), np.zeros(count, np.int64)

    def read(number: int) -> str | None:
        try:
            image, label = dataset[number]
            x[number], y[number] = levels(image, reading), int(label)
        except Exception as error:  # whatever a dataset of somebody else raises
            return f"{type(error).__name__}: {error}"
        return None if y[number] >= 0 else f"the label {y[number]} is below 0"

    with limited(None), ThreadPoolExecutor() as pool:
        faults = [(number, why) for number, why in enumerate(pool.map(read, range(count))) if why]
    if faults:
        number, why = faults[0]
        raise DataError(f"{len(faults):,} of {count:,} images cannot be used. Number {number}: {why}")
    return Images(
        torch.from_numpy(x), torch.from_numpy(y), None, np.arange(count), None if classes is None else tuple(classes)
    )


def levels(image: Any, reading: Reading) -> np.ndarray:
    """An image as levels uint8 (C, H, W). Raises ValueError if it is none."""
    if isinstance(image, Image.Image):
        return levels_of(image, reading)[0]
    array = image.numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.shape != reading.shape:
        raise ValueError(f"its shape is {list(array.shape)}, not {list(reading.shape)} (data.image_shape)")
    if array.dtype == np.uint8:
        return array
    if not (array.min() >= 0 and array.max() <= 1):  # NaN too
        raise ValueError(f"it is {array.dtype} from {array.min():g} to {array.max():g}; must be uint8 or within [0, 1]")
    return np.rint(255 * array.astype(np.float64)).astype(np.uint8)
