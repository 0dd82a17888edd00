"""A user's own images."""

import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvae import checks
from cvae.checks import is_int, one_of, positive_int, seed_number
from cvae.data.cache import Cache, files_now, read_all
from cvae.data.contents import of_files
from cvae.data.decode import Decoded, Reading, advised
from cvae.data.images import Images, size_of_test_set, texts
from cvae.data.listing import DRAWN_BY, Listing, list_folder
from cvae.data.module import ImageData
from cvae.errors import ConfigError, DataError
from cvae.runs.small_files import one_line

__all__ = ["image_folder"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)

SHOWN = 10  # files in a message
MANY = 1000  # images, from which on data.cache=auto keeps them decoded
BESIDE = ".cvae_cache"  # the folder of data.cache=auto, in that of the images


def image_folder(
    image_shape: Sequence[int] | None,
    test_size: float,
    seed: int,
    image_size: int | Sequence[int] = 32,
    channels: int = 3,
    split: str = "position",
    fit: str = "crop",
    transparent: str = "white",
    white: float | None = None,
    pixel_limit: int | None = None,
    skip_unreadable: bool = False,
    cache: str | None = "auto",
    **options: Any,
) -> ImageData:
    """ImageData of a user's own images; see `ImageFolder` and `cvae.data.decode.Reading`.

    image_shape=None: (channels, image_size, image_size), or of an image_size [H, W] (channels, H, W).
    """
    if image_shape is None:
        sides = [image_size] * 2 if is_int(image_size) else image_size
        if not isinstance(sides, Sequence) or len(sides) != 2 or not all(is_int(side) and side > 0 for side in sides):
            raise ConfigError("image_size", image_size, "a positive integer, or two, [height,width]")
        image_shape = positive_int("channels", channels), *sides
    shape = checks.image_shape("image_shape", image_shape)
    reading = Reading(shape, fit, transparent, white, pixel_limit)
    how: dict[str, Any] = {"split": split, "skip_unreadable": skip_unreadable, "cache": cache}
    source = partial(ImageFolder, reading, test_size=test_size, seed=seed, **how)
    return ImageData(source, image_shape=shape, seed=seed, split=split, **options)


class ImageFolder:
    """The images below a folder, of any count, size and format that Pillow reads.

    Folders right below `root` that are called as splits are (`cvae.data.listing.FOLDERS`: train and test, and val if it
    is there, in any spelling) have the images of these splits. Without them, all images below `root` are one set, and a
    part of it is kept for testing. An image's class is the folder right below `root` (or below its split's) that holds
    it; the classes are numbered in alphabetical order. Images in no such folder are one more class, the first one. An
    image's name is its path from `root`.

    Files are left out if their names begin with a dot or do not end like an image's. Links to files and folders are
    followed, but no folder is read twice.

    Args:
        reading: what is done to each file
        root: the folder
        test_size: how many of the images (an integer), or which share of them (between 0 and 1), are the test set if
            there is no test folder
        seed: draws the test set
        split: how it is drawn (`cvae.data.listing.list_folder`)
        skip_unreadable: whether files that cannot be read are left out, instead of being an error
        cache: where the decoded images are kept (`cvae.data.cache`): a folder; auto: in a hidden one below `root`, if
            they are MANY; None: nowhere

    Attributes:
        keeps: whether download() may write into the cache; else what is in it is used
        contents, left_out: after load(): {name: digest} of what was read, {name: why} of what was not
    """

    contents: dict[str, str] | None = None
    keeps = True
    listed: Listing | None = None
    kept: Cache | None = None

    def __init__(
        self,
        reading: Reading,
        root: str | None,
        test_size: float,
        seed: int,
        split: str = "position",
        skip_unreadable: bool = False,
        cache: str | None = "auto",
    ):
        if root is None:
            raise ConfigError("root", root, "the folder of your images")
        self.root, self.test_size = Path(root).expanduser(), size_of_test_set("test_size", test_size)
        self.reading, self.seed = reading, seed_number("seed", seed)
        self.split = one_of("split", split, DRAWN_BY)
        self.skip_unreadable = one_of("skip_unreadable", skip_unreadable, (False, True))
        self.left_out: dict[str, str] = {}
        if cache is not None and not (isinstance(cache, str) and cache):
            raise ConfigError("cache", cache, "auto, a folder, or null: decoded images are not kept")
        self.kept_in = cache

    def download(self) -> None:
        """Decode the images that are not kept yet, where they are to be kept.

        Raises DataError if the folder is missing or has no images.
        """
        names = self.listing().names
        if self.keeps and (cache := self.cache()):
            cache.refresh(files_now(self.root, names))

    def classes(self) -> int:
        """How many classes there are. Reads no image. Raises DataError as `download` does."""
        return len(self.listing().classes)

    def listing(self) -> Listing:
        """The files with their names, classes and splits, listed once. Raises DataError as `download` does."""
        self.listed = self.listed or list_folder(self.root, self.test_size, self.seed, self.split)
        return self.listed

    def cache(self) -> Cache | None:
        """Where the decoded images are kept."""
        return None if self.kept_in == "auto" and len(self.listing().names) < MANY else self.kept_at()

    def kept_at(self) -> Cache | None:
        """Where they are kept if they are many."""
        if self.kept_in is not None and self.kept is None:
            folder = self.root / BESIDE
            if self.kept_in != "auto":
                place = os.path.realpath(self.root)
                digest = blake2b(os.fsencode(place), digest_size=4).hexdigest()
                folder = Path(self.kept_in).expanduser() / f"{os.path.basename(place)}-{digest}"
            self.kept = Cache(folder, self.reading)
        return self.kept

    def load(self) -> tuple[Images, ...]:
        """(train, test), or (train, test, validation) where there is a folder for validation.

        Raises DataError if the folder is missing or empty, or names unreadable files.
        """
        listing = self.listing()
        classes, count = listing.classes, len(listing.names)
        kinds = "1 class" if len(classes) == 1 else f"{len(classes):,} classes"
        log.info("Reading %s images of %s from %s", f"{count:,}", kinds, self.root)
        x, decoded = read_all(files_now(self.root, listing.names), self.reading, self.cache())
        self.left_out = {listing.names[number]: why for number, why in decoded.faults.items()}
        names, splits = texts(listing.names), np.array(listing.splits)
        numbers = {name: label for label, name in enumerate(classes)}
        y = torch.tensor([numbers[folder] for folder in listing.folders])
        images, read = Images(x, y, None, names, tuple(classes)), np.ones(count, bool)
        if decoded.faults:
            self._leave_out(listing)
            read[list(decoded.faults)] = False
            images, splits = images.take(torch.from_numpy(np.flatnonzero(read))), splits[read]
        self.contents = of_files(images.names, decoded.digests[read])  # type: ignore[arg-type]
        say_what_was_read(decoded, self.reading.white)
        # A split is one block: a slice of it takes no memory.
        wanted = ("train", "test", *(["validation"] if "validation" in listing.splits else []))
        blocks = [np.flatnonzero(splits == split) for split in wanted]
        if empty := [split for split, block in zip(wanted, blocks, strict=True) if not len(block)]:
            raise DataError(f"{self.root}: of the {empty[0]} images none can be read")
        return tuple(images.take(slice(int(block[0]), int(block[-1]) + 1)) for block in blocks)

    def _leave_out(self, listing: Listing) -> None:
        """Say which files cannot be read. Raises DataError unless they are to be left out."""
        faults = [(self.root / name, why) for name, why in self.left_out.items()]
        if not self.skip_unreadable:
            advice = ". Repair or delete them, or leave them out with data.skip_unreadable=true"
            raise DataError(unreadable(faults, len(listing.names), advice))
        log.warning("%s", unreadable(faults, len(listing.names), " and are left out (a run lists all in data.csv)"))


def unreadable(faults: Iterable[tuple[Path, str]], count: int, then: str) -> str:
    """A message: how many of `count` files cannot be read, what follows from it, and why, of the first SHOWN."""
    lines = [f"  {one_line(str(path))}: {why}" for path, why in faults]
    more = [f"  … and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return "\n".join([f"{len(lines):,} of {count:,} images cannot be read{then}:", *lines[:SHOWN], *more])


def say_what_was_read(decoded: Decoded, white: float | None) -> None:
    """Log what may surprise about the values: 16 bits that become 8, images that are almost black."""
    if deep := int((decoded.bits == 16).sum()):
        log.info("%s of the images have 16 bits, which become 8: likelihoods have 256 levels", f"{deep:,}")
    if advice := advised(decoded, white):
        log.warning("%s", advice)
