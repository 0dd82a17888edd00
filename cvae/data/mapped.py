"""Images that stay on disk: memory-mapped arrays, from which each batch is read when it is needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from cvae.errors import DataError

T = TypeVar("T")
Change = Callable[[np.ndarray], np.ndarray]

IN_MEMORY = 2**28  # bytes of images, up to which they are read into memory, where a batch is one index
BLOCK = 1000  # images that are read at once where all of them are wanted


class Rows(Protocol):
    """What is used of an array: of a file, or one that is drawn when it is asked for."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray, axis: int) -> np.ndarray:
        """The rows of these numbers (B,), which ascend: (B, …)."""


class Part(NamedTuple):
    """An array (n, …), and what makes levels uint8 (B, C, H, W) of rows of it, one function after the other.

    check: called before something is read
    """

    array: Rows
    changes: tuple[Change, ...] = ()
    check: Callable[[], None] | None = None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images in these rows, which ascend."""
        if self.check:
            self.check()
        x = self.array.take(rows, axis=0)
        for change in self.changes:
            x = change(x)
        return x


class Unchanged:
    """Raises DataError if a file has changed: reading the map of a shorter file would kill the process."""

    def __init__(self, file: Path) -> None:
        self.file, self.was = file, self.now(file)

    def __call__(self) -> None:
        if self.now(self.file) != self.was:
            raise DataError(f"{self.file} was changed while its images are used. Start again.")

    @staticmethod
    def now(file: Path) -> tuple[int, int, int] | None:
        try:
            about = file.stat()
        except OSError:
            return None
        return about.st_ino, about.st_size, about.st_mtime_ns


class Mapped:
    """Levels uint8 (N, C, H, W) in files; has what is used of a tensor, and gives tensors.

    A batch is read by one sorted index, so that the disk is read from its start to its end, whatever the order of the
    images. The maps are read-only: the processes of a machine share their pages, and the system takes them back where
    memory is short. Everything here is NumPy on one thread, so that a thread can do it beside a training step.

    Args:
        parts: the arrays, whose rows are counted through
        shape: (C, H, W)
        rows: which rows the images are in, (N,); None: all, in their order
    """

    device, dtype = torch.device("cpu"), torch.uint8

    def __init__(self, parts: Sequence[Part], shape: Sequence[int], rows: np.ndarray | None = None):
        self.parts = tuple(parts)
        self.starts = np.cumsum([0, *(len(part.array) for part in parts)])
        self.rows = np.arange(self.starts[-1]) if rows is None else rows
        self.shape = torch.Size((len(self.rows), *shape))

    @classmethod
    def of(cls, x: Tensor) -> "Mapped":
        """Levels in memory, to be joined with others on disk."""
        return cls([Part(x.numpy())], x.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Of all images, as levels."""
        return self.shape.numel()

    def __getitem__(self, index: Any) -> Tensor:
        """The images of a list, a tensor or a slice of numbers, (B, C, H, W); or one image, (C, H, W)."""
        rows = self.rows[as_numpy(index)]
        if rows.ndim == 0:
            return self[[index]][0]
        order = rows.argsort(kind="stable")
        rows = rows[order]
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        ends = rows.searchsorted(self.starts)
        for part, start, first, last in zip(self.parts, self.starts, ends, ends[1:], strict=False):
            if first < last:
                out[order[first:last]] = part.read(rows[first:last] - start)
        return torch.from_numpy(out)

    def take(self, index: Any) -> "Mapped":
        """The images of a list, a tensor or a slice of numbers; nothing is read."""
        return Mapped(self.parts, self.shape[1:], self.rows[as_numpy(index)])

    def then(self, change: Change) -> "Mapped":
        """These images with a change that is applied whenever they are read: uint8 (B, C, H, W) -> the same."""
        parts = [part._replace(changes=(*part.changes, change)) for part in self.parts]
        return Mapped(parts, self.shape[1:], self.rows)

    @staticmethod
    def joined(sets: Iterable["Mapped"]) -> "Mapped":
        """The images of one set after those of the other."""
        sets = list(sets)
        starts = np.cumsum([0, *(own.starts[-1] for own in sets)])
        rows = np.concatenate([own.rows + start for own, start in zip(sets, starts, strict=False)])
        return Mapped([part for own in sets for part in own.parts], sets[0].shape[1:], rows)

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in parts of this size."""
        return (self[slice(start, start + size)] for start in range(0, len(self), size))

    def to(self, device: torch.device | str) -> "Mapped | Tensor":
        """All images on a device that has a memory of its own; a CPU has them already."""
        return self if torch.device(device).type == "cpu" else self.read(device)

    def read(self, device: torch.device | str = "cpu") -> Tensor:
        """All images in the memory of a device."""
        out = torch.empty(self.shape, dtype=self.dtype, device=device)
        for block, place in zip(self.split(BLOCK), out.split(BLOCK), strict=True):
            place.copy_(block)
        return out


def as_numpy(values: Any) -> Any:
    """A tensor as NumPy takes it, such as an index; anything else as it is."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def mapped(file: Any, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array (C order) in a file, read-only. Raises OSError or ValueError if the file is shorter."""
    return np.memmap(file, dtype, "r", offset, shape)


def one_ahead(batches: Iterator[T]) -> Iterator[T]:
    """The same batches; a thread makes the next one while one is in use."""
    end = object()
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, batches, end)
        while (batch := coming.result()) is not end:
            coming = thread.submit(next, batches, end)
            yield batch  # type: ignore[misc]
