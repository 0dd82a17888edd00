"""List the images below a folder: name, class and split of each. No image is opened.

A file's name is its path from the root, with /: the same wherever the root is. Splits, tables, caches and fingerprints
know files by it.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from torchvision import datasets

from cvae.checks import is_int
from cvae.data.images import held_out
from cvae.errors import ConfigError, DataError

EXTENSIONS = (*datasets.folder.IMG_EXTENSIONS, ".gif", ".avif")  # torchvision's list, and two more that Pillow reads
FOLDERS = {  # what the folder of a split may be called, in letters of either case
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
DRAWN_BY = ("hash", "position")  # how images are drawn for a split


class Listing(NamedTuple):
    """The image files below a folder: the training images, then those for validation, then the test images."""

    root: Path
    names: list[str]  # from the root
    folders: list[str]  # the class of each: the folder right below the root, or below its split's; "" for none
    splits: list[str]  # of each: train, validation or test

    @property
    def classes(self) -> list[str]:
        """The classes that occur, in alphabetical order: class k is the k-th."""
        return sorted(set(self.folders))

    def path(self, number: int) -> Path:
        return self.root / self.names[number]


def list_folder(root: Path, test_size: int | float, seed: int, split: str = "position") -> Listing:
    """The images below `root`, with their splits.

    Folders of splits right below `root` say which images are for what (see FOLDERS); without them, `test_size` images
    are drawn for testing: a share, or how many.

    split: hash: by each name's own hash with the seed, so that a new file moves no other
        position: as up to cvae 0.1, by the places in the list; only folders that are called train and test are splits

    Raises:
        DataError: the folder is missing or has no images; or some folders have the names of splits, and it is not clear
            which images are for what.
        ConfigError: no image is left for training.
    """
    if not root.is_dir():
        raise DataError(f"data.root={root}: there is no such folder")
    if parts := folders_of_splits(root, split):
        found = [(part, *file) for part, folder in parts.items() for file in images_below(root, folder)]
        return Listing(root, [name for _, name, _ in found], [kind for *_, kind in found], [part for part, *_ in found])
    files = images_below(root)
    train, test = drawn([name for name, _ in files], test_size, seed, str(root), split)
    chosen = [files[number] for number in (*train, *test)]
    splits = ["train"] * len(train) + ["test"] * len(test)
    return Listing(root, [name for name, _ in chosen], [kind for _, kind in chosen], splits)


def folders_of_splits(root: Path, split: str) -> dict[str, str]:
    """{"train": its folder's name, …} as far as `root` has them; nothing where it has none.

    Raises DataError if a folder of the training or of the test images is missing, or there are two for a split.
    """
    there = sorted(entry.name for entry in scan(root) if entry.is_dir())
    allowed = FOLDERS if split == "hash" else {"train": ("train",), "test": ("test",)}
    found: dict[str, str] = {}
    for part, names in allowed.items():
        called = [name for name in there if (name.lower() if split == "hash" else name) in names]
        if len(called) > 1:
            raise DataError(f"{root} has the folders {' and '.join(called)}: which are the {part} images? Rename one.")
        if called:
            found[part] = called[0]
    if found and (missing := [part for part in ("train", "test") if part not in found]):
        # What is there could be a split, or a class: do not guess.
        has, lacks = " and ".join(found.values()), " and none called ".join(missing)
        advice, one = [f"Add {' and '.join(missing)}"], found.get("train") or next(iter(found.values()))
        advice.append(f"set data.root={root / one} to keep a part of those images for testing")
        advice.append(f"rename {has} if {'it is a class' if len(found) == 1 else 'these are classes'}")
        raise DataError(f"{root} has a folder {has} but none called {lacks}. {'; or '.join(advice)}.")
    return found


def scan(root: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(root) as entries:
            return list(entries)
    except OSError as error:
        unreadable(error)
        raise


def images_below(root: Path, folder: str = "") -> list[tuple[str, str]]:
    """(Name from `root`, class) of the image files below a folder in it, sorted by their paths.

    The class is the name of the folder right below it, or "". Links are followed.

    Raises DataError if there are none, if a folder cannot be read, or if links lead to a folder twice.
    """
    top = os.path.join(root, folder) if folder else str(root)
    files: list[tuple[list[str], str]] = []
    seen: dict[tuple[int, int], str] = {}
    for parent, folders, names in os.walk(top, onerror=unreadable, followlinks=True):
        about = os.stat(parent)
        first = seen.setdefault((about.st_dev, about.st_ino), parent)
        if first != parent:  # links can lead in circles
            raise DataError(f"{parent} and {first} are the same folder: remove the link")
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = os.path.relpath(parent, top).split(os.sep) if parent != top else []
        kind = inner[0] if inner else ""
        files += [([*inner, name], kind) for name in names if is_image(name)]
    if not files:
        advice = ". Remove this folder, or put images into it" if folder else ""
        raise DataError(f"There are no images in {top}: no file below it ends in {', '.join(EXTENSIONS)}{advice}")
    before = [folder] if folder else []
    return [("/".join([*before, *parts]), kind) for parts, kind in sorted(files)]


def images_in(root: Path, split: str) -> list[tuple[str, str]]:
    """(Name from `root`, class) of all images in a folder; the class is the folder right below it, or below a split.

    split: which folders are those of splits, as in `list_folder`
    """
    try:
        splits = set(folders_of_splits(root, split).values())
    except DataError:  # a folder that may be one of a split or of a class, as in `list_folder`: here it is a class
        splits = set()
    named = [(name, name.split("/")) for name, _ in images_below(root)]
    inner = [(name, parts[1:] if parts[0] in splits else parts) for name, parts in named]
    return [(name, parts[0] if len(parts) > 1 else "") for name, parts in inner]


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def unreadable(error: OSError) -> None:
    """Called by os.walk for a folder that it cannot read, and would leave out silently."""
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def drawn(
    names: Collection[Any], size: int | float, seed: int, place: str, split: str, key: str = "data.test_size"
) -> tuple[list[int], list[int]]:
    """The indices (kept, drawn) of images, each in ascending order; `size` of them, or such a share, are drawn by seed.

    By hash each image is drawn or not whatever the others are: a share takes those whose hash, as a number from 0 to 1,
    is below it (of few images at least one); a number takes the lowest hashes.

    names: of files, or numbers in an array: what each image is known by
    place: where they are, for the error

    Raises ConfigError, which names `place`, if no image is left for training.
    """
    if len(names) == 1:
        raise DataError(f"There is 1 image in {place}: at least 2 are needed, as one is kept ({key})")
    if split == "position":
        return held_out(len(names), size, seed, place)
    hashes = list(hashes_of(names, f"{key}:{seed}"))
    order = sorted(range(len(names)), key=hashes.__getitem__)
    share = max(1, min(sum(value < size for value in hashes), len(names) - 1))
    count = int(size) if is_int(size) else share
    if count >= len(names):
        allowed = f"below the {len(names)} images in {place}, so that some are left for training"
        raise ConfigError(key, size, allowed)
    return sorted(order[count:]), sorted(order[:count])


def hashes_of(names: Iterable[Any], salt: str) -> Iterator[float]:
    """A number from 0 to 1 for each name, the same on all machines."""
    for name in names:
        content = salt.encode() + b"\0" + str(name).encode("utf-8", "surrogateescape")
        yield int.from_bytes(blake2b(content, digest_size=8).digest(), "big") / 2**64
