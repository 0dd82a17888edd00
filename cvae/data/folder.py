"""A user's own images."""

import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cvae import checks
from cvae.checks import one_of, seed_number
from cvae.data.images import Images, size_of_test_set, texts
from cvae.data.listing import DRAWN_BY, Listing, list_folder
from cvae.data.module import ImageData
from cvae.errors import ConfigError, DataError

__all__ = ["image_folder"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")  # Pillow has more, and PostScript is a program


def image_folder(
    image_shape: Sequence[int],
    test_size: float,
    seed: int,
    image_size: int | None = None,
    channels: int | None = None,
    split: str = "position",
    **options: Any,
) -> ImageData:
    """ImageData of a user's own images; see `ImageFolder`.

    image_size and channels are keys of the config alone: it computes image_shape from them.
    """
    source = partial(ImageFolder, image_shape=image_shape, test_size=test_size, seed=seed, split=split)
    return ImageData(source, image_shape=image_shape, seed=seed, split=split, **options)


class ImageFolder:
    """The images below a folder, of any count, size and format that Pillow reads.

    Folders right below `root` that are called as splits are (`cvae.data.listing.FOLDERS`: train and test, and val if it
    is there, in any spelling) have the images of these splits. Without them, all images below `root` are one set, and a
    part of it is kept for testing. An image's class is the folder right below `root` (or below its split's) that holds
    it; the classes are numbered in alphabetical order. Images in no such folder are one more class, the first one. An
    image's name is its path from `root`.

    Each image is turned as its EXIF orientation says, made grey or RGB (transparent pixels become white; 16 bits become
    8), cropped around its centre to the aspect ratio of `image_shape` and resized (bilinear, antialiased). Of an
    animation or a file of several pages, the first picture is read. Files are left out if their names begin with a dot
    or do not end like an image's. Links to files and folders are followed, but no folder is read twice.

    Args:
        root: the folder
        image_shape: [C, H, W]; C is 1 (grey) or 3 (RGB)
        test_size: how many of the images (an integer), or which share of them (between 0 and 1), are the test set if
            there is no test folder
        seed: draws the test set
        split: how it is drawn (`cvae.data.listing.list_folder`)
    """

    def __init__(
        self, root: str | None, image_shape: Sequence[int], test_size: float, seed: int, split: str = "position"
    ):
        if root is None:
            raise ConfigError("root", root, "the folder of your images")
        self.root, self.test_size = Path(root).expanduser(), size_of_test_set("test_size", test_size)
        self.shape, self.seed = checks.image_shape("image_shape", image_shape), seed_number("seed", seed)
        self.split = one_of("split", split, DRAWN_BY)

    def download(self) -> None:
        """Nothing is fetched. Raises DataError if the folder is missing or has no images."""
        self.listing()

    def classes(self) -> int:
        """How many classes there are. Reads no image. Raises DataError as `download` does."""
        return len(self.listing().classes)

    def listing(self) -> Listing:
        """The files with their names, classes and splits. Raises DataError as `download` does."""
        return list_folder(self.root, self.test_size, self.seed, self.split)

    def load(self) -> tuple[Images, ...]:
        """(train, test), or (train, test, validation) where there is a folder for validation.

        Raises DataError if the folder is missing or empty, or names each unreadable file.
        """
        listing = self.listing()
        names, classes = texts(listing.names), listing.classes
        log.info("Reading %s images of %d classes from %s", f"{len(names):,}", len(classes), self.root)
        numbers = {name: label for label, name in enumerate(classes)}
        y = torch.tensor([numbers[folder] for folder in listing.folders])
        x = read_images([listing.path(number) for number in range(len(names))], self.shape)
        images, splits = Images(x, y, None, names, tuple(classes)), np.array(listing.splits)
        wanted = ("train", "test", *(["validation"] if "validation" in listing.splits else []))
        # A split is one block: a slice of it takes no memory.
        blocks = [np.flatnonzero(splits == split)[[0, -1]].tolist() for split in wanted]
        return tuple(images.take(slice(first, last + 1)) for first, last in blocks)


def read_images(files: list[Path], shape: tuple[int, int, int]) -> Tensor:
    """The files as uint8 (N, C, H, W); see `ImageFolder`. Raises DataError, which names each unreadable file."""
    x = torch.empty((len(files), *shape), dtype=torch.uint8)

    def read(number: int) -> str | None:
        try:
            x[number] = torch.from_numpy(read_image(files[number], shape))
        except UnidentifiedImageError:
            return "not an image of a known format"
        except Exception as error:  # a damaged file can make a decoder raise almost anything
            return str(error) or type(error).__name__

    # Pillow warns of a file that unpacks to very many pixels, and raises at twice as many; here both are errors.
    # The filter holds for all threads, so it is set once, outside them.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # Pillow works without holding Python's lock
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        reasons = list(pool.map(read, range(len(files))))
    if faults := [(path, why) for path, why in zip(files, reasons, strict=True) if why]:
        lines = "\n".join(f"  {path}: {' '.join(why.split())}" for path, why in faults)
        raise DataError(f"{len(faults)} of {len(files)} images cannot be read. Repair or delete them:\n{lines}")
    return x


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A file as uint8 (C, H, W); see `ImageFolder`. Raises whatever Pillow raises."""
    channels, height, width = shape
    if not path.is_file():  # a named pipe would make us wait for ever
        raise ValueError("not a file, or a link to none")
    with Image.open(path, formats=FORMATS) as image:
        # A JPEG decodes faster at a fraction of its size; at least twice ours keeps the detail.
        image.draft(None, (2 * max(height, width),) * 2)
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format in ("PNG", "PPM")):
            # 16 bits: Pillow's own conversion cuts off at 255 instead of scaling
            upright = Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
        if upright.mode in ("I", "F"):
            raise ValueError("its pixels are 32-bit numbers of an unknown range")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    upright = upright.convert("L" if channels == 1 else "RGB")
    # Antialiased, like all of Pillow's filters.
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    return np.array(fitted).reshape(height, width, channels).transpose(2, 0, 1)
