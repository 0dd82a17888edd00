"""Fingerprints of a user's own data: a digest of each file, or of each thousand images of an array.

Runs keep it, so that images that were added, removed or replaced are noticed. It is of the content: sizes do not tell
two BMP files apart, and times change when a folder is copied or unpacked. Content costs little, as each file is read
anyway (a tenth of the time that a small PNG takes to decode); a cache keeps it.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from torch import Tensor

from cvae.data.images import Images
from cvae.data.mapped import Mapped, as_numpy
from cvae.errors import UserError
from cvae.runs.directory import Run
from cvae.runs.small_files import read_bytes
from cvae.runs.storage import save

BLOCK = 1000  # images of an array that share a digest
READ = 2**31  # bytes of arrays that are read for their digests, about: of larger ones every second block, third, …
PIECE = 2**24  # bytes that are read at once, about
SHOWN = 3  # names in a message
LARGEST = 2**30  # bytes of data.csv

Contents = Mapping[str, str]  # what a file, or a part of an array, is called -> its digest, 16 hexadecimal digits


def fingerprint(contents: Contents) -> str:
    """16 hexadecimal digits for all contents, in any order."""
    whole = blake2b(digest_size=8)
    for name in sorted(contents):
        whole.update(f"{name}\0{contents[name]}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def of_files(names: Iterable[str], digests: np.ndarray) -> dict[str, str]:
    """Contents of files, by the digests (N,) that `decode` gives."""
    return {name: f"{digest:016x}" for name, digest in zip(names, digests.tolist(), strict=True)}


def of_array(name: str, x: np.ndarray | Tensor | Mapped, whole: int = 0) -> dict[str, str]:
    """Contents of an array (N, …), in memory or on disk, with its shape and type; it is read piece by piece.

    whole: bytes of all arrays of which this is one
    """
    empty = as_numpy(x[:0])
    found = {f"{name} {empty.dtype} {empty.shape[1:]}": "0" * 16}
    every, size = max(1, -(-max(whole, x.nbytes) // READ)), max(1, PIECE * len(x) // max(x.nbytes, 1))
    for start in range(0, max(len(x), 1), BLOCK * every):
        end, block = min(start + BLOCK, len(x)), blake2b(digest_size=8)
        for first in range(start, end, size):
            piece = np.ascontiguousarray(as_numpy(x[first : min(first + size, end)]))
            block.update(piece.reshape(-1).view("u1").data)
        found[f"{name}[{start}:{end}]"] = block.hexdigest()
    return found


def of_images(split: str, images: Images) -> dict[str, str]:
    """Contents of levels and labels."""
    return of_array(f"{split} x", images.x) | of_array(f"{split} y", images.y)


def of_source(source: Any, sets: Iterable[Images]) -> dict[str, str] | None:
    """Contents of what a source has loaded: as it says itself, or of the images; None for data sets known by name."""
    own = getattr(source, "contents", None)
    if own is not None or is_ours(source):
        return own
    contents: dict[str, str] = {}
    for split, images in zip(("train", "test", "validation"), sets, strict=False):
        contents |= of_images(split, images)
    return contents


def is_ours(source: Any) -> bool:
    """Whether a source is one of cvae, which gives the same images as long as their files are the same."""
    return type(source).__module__.startswith("cvae.")


def changed(before: Contents, now: Contents) -> str:
    """In words: "2 new (a/1.png, a/2.png), 1 changed (b/3.png)"."""
    new, gone = (sorted(one.keys() - other.keys()) for one, other in ((now, before), (before, now)))
    other = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    said = [("new", new), ("missing", gone), ("changed", other)]
    return ", ".join(f"{len(names):,} {word} ({listed(names)})" for word, names in said if names)


def listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def save_contents(
    run: Run, splits: Mapping[str, Images | None], contents: Contents, left_out: Mapping[str, str]
) -> None:
    """Write data.csv: a line for each image with its split, its class, the number of that and its digest, and for each
    file left out.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "split", "class", "label", "digest", "left out"])
    told = set()
    for split, images in splits.items():
        if images is not None and images.names is not None:
            for name, label in zip(images.names.tolist(), images.y.tolist(), strict=True):
                kind = images.classes[label] if images.classes else label
                writer.writerow([name, split, kind, label, contents.get(str(name), ""), ""])
                told.add(str(name))
    writer.writerows([name, "", "", "", digest, ""] for name, digest in contents.items() if name not in told)
    writer.writerows([name, "", "", "", "", why] for name, why in left_out.items())
    save(run.data, out.getvalue().encode("utf-8", "surrogateescape"))


def saved_contents(run: Run) -> dict[str, str]:
    """Name -> digest, as `save_contents` wrote them; nothing where they cannot be read."""
    return saved(run, "name", "digest")


def saved_classes(run: Run) -> dict[str, int]:
    """Class -> its number, as `save_contents` wrote them; nothing where they cannot be read."""
    return {name: int(number) for name, number in saved(run, "class", "label").items() if number.isdecimal()}


def saved(run: Run, key: str, value: str) -> dict[str, str]:
    """Two columns of data.csv, where the second has something."""
    try:
        text = read_bytes(run.data, LARGEST).decode("utf-8", "surrogateescape")
        return {row[key]: row[value] for row in csv.DictReader(io.StringIO(text, newline="")) if row[value]}
    except (OSError, KeyError, ValueError, csv.Error, UserError):
        return {}


def difference(run: Run, expected: str | None, contents: Contents | None) -> str | None:
    """How the data differ from those that the run began with, in words; None if they do not, or if it is unknown.

    expected: the fingerprint in the run's config
    """
    if expected is None or contents is None or fingerprint(contents) == expected:
        return None
    before = saved_contents(run)
    found = changed(before, contents) if before and fingerprint(before) == expected else ""
    return "the images are not those that this run was begun with" + (f": {found}" if found else "")
