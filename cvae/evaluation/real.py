"""Features of real images, computed once and kept."""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cvae.data import ImageData
from cvae.data.contents import fingerprint, of_array
from cvae.errors import UserError
from cvae.evaluation.classifier import kept, own_folder
from cvae.evaluation.features import Features, Network, Pixels, Watch
from cvae.evaluation.quality import BLOCK, TRAINING, QualitySettings, Real
from cvae.runs.small_files import read_bytes
from cvae.runs.storage import save
from cvae.runtime.devices import float32
from cvae.runtime.noise import fixed_noise, hashed_seed

log = logging.getLogger(__name__)

FITTED = 10_000  # training images that the principal components of pixels are found of
LARGEST = 2**33  # bytes of features


def chosen(word: str, data: ImageData, levels: Callable[[], ImageData]) -> tuple[Features, float | None]:
    """The features that a word asks for, in eval mode, and the accuracy of a classifier on the test images.

    Args:
        word: classifier, pixels, or a network of torchvision, with the file of its weights as in inception_v3:FILE
        data: as the model sees them, set up
        levels: returns the data without binarization

    Raises:
        UserError: there is no such network or file, or no classifier is kept for the data.
    """
    if word == "classifier":
        if (trained := kept(levels())) is None:
            raise UserError(
                "there is no classifier for these images. Train it once, in minutes: python -m cvae features RUN, "
                "or say --features pixels"
            )
        return trained
    if word == "pixels":
        rows = in_order(len(data.train), FITTED, 0)
        images = [turned(data, x) for x in blocks(data, "train", rows, 0)]
        return Pixels(torch.cat(images)), None
    kind, _, file = word.partition(":")
    return Network(kind, Path(file) if file else None), None


def real_features(data: ImageData, features: Features, settings: QualitySettings, watched: Watch) -> Real:
    """Features of the test images, and of training images drawn by seed: up to 60,000, or `samples` of a slow network.

    They are kept in the user's own folder, by the features' name and the images' own digest.
    """
    most = settings.samples if features.slow else max(TRAINING, settings.samples)
    test = torch.arange(min(settings.images or len(data.test), len(data.test)))
    train = in_order(len(data.train), most, settings.seed)
    found = [of_split(data, *part, features, settings, watched) for part in (("test", test), ("train", train))]
    return Real(found[0], found[1], train)


def in_order(count: int, most: int, seed: int) -> Tensor:
    """The numbers of `most` of `count` images, in an order that is drawn by seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]


def of_split(
    data: ImageData, split: str, rows: Tensor, features: Features, settings: QualitySettings, watched: Watch
) -> Tensor:
    """Features (N, D), float32 on the CPU, of the images of a split with these numbers (N,); from a file, if kept."""
    levels = getattr(data, split).images.take(rows).x
    drawn = f"-seed={settings.seed}" if split == "train" and data.binarization == "stochastic" else ""
    inverted = "-inverted" if data.invert else ""
    file = own_folder() / f"{features.name}-{fingerprint(of_array('levels', levels))}{inverted}{drawn}.npy"
    with suppress(OSError, EOFError, ValueError, UserError):
        found = np.load(io.BytesIO(read_bytes(file, LARGEST)), allow_pickle=False)
        if found.dtype == np.float32 and found.ndim == 2 and len(found) == len(rows) and np.isfinite(found).all():
            return torch.from_numpy(found)
    parts, count = [], -(-len(rows) // BLOCK)
    with torch.no_grad(), float32(features.device):
        for x in watched(blocks(data, split, rows, settings.seed), f"features of {split} images", count):
            parts.append(features(turned(data, x).to(features.device)).float().cpu())
    keep(file, torch.cat(parts))
    return torch.cat(parts)


def blocks(data: ImageData, split: str, rows: Tensor, seed: int) -> Iterator[Tensor]:
    """The images of these numbers as the model sees them, x (B, C, H, W), block by block; what is drawn is by seed."""
    for number, some in enumerate(rows.split(BLOCK)):
        with fixed_noise(hashed_seed(seed, 2, number), torch.device("cpu")):
            x, _ = data.batch(split, some.tolist())
        yield x


def turned(data: ImageData, x: Tensor) -> Tensor:
    """Images as the model sees them -> as the files have them, if data.invert turned them."""
    return 1 - x if data.invert else x


def keep(file: Path, features: Tensor) -> None:
    """Write features; where that cannot be, a line says so."""
    content = io.BytesIO()
    np.save(content, features.numpy())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save(file, content.getvalue())
    except OSError as error:
        log.warning("The features are not kept in %s: %s", file.parent, error.strerror or error)
