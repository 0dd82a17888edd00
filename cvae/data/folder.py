"""A user's own images."""

import logging
import os
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
from torchvision import datasets

from cvae import checks
from cvae.checks import seed_number
from cvae.data.images import Images, held_out, size_of_test_set
from cvae.data.module import ImageData
from cvae.errors import ConfigError, DataError

__all__ = ["image_folder"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)

EXTENSIONS = (*datasets.folder.IMG_EXTENSIONS, ".gif", ".avif")  # torchvision's list, and two more that Pillow reads
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")  # Pillow has more, and PostScript is a program


def image_folder(
    image_shape: Sequence[int],
    test_size: float,
    seed: int,
    image_size: int | None = None,
    channels: int | None = None,
    **options: Any,
) -> ImageData:
    """ImageData of a user's own images; see `ImageFolder`.

    image_size and channels are keys of the config alone: it computes image_shape from them.
    """
    source = partial(ImageFolder, image_shape=image_shape, test_size=test_size, seed=seed)
    return ImageData(source, image_shape=image_shape, seed=seed, **options)


class ImageFolder:
    """The images below a folder, of any count, size and format that Pillow reads.

    `root`/train/… are the training images, `root`/test/… the test images. Without these two folders, all images below
    `root` are one set, and a part of it is kept for testing. An image's class is the folder right below `root` (or
    below train or test) that holds it; the classes are numbered in alphabetical order. Images in no such folder are one
    more class, the first one.

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
    """

    def __init__(self, root: str | None, image_shape: Sequence[int], test_size: float, seed: int):
        if root is None:
            raise ConfigError("root", root, "the folder of your images")
        self.root, self.test_size = Path(root).expanduser(), size_of_test_set("test_size", test_size)
        self.shape, self.seed = checks.image_shape("image_shape", image_shape), seed_number("seed", seed)

    def download(self) -> None:
        """Nothing is fetched. Raises DataError if the folder is missing or has no images."""
        self._find()

    def classes(self) -> int:
        """How many classes there are. Reads no image. Raises DataError as `download` does."""
        train, test = self._find()
        return len({name for _, name in train + test})

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if the folder is missing or empty, or names each unreadable file."""
        train, test = self._find()
        files = train + test
        classes = {name: label for label, name in enumerate(sorted({name for _, name in files}))}
        log.info("Reading %s images of %d classes from %s", f"{len(files):,}", len(classes), self.root)
        x = read_images([path for path, _ in files], self.shape)
        y = torch.tensor([classes[name] for _, name in files])
        return Images(x[: len(train)], y[: len(train)]), Images(x[len(train) :], y[len(train) :])

    def _find(self) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
        """(train, test): each file with the name of its class."""
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root}: there is no such folder")
        parts = [self.root / name for name in ("train", "test") if (self.root / name).is_dir()]
        if len(parts) == 1:  # it could be one of the two sets, or a class: do not guess
            missing = "test" if parts[0].name == "train" else "train"
            raise DataError(
                f"{self.root} has a folder {parts[0].name} but none called {missing}. Add {missing}; or set "
                f"data.root={parts[0]} to keep a part of those images for testing; or rename {parts[0].name} if it is "
                "a class."
            )
        if parts:
            return tuple(images_below(part) for part in parts)
        files = images_below(self.root)
        train, test = held_out(len(files), self.test_size, self.seed, str(self.root))
        return [files[i] for i in train], [files[i] for i in test]


def images_below(folder: Path) -> list[tuple[Path, str]]:
    """The image files below `folder`, sorted, each with its class: the name of the folder right below `folder`, or "".

    Raises DataError if there are none, if a folder cannot be read, or if links lead to a folder twice.
    """
    files, seen = [], {}
    for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        about = os.stat(parent)
        first = seen.setdefault((about.st_dev, about.st_ino), parent)
        if first != parent:  # links can lead in circles
            raise DataError(f"{parent} and {first} are the same folder: remove the link")
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(parent, name) for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    if not files:
        raise DataError(f"There are no images in {folder}: no file below it ends in {', '.join(EXTENSIONS)}")
    inner = [(file, file.relative_to(folder).parts) for file in sorted(files)]
    return [(file, parts[0] if len(parts) > 1 else "") for file, parts in inner]


def unreadable(error: OSError) -> None:
    """What os.walk does with a folder that cannot be read, and would leave out."""
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


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
