"""Downloads that leave whole files or nothing, and files known by their hash."""

import hashlib
import logging
import tempfile
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from cvae.errors import DataError

log = logging.getLogger(__name__)

OFFLINE = (OSError, RuntimeError, HTTPException)  # what a download that fails raises


@contextmanager
def temporary_folder(inside: Path):
    """A folder that is gone when its context ends: a download that breaks off leaves nothing behind."""
    inside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=inside, prefix=".download-") as name:
        yield Path(name)


def verified(path: Path, md5: str) -> bytes:
    """The content of a file. Raises DataError if it is missing or not the one that torchvision knows."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    content = path.read_bytes()
    verify(path, content, md5, "md5")
    return content


def not_fetched(name: str, folder: Path, failures, files, layout: str, archive: Path | None = None) -> DataError:
    tried = "\n".join(f"  {url}: {' '.join(str(error).split())}" for url, error in failures)
    wanted = "\n".join(f"  {file}" for file in files)
    either = f"Put {archive.name} into {archive.parent},\nor these files" if archive else "Put these files"
    return DataError(
        f"{name} is not in {folder} and could not be fetched:\n{tried}\n{either} into {folder}:\n{wanted}\n"
        f"or point data.root (or the environment variable CVAE_DATA) at a folder that has them in {layout}."
    )


def verify(path: Path, content: bytes, expected: str, algorithm: str) -> None:
    """Raise DataError unless the hash of `content` is as expected."""
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise damaged(path, f"its {algorithm} is {found}, not {expected}")


def damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged ({why}). Delete it, and the next run fetches it again.")
