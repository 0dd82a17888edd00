"""A cache of decoded images: an array on disk that only grows, and an index of its rows.

A process that is killed, or a full disk, leaves the array longer than the index says. Nobody reads the rest, and the
next start goes on behind what the index has. No row is written twice, so a training that reads them is not disturbed
by a process that adds some. One process writes at a time. Where most rows are of files that are gone, another array
takes the place of the first, and the index then names that.
"""

import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from cvae.data.decode import Decoded, Reading
from cvae.data.mapped import IN_MEMORY, Mapped, Part, mapped
from cvae.data.workers import ARRAYS, decoded_blocks
from cvae.errors import DataError
from cvae.runs.small_files import read_bytes
from cvae.runs.storage import save, waiting_for
from cvae.runtime.devices import main_memory

log = logging.getLogger(__name__)

FORMAT = 1
HEADER = 128  # bytes before the first row: NumPy leaves room there for the number of rows
COMMIT = 10  # seconds between two indexes that are written
FLUSH = 2**25  # bytes, from which on the disk gets them while more is decoded: at the end one would wait for it
LARGEST = 2**32  # bytes of an index
LINE = np.dtype([("row", "i8"), ("size", "i8"), ("time", "i8"), ("digest", "u8"), ("peak", "f4"), ("bits", "u1")])
SPARE = 2**26  # bytes that stay free on a disk
UNREADABLE = -1  # the row of a file that cannot be read


class Files(NamedTuple):
    """Files as they are now: their names from the root, or whole paths; size (bytes) and time (ns), -1 for none."""

    root: Path
    names: Sequence[str]
    size: np.ndarray
    time: np.ndarray

    def paths(self, numbers: Iterable[int]) -> list[str]:
        root = os.fspath(self.root)  # once: it takes as long as all else
        return [os.path.join(root, self.names[number]) for number in numbers]


def files_now(root: Path, names: Sequence[str]) -> Files:
    """Look at each file."""
    below, about = os.fspath(root), []
    for name in names:
        try:
            found = os.stat(os.path.join(below, name))
            about.append((found.st_size, found.st_mtime_ns))
        except OSError:  # decoding says why
            about.append((-1, -1))
    return Files(root, names, *np.array(about, np.int64).reshape(-1, 2).T)


class Index(NamedTuple):
    """What an array has: a name and a line (of type LINE) for each file.

    generation: which array it is of; rows: how many rows are written
    """

    names: Sequence[str]
    lines: np.ndarray
    generation: int = 0
    rows: int = 0

    def find(self, files: Files) -> np.ndarray:
        """The line of each file that is as it was, -1 for others."""
        if not len(self.lines):
            return np.full(len(files.names), -1)
        numbers = {name: number for number, name in enumerate(self.names)}
        found = np.array([numbers.get(name, -1) for name in files.names], np.int64)
        same = (self.lines["size"][found] == files.size) & (self.lines["time"][found] == files.time)
        return np.where((found >= 0) & same, found, -1)


class Cache:
    """The images below a folder, read in one way.

    Args:
        folder: where the array and the index are; made when something is written
        reading: what was done to each file
    """

    def __init__(self, folder: Path, reading: Reading):
        self.folder, self.reading = folder, reading
        depends_on = json.dumps([FORMAT, PIL.__version__, repr(reading)])
        shape = "x".join(map(str, reading.shape))
        self.name = f"{shape}-{blake2b(depends_on.encode(), digest_size=6).hexdigest()}"
        self.index, self.lock = folder / f"{self.name}.index", folder / f"{self.name}.lock"
        self.bytes = int(np.prod(reading.shape))  # of a row
        self.said = ""  # of what is damaged, which is looked at again before it is replaced

    def array(self, generation: int) -> Path:
        return self.folder / f"{self.name}-{generation}.npy"

    def read(self) -> Index:
        """The usable part of the index; empty if a file is missing, damaged, of another kind, or too short."""
        try:
            with np.load(io.BytesIO(read_bytes(self.index, LARGEST)), allow_pickle=False) as saved:
                names = saved["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
                lines, (generation, rows) = saved["lines"], saved["counts"].tolist()
            if (
                lines.dtype != LINE
                or len(names) != len(lines)
                or not -1 <= lines["row"].min() <= lines["row"].max() < rows
            ):
                raise ValueError("its numbers do not fit each other")
            with self.array(generation).open("rb") as file:
                right = np.lib.format.read_magic(file) == (1, 0)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                if (
                    not right
                    or file.tell() != HEADER
                    or (shape[1:], fortran, dtype) != (self.reading.shape, False, np.uint8)
                ):
                    raise ValueError("the array has another shape")
                if file.seek(0, os.SEEK_END) < HEADER + rows * self.bytes:
                    raise ValueError("the array is shorter")
            return Index(names, lines, generation, rows)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except Exception as error:  # damaged bytes make zipfile and numpy raise almost anything
            said = " ".join(str(error).split())
            if said != self.said:
                log.warning("%s is damaged and not used: %s", self.index, said)
            self.said = said
        return Index([], np.zeros(0, LINE))

    def map(self, index: Index) -> np.ndarray:
        """The array of an index, as a read-only map."""
        return mapped(self.array(index.generation), HEADER, (index.rows, *self.reading.shape), np.dtype(np.uint8))

    def open(self) -> tuple[Index, np.ndarray] | None:
        """What can be used, and the array that it is of; None for nothing."""
        for last in (False, True):
            index = self.read()
            try:
                return (index, self.map(index)) if index.rows else None
            except OSError:  # another process has just put another in its place
                if last:
                    raise
        return None

    def refresh(self, files: Files) -> None:
        """Decode new and changed files, and keep the result. If it cannot be kept, a log line says why."""
        if (self.read().find(files) >= 0).all():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with waiting_for(self.lock, "Another process decodes these images: waiting for it"):
                self.write(files)
        except OSError as error:
            log.warning("The decoded images are not kept in %s: %s", self.folder, error.strerror or error)

    def write(self, files: Files) -> None:
        """`refresh`, as the one process that writes. Raises OSError."""
        known = self.read()
        lines = known.find(files)
        if not (lines < 0).any():
            return
        others = [path for path in self.folder.glob(f"{self.name}-*.npy") if path != self.array(known.generation)]
        if (lines >= 0).sum() * 2 < known.rows or not known.rows:
            numbers = [int(text) for path in others if (text := path.stem.rpartition("-")[2]).isdecimal()]
            others += [self.array(known.generation)]  # who reads it keeps it
            known = Index([], np.zeros(0, LINE), 1 + max([known.generation, *numbers]))
            lines = np.full(len(lines), -1)
        new = np.flatnonzero(lines < 0)
        self.require_space(len(new))
        log.info("Decoding %s images, once, into %s", f"{len(new):,}", self.array(known.generation))
        array = self.array(known.generation)
        with open(array, "r+b" if known.rows else "wb") as file, ThreadPoolExecutor(1) as thread:
            growing = Growing(self, file, thread, known, files, lines)
            for start, block in decoded_blocks(files.paths(new.tolist()), self.reading):
                growing.add(new[start : start + len(block.x)], block)
            growing.commit()
        for path in others:
            path.unlink(missing_ok=True)

    def require_space(self, images: int) -> None:
        """Raise OSError if the disk has no room for so many more images."""
        needed, free = images * (self.bytes + 200), shutil.disk_usage(self.folder).free  # a name takes about 100 bytes
        if needed + SPARE > free:
            sizes = f"{needed / 2**30:.2f} GiB are needed and {free / 2**30:.2f} GiB are free"
            raise OSError(28, f"{sizes}. Make room, or say data.cache=FOLDER (on another disk) or data.cache=null")

    def save_index(self, index: Index) -> None:
        content = io.BytesIO()
        names = np.frombuffer("\0".join(index.names).encode("utf-8", "surrogateescape"), np.uint8)
        np.savez(content, names=names, lines=index.lines, counts=np.array([index.generation, index.rows]))
        save(self.index, content.getvalue())


class Growing:
    """An array that is being written, and the index of what is in it: at first what is known of the files.

    lines: of each of the files, that of `known`, or -1
    """

    def __init__(self, cache: Cache, file: IO[bytes], thread: Executor, known: Index, files: Files, lines: np.ndarray):
        self.cache, self.file, self.files, self.thread = cache, file, files, thread
        kept = lines[lines >= 0]
        self.names, self.lines = [known.names[number] for number in kept], [known.lines[kept]]
        self.generation, self.rows, self.last = known.generation, known.rows, time.monotonic()
        file.truncate(HEADER + known.rows * cache.bytes)
        file.seek(0, os.SEEK_END)
        self.flush()

    def add(self, numbers: np.ndarray, block: Decoded) -> None:
        """Write some of the decoded files. The index is written every COMMIT seconds."""
        fine = np.ones(len(numbers), bool)
        fine[list(block.faults)] = False
        self.file.write(np.ascontiguousarray(block.x[fine] if block.faults else block.x).data)
        lines = np.zeros(len(numbers), LINE)
        lines["row"] = np.where(fine, self.rows + fine.cumsum() - 1, UNREADABLE)
        lines["size"], lines["time"] = self.files.size[numbers], self.files.time[numbers]
        lines["digest"], lines["peak"], lines["bits"] = block.digests, block.peaks, block.bits
        self.lines.append(lines)
        self.names += [self.files.names[number] for number in numbers]
        self.rows += int(fine.sum())
        if self.flushing.done() and (self.rows - self.flushed) * self.cache.bytes > FLUSH:
            self.flushing.result()  # or its error
            self.flush()
        if time.monotonic() - self.last > COMMIT:
            self.commit()

    def commit(self) -> None:
        """Make the written rows valid: flush the array to the disk first, then write the index."""
        header = io.BytesIO()
        about = {"descr": "|u1", "fortran_order": False, "shape": (self.rows, *self.cache.reading.shape)}
        np.lib.format.write_array_header_1_0(header, about)
        self.file.seek(0)
        self.file.write(header.getvalue())
        self.file.seek(0, os.SEEK_END)
        self.flushing.result()
        self.flush()
        self.flushing.result()
        self.cache.save_index(Index(self.names, np.concatenate(self.lines), self.generation, self.rows))
        self.last = time.monotonic()

    def flush(self) -> None:
        """Let a thread write to the disk what it has not got yet."""
        self.file.flush()
        self.flushed, self.flushing = self.rows, self.thread.submit(os.fsync, self.file.fileno())


def read_all(files: Files, reading: Reading, cache: Cache | None) -> tuple[Mapped | Tensor, Decoded]:
    """The images of all files, uint8 (N, C, H, W), and what else was read of them: what is kept is not decoded again.

    If there are more than IN_MEMORY, the cached ones stay on disk; the others are in memory.
    Raises DataError where there is not enough memory.
    """
    if not cache or not (kept := cache.open()):
        found = in_memory(files, np.arange(len(files.names)), reading)
        return torch.from_numpy(found.x), found
    index, array = kept
    number = index.find(files)
    lines = np.where(number >= 0, index.lines[number], np.array((UNREADABLE, 0, 0, 0, 0, 0), LINE))
    rest = np.flatnonzero(lines["row"] == UNREADABLE)
    decoded = in_memory(files, rest, reading)
    rows = lines["row"].copy()
    rows[rest] = np.arange(len(rest)) + len(array)
    for column, values in (("digest", decoded.digests), ("peak", decoded.peaks), ("bits", decoded.bits)):
        lines[column][rest] = values
    x = Mapped([Part(array), Part(decoded.x)], reading.shape, rows)
    faults = {int(rest[place]): why for place, why in decoded.faults.items()}
    levels = x if x.nbytes > IN_MEMORY else x.read()
    return levels, Decoded(decoded.x, lines["digest"], lines["peak"], lines["bits"], faults)


def in_memory(files: Files, numbers: np.ndarray, reading: Reading) -> Decoded:
    """Decode some of the files. Raises DataError where there is not enough memory."""
    needed, free = len(numbers) * int(np.prod(reading.shape)), main_memory()
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        raise DataError(f"{len(numbers):,} images of {files.root} take {sizes}: let them be kept on disk (data.cache)")
    x = np.empty((len(numbers), *reading.shape), np.uint8)
    parts: list[Decoded] = []
    faults: dict[int, str] = {}
    for start, block in decoded_blocks(files.paths(numbers.tolist()), reading):
        x[start : start + len(block.x)] = block.x
        parts.append(block._replace(x=x[:0]))
        faults |= {start + number: why for number, why in block.faults.items()}
    columns = [np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0, kind)]) for name, kind in ARRAYS]
    return Decoded._make([x, *columns, faults])
