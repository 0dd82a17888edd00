"""NumPy files by their headers: which arrays they hold, and whether these can stay on disk."""

import io
import math
import struct
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from cvae.data.mapped import mapped
from cvae.errors import DataError

HEADER = 2**14  # bytes, of which numpy allows about 10,000
LABELS = "{}_y.npy"  # where the labels of NAME.npy are


class Header(NamedTuple):
    """Type, shape and place of an array, known without reading its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path
    offset: int | None  # of the first value; None: packed, or in Fortran's order, where no row lies together

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def headers(file: Path) -> dict[str, Header]:
    """Name -> header of the arrays of a file, without their values.

    Of a file of numpy.savez these are its arrays. A file of numpy.save is the array x, and y is in the file beside it
    that LABELS says, if there is one.

    Raises DataError if it is no such file.
    """
    if file.suffix != ".npy":
        return in_archive(file)
    beside = file.with_name(LABELS.format(file.stem))
    return {name: in_file(path) for name, path in (("x", file), ("y", beside)) if path.is_file()}


def in_file(file: Path) -> Header:
    """The array of a file of numpy.save. Raises DataError if it is none, or shorter than its header says."""
    try:
        with file.open("rb") as stream:
            found = header(stream, file, 0)
        if (size := file.stat().st_size) < (needed := (found.offset or 0) + found.nbytes):
            raise ValueError(f"it has {size:,} bytes, and its header says at least {needed:,}")
    except Exception as error:  # damaged bytes make numpy raise almost anything
        raise DataError(f"{file} is damaged or no file of numpy.save: {error}") from error
    return found


def in_archive(file: Path) -> dict[str, Header]:
    """The arrays of a file of numpy.savez. Raises DataError if it is none."""
    found = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                with archive.open(info) as stream:
                    packed = info.compress_type != zipfile.ZIP_STORED
                    array = header(stream, file, None if packed else beginning(file, info))
                name = info.filename.removesuffix(".npy")
                if name in found:  # of two, numpy would read the one that was not looked at
                    raise ValueError(f"it has {name} twice")
                found[name] = array
    except Exception as error:  # as above
        raise DataError(f"{file} is damaged or no file of numpy.savez: {error}") from error
    return found


def beginning(file: Path, info: zipfile.ZipInfo) -> int:
    """The offset of an uncompressed member's content: behind a header of 30 bytes, its name and an extra field."""
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        sizes = struct.unpack("<26x2H", stream.read(30))
    return info.header_offset + 30 + sum(sizes)


def header(stream: IO[bytes], file: Path, place: int | None) -> Header:
    """The header of an array that begins at `place` in a file, None for what is packed."""
    start = io.BytesIO(stream.read(HEADER))  # a header can say that it has 4 GiB
    old = np.lib.format.read_magic(start) == (1, 0)
    reader = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(start)
    return Header(shape, dtype, file, None if fortran or place is None else place + start.tell())


def array(file: Path, name: str) -> np.ndarray:
    """An array in memory. Raises DataError if it cannot be read, which would need code for an array of objects."""
    path = file.with_name(LABELS.format(file.stem)) if file.suffix == ".npy" and name == "y" else file
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return found[name]
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise DataError(f"{path}: {name} cannot be read: {error}") from error


def on_disk(found: Header) -> np.ndarray:
    """An array as a read-only map of its file. Call it where there is an offset."""
    try:
        return mapped(found.file, found.offset or 0, found.shape, found.dtype)
    except (OSError, ValueError) as error:
        raise DataError(f"{found.file} is damaged or cannot be mapped: {error}") from error
