"""A checkpoint as it is read: data alone, whole, of a known format, and no larger in memory than the file."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cvae.errors import UserError

FORMAT = 1  # what training writes: {"cvae": {"format": FORMAT, "version": …}, …}. Runs before that have no such key: 0
LEAST, SMALL = 2**10, 2**23  # bytes


def read_checkpoint(file: Path, device: str = "cpu") -> dict[str, Any]:
    """What a checkpoint holds; its tensors stay in the file until they are used.

    Raises:
        UserError: the file is damaged, no checkpoint, or of a newer format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > file.stat().st_size:
                raise ValueError("it would unpack to more than its size")
            if damaged := archive.testzip():  # torch itself compares no checksums
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(file, map_location=device, weights_only=True, mmap=True)
        about = content.get("cvae", {"format": 0})
        number, version = about["format"], about.get("version")
    except Exception as error:  # damaged bytes make torch and pickle raise almost anything
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{file} is damaged or no checkpoint: {first_line}") from error
    if number not in range(FORMAT + 1):
        raise UserError(f"{file} has format {number!r}, of cvae {version!r}; this cvae reads formats up to {FORMAT}")
    return content


class Budget(TorchDispatchMode):
    """Within it torch makes no more than a model of a checkpoint's size takes: what would exceed that is not made.

    A config can ask for sizes that no machine has. How large its model may be is known: a checkpoint holds it. All that
    is made is counted, intermediate results too (cvae's parts make up to 4 times their weights), and each tensor as at
    least a KiB, so that a million layers take no time either.

    Args:
        files: the checkpoints of the model; where there is none yet, a GiB is the limit
    """

    def __init__(self, files: Iterable[Path]) -> None:
        super().__init__()
        sizes = [file.stat().st_size for file in files]
        self.left = 10 * max(sizes) + SMALL if sizes else 2**30
        self.limit = "its checkpoint, which should hold it" if sizes else "a GiB, and no checkpoint holds it"

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.is_mutable and not func.is_view:
            self.left -= max(LEAST, size_of_result(func, args, kwargs))
            if self.left < 0:
                raise UserError(f"the model is larger than {self.limit}")
        return func(*args, **kwargs)


def size_of_result(func: Any, args: tuple, kwargs: dict) -> int:
    """Bytes of what an operation of torch would return, which runs here on shapes alone."""
    try:
        result = func(*tree_map(without_data, args), **tree_map(without_data, kwargs))
    except (
        RuntimeError
    ):  # the size depends on the values, as in torch.unique and item(): no more than the arguments have
        return 0
    return sum(tensor.nbytes for tensor in tree_leaves(result) if isinstance(tensor, Tensor))


def without_data(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value
