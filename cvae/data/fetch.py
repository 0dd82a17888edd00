"""Downloads that leave whole files or nothing, and checks of files by hash."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import download_url

from cvae.errors import DataError

log = logging.getLogger(__name__)

# A way to fetch files: (where they come from, for messages; a function that puts whole, checked files into a given
# folder and returns their paths).
Way = tuple[str, Callable[[Path], list[Path]]]

FAILURES = (OSError, RuntimeError, HTTPException)  # what a failed download raises; DataError is a RuntimeError


def fetch(name: str, folder: Path, ways: Iterable[Way], advice: str) -> None:
    """Put files into `folder` in the first of the `ways` that works.

    A download that fails or is interrupted leaves nothing behind: files move into `folder` when all of them are whole.

    Args:
        name: of the data, for messages
        folder: where the files belong; made if it does not exist
        ways: where from, and how
        advice: what the user can do if no way works: the end of the error

    Raises:
        DataError: no way works; it gives the reason for each.
    """
    failures = []
    for where, get in ways:
        log.info("%s is not in %s: fetching it from %s", name, folder, where)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
                for path in get(Path(temporary)):
                    os.replace(path, folder / path.name)
            return
        except FAILURES as error:
            failures.append(f"  {where}: {' '.join(str(error).split())}")
    raise DataError("\n".join([f"{name} is not in {folder} and could not be fetched:", *failures, advice]))


def download(url: str, md5: str, sha256: str, folder: Path) -> list[Path]:
    """Download one file into `folder`. Raises one of FAILURES if it cannot, or if one of the file's sums is another.

    md5: that which torchvision knows; sha256: MD5 alone keeps out accidents, but not somebody who wants to deceive
    """
    name = url.rpartition("/")[2]
    download_url(url, folder, name, md5)
    verified(folder / name, sha256)
    return [folder / name]


def verified(path: Path, expected: str) -> bytes:
    """The content of a file. Raises DataError if the file is missing or its hash is another."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    content = path.read_bytes()
    verify(path, content, expected)
    return content


def verify(path: Path, content: bytes, expected: str) -> None:
    """Raise DataError unless the hash of `content`, read from `path`, is the expected one, SHA-256 or MD5."""
    algorithm = {64: "sha256", 32: "md5"}[len(expected)]
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise damaged(path, f"its {algorithm} is {found}, not {expected}")


def damaged(path: Path, why: str) -> DataError:
    """The error for a file with another hash."""
    return DataError(f"{path} is damaged ({why}). Delete it, and the next run fetches it again.")
