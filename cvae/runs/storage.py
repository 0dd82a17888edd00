"""Files that are whole or absent, folders that are new, and locks."""

import glob
import importlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LEFT = 3600.0  # seconds: a process that has not written to its file for so long was killed
HELD: dict[Path, int] = {}  # the locks of this process: file -> descriptor
READ = os.O_RDONLY | getattr(
    os, "O_NONBLOCK", 0
)  # somebody else's file may be a pipe, which would wait; not on Windows


def save(path: Path, content: bytes, previous: Path | None = None, check: Callable[[Path], Any] | None = None) -> None:
    """Write a whole file or nothing: a full disk, a kill or a power cut leaves no half of it under its name.

    previous: what `path` held before is kept under this name
    check: is given the file before it gets its name; if it raises an error, nothing is saved

    Until then its name is .NAME.….part, another one for each call: two processes that save the same file do not disturb
    each other, and the last one's content stays. What a killed process left of it is removed after an hour.

    Makes its folder if it is missing, but not the folder of that: one that was deleted stays so.

    Raises:
        OSError: names `path`.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        with open(unfinished, "xb") as file:  # x: a link would lead elsewhere
            now = os.fstat(file.fileno()).st_mtime  # by the disk's clock
            remove_unfinished(path.parent, glob.escape(path.name), now - LEFT)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the new name may reach the disk before the content
        if check:
            check(unfinished)
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(unfinished, path)
    except OSError as error:  # the system's own names the unfinished file, or none
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str = "*", before: float = float("inf")) -> None:
    """Remove what `save` left in a folder where a process was killed, if the disk allows it.

    name: of the file, as a pattern of `glob`
    before: what was written to since then (a time as `stat` gives it) stays: a process may be about to save it
    """
    with suppress(OSError):
        for file in folder.glob(f".{name}.*part"):
            if file.lstat().st_mtime < before:
                file.unlink(missing_ok=True)


def new_folder(path: Path) -> Path:
    """Make a folder that nobody has made: `path`, or if it is taken path_2, path_3, …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = path if number == 1 else path.with_name(f"{path.name}_{number}")
        try:
            folder.mkdir()  # of several processes one succeeds
            return folder
        except FileExistsError:
            number += 1


def lock(path: Path) -> bool:
    """Lock a file, made if it is missing, until `unlock`. False: another process has locked it.

    The system frees the lock when the process ends in any way, also by SIGKILL. A child process does not get it.
    """
    if real(path) in HELD:
        return True
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if not take(descriptor):
        os.close(descriptor)
        return False
    HELD[real(path)] = descriptor
    return True


def unlock(path: Path) -> None:
    """Free the lock of this process, if it has it. The file stays: another process may be about to lock it."""
    if (descriptor := HELD.pop(real(path), None)) is not None:
        os.close(descriptor)


def locked(path: Path) -> bool:
    """Whether a process, this one or another, has locked a file."""
    if real(path) in HELD:
        return True
    try:
        descriptor = os.open(path, READ)
    except OSError:  # there is none, or none that a run could lock
        return False
    try:
        return not take(descriptor, shared=True)  # two that ask do not see each other
    finally:
        os.close(descriptor)


@contextmanager
def waiting_for(path: Path, said: str) -> Iterator[None]:
    """Inside, a file is locked, made if it is missing: one process after the other, `said` is logged where one waits.

    Raises OSError where the disk has no locks, or the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not take(descriptor, needed=True):
            log.info("%s", said)
            while not take(descriptor, needed=True):
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def real(path: Path) -> Path:
    """The path without links; one that leads to itself stays, which `Path.resolve` refuses."""
    return Path(os.path.realpath(path))


def take(descriptor: int, shared: bool = False, needed: bool = False) -> bool:
    """Take a lock that `descriptor` holds until it is closed; False if another process has one that excludes it.

    needed: raise OSError on a disk without locks, where otherwise all have theirs
    """
    try:
        import fcntl
    except ImportError:
        return take_on_windows(descriptor, needed)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can have one
        if needed:
            raise
    return True


def take_on_windows(descriptor: int, needed: bool = False) -> bool:
    """The same on Windows, which locks bytes: here one far behind all that a file holds, so that it can be read.

    It has no shared locks: where two processes ask at the same moment, one may be told that the file is locked.
    """
    msvcrt = importlib.import_module("msvcrt")
    os.lseek(descriptor, 2**30, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    except OSError:  # a file system without locks
        if needed:
            raise
    return True


def leave_to_parent() -> None:
    """In a child made by fork: the locks are the parent's."""
    while HELD:
        os.close(HELD.popitem()[1])


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=leave_to_parent)
