"""A user's own images."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision import datasets

from cvae.checks import is_int
from cvae.data.images import Images
from cvae.data.module import ImageData
from cvae.errors import ConfigError, DataError

log = logging.getLogger(__name__)

EXTENSIONS = (*datasets.folder.IMG_EXTENSIONS, ".gif", ".avif")  # what torchvision takes for an image file


def image_folder(image_shape, test_size, seed, image_size=None, channels=None, **options) -> ImageData:
    """ImageData of a user's own images; see `ImageFolder`. The config makes image_shape of image_size and channels."""
    source = partial(ImageFolder, image_shape=image_shape, test_size=test_size, seed=seed)
    return ImageData(source, image_shape=image_shape, seed=seed, **options)


class ImageFolder:
    """The images below a folder, any count, size and format that Pillow reads.

    `root`/train/… and `root`/test/… are the training and the test images. Without these two all images below `root` are
    one set, of which a part is kept for testing. An image's class is the folder right below `root` (or train, or test) that
    it is in, numbered in alphabetical order; images in no such folder are a class of their own, the first one.

    Each is turned as its EXIF orientation says, made grey or RGB (what is transparent becomes white; 16 bits become 8),
    cropped around its centre to the aspect ratio that is asked for and resized, antialiased, bilinear. Of an animation or
    a file of several pages the first is read. Files whose names do not end like an image's, or begin with a dot, are left out.

    Args:
        root: the folder
        image_shape: [C, H, W]; C is 1 (grey) or 3 (RGB)
        test_size: how many of the images (an integer), or which share of them (between 0 and 1), are the test set where
            there is no test folder
        seed: of the choice of these
    """

    def __init__(self, root: str | None, image_shape, test_size, seed: int):
        if root is None:
            raise ConfigError("root", root, "the folder of your images")
        self.root, self.shape, self.test_size, self.seed = Path(root).expanduser(), tuple(image_shape), test_size, seed
        if self.shape[0] not in (1, 3):
            raise ConfigError(
                "image_shape", list(image_shape), "[channels, height, width] with 1 channel (grey) or 3 (RGB)"
            )
        if not (is_int(test_size) and test_size > 0) and not (isinstance(test_size, float) and 0 < test_size < 1):
            raise ConfigError(
                "test_size", test_size, "a positive integer (images), or a number between 0 and 1 (a share)"
            )

    def download(self) -> None:
        """Nothing is fetched. Raises DataError if the folder is missing or has no images."""
        self._find()

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if the folder is missing or empty, or naming all the files that cannot be read."""
        train, test = self._find()
        files = train + test
        classes = {name: label for label, name in enumerate(sorted({name for _, name in files}))}
        log.info("Reading %s images of %d classes from %s", f"{len(files):,}", len(classes), self.root)
        x = torch.empty((len(files), *self.shape), dtype=torch.uint8)

        def read(number: int) -> str | None:
            try:
                x[number] = torch.from_numpy(read_image(files[number][0], self.shape))
            except UnidentifiedImageError:
                return "not an image of a known format"
            except Exception as error:  # a damaged file can make a decoder raise almost anything
                return str(error) or type(error).__name__

        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without holding Python's lock
            faults = [
                (path, why) for (path, _), why in zip(files, pool.map(read, range(len(files))), strict=True) if why
            ]
        if faults:
            lines = "\n".join(f"  {path}: {' '.join(why.split())}" for path, why in faults)
            raise DataError(f"{len(faults)} of {len(files)} images cannot be read. Mend or delete them:\n{lines}")
        y = torch.tensor([classes[name] for _, name in files])
        return Images(x[: len(train)], y[: len(train)]), Images(x[len(train) :], y[len(train) :])

    def _find(self) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
        """(train, test): each file with the name of its class."""
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root}: there is no such folder")
        parts = [self.root / name for name in ("train", "test") if (self.root / name).is_dir()]
        if len(parts) == 1:  # to take it for a class would train on the wrong images, or on no classes
            missing = "test" if parts[0].name == "train" else "train"
            raise DataError(
                f"{self.root} has a folder {parts[0].name} but none called {missing}. Add it, or have a part of all images "
                f"kept for testing: with data.root={parts[0]}, or after renaming that folder if it is a class."
            )
        if parts:
            return tuple(images_below(part) for part in parts)
        files = images_below(self.root)
        size = self.test_size if is_int(self.test_size) else max(1, round(self.test_size * len(files)))
        if size >= len(files):
            allowed = f"below the {len(files)} images in {self.root}, so that some are left for training"
            raise ConfigError("data.test_size", self.test_size, allowed)
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return [files[i] for i in sorted(order[size:])], [files[i] for i in sorted(order[:size])]


def images_below(folder: Path) -> list[tuple[Path, str]]:
    """The image files below a folder, sorted, each with the name of the folder right below it. Raises DataError if there are none."""
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(parent, name) for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    if not files:
        raise DataError(f"There are no images in {folder}: no file below it ends in {', '.join(EXTENSIONS)}")
    inner = [(file, file.relative_to(folder).parts) for file in sorted(files)]
    return [(file, parts[0] if len(parts) > 1 else "") for file, parts in inner]


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A file as uint8 (C, H, W); see `ImageFolder`. Raises whatever Pillow raises."""
    channels, height, width = shape
    with Image.open(path) as image:
        image.draft(
            None, (2 * max(height, width),) * 2
        )  # a JPEG decodes faster at a fraction of its size; twice ours will do
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
    fitted = ImageOps.fit(
        upright, (width, height), Image.Resampling.BILINEAR
    )  # antialiased, as all of Pillow's filters
    return np.array(fitted).reshape(height, width, channels).transpose(2, 0, 1)
