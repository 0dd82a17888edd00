"""A checkpoint as it is read: data alone, whole, of a known format, and no larger in memory than the file."""

import itertools
import pickletools
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cvae.errors import ConfigError, UserError
from cvae.runs.directory import AVERAGED, RAW

FORMAT = 1  # what training writes: {"cvae": {"format": FORMAT, "version": …}, …}. Runs before that have no such key: 0
LEAST, SMALL = 2**10, 2**23  # bytes

MOST, DEEPEST = 2**21, 32  # values in a checkpoint beside its numbers, and how deep one may lie in another
NAMES = {  # what a checkpoint may be made of beside the storages and kinds of numbers of torch
    "collections OrderedDict", "collections Counter", "torch Size", "torch device", "__builtin__ set",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",  # in 2017, when torchvision saved its VGG16
}  # fmt: skip
OMEGACONF = (  # what lists were made of in the states of radam, adamax and nadam before cvae 0.2
    "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "collections.defaultdict", "typing.Any", "builtins.list", "builtins.dict", "builtins.int",
)  # fmt: skip
AS_PICKLED = {"builtins": "__builtin__", "int": "long"}
KINDS = {  # of the values that cvae itself uses; a tuple has alternatives, a list the kind of each item
    "epoch": int, "global_step": int, "state_dict": {}, "optimizer_states": [{}], "lr_schedulers": [{}],
    "loops": {"fit_loop": {"state_dict": {"combined_loader": [{"used": int}]}}},
    "callbacks": {
        "EpochLines": {"seconds": [(int, float)], "of_this_epoch": (int, float)},
        "Pictures": {"history": {str: [[(int, float)]]}, "chosen": ([int], None)},
        "Checkpoints": {"best": (float, None), "step": int, "ranked": [[(str, float)]], "dropped": [str]},
        "EarlyStopping": {"best": (float, None), "epoch": int, "since": int, "ended": bool},
    },
    "cvae": {
        "gradients": {"norm": (int, float), "fresh": bool, "skipped": int},
        "should_stop": bool, "version": str, "figures": {str: (int, float)}, "points": {str: int}, "max_epochs": int,
        "data": (str, None), "averages": {str: Tensor}, "weights": str,
        "processes": [{name: {"names": [str], "sums": [Tensor], "count": int} for name in ("window", "epoch")}],
        "logs": [(int, None, {str: int})],
    },
}  # fmt: skip


class Damaged(UserError):
    """Every byte of a checkpoint was read, and they are not what was written: some are missing or changed."""


class OfOmegaConf:
    """In place of the classes in OMEGACONF, which are not loaded: what was pickled of one, and no more."""

    def __new__(cls, *_: Any) -> "OfOmegaConf":
        return super().__new__(cls)

    def plain(self) -> Any:
        """The list, or the value in a list, that it was."""
        state = vars(self)
        if isinstance(items := state.get("_content"), list):
            return [item.plain() if isinstance(item, OfOmegaConf) else item for item in items]
        return state.get("_val")


def read_checkpoint(file: Path, device: str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint; its tensors stay in the file until they are used.

    Raises:
        Damaged: bytes are missing or changed.
        UserError: the file is whole, but no checkpoint of a training, or of a newer format.
        OSError: the file is not there or cannot be read, whatever its content is.
    """
    require_whole(file)
    try:
        require_names(file)
        stand_ins = [(OfOmegaConf, name) for name in OMEGACONF]
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]  # pairs are allowed
            content = torch.load(file, map_location=device, weights_only=True, mmap=True)
        if any(isinstance(value, OfOmegaConf) for value in values(content)):
            content = tree_map(lambda leaf: leaf.plain() if isinstance(leaf, OfOmegaConf) else leaf, content)
        require_size(content, 2 * file.stat().st_size)
        about = content.get("cvae", {"format": 0})
        number, version = about["format"], about.get("version")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # odd content makes torch and pickle raise almost anything
        raise UserError(f"{file} is damaged or no checkpoint: {first_line(error)}") from error
    if type(number) is not int or number not in range(FORMAT + 1):
        known = f"this cvae reads formats up to {FORMAT}"
        raise UserError(f"{file} has format {number!r:.50}, of cvae {version!r:.50}; {known}")
    if odd := misfit(content, KINDS):
        raise UserError(f"{file} is no checkpoint of a training: {odd} is of a type that no training saves")
    return content


def first_line(error: Exception) -> str:
    """The error's first line; with its type if it is another library's, as many messages say little."""
    return (str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}").splitlines()[0]


def weights_in(file: Path, content: dict[str, Any], weights: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The weights of the model in the content of a checkpoint, by their names in it, and which: averaged or raw.

    weights: as for `cvae.load`. Raises ConfigError if the checkpoint has not these.
    """
    about, state = content.get("cvae", {}), content.get("state_dict", {})
    found = {str(name)[4:]: value for name, value in state.items() if str(name).startswith("vae.")}
    there = (AVERAGED, RAW) if "averages" in about else (str(about.get("weights", RAW)),)
    if weights not in (None, *there):
        raise ConfigError("weights", weights, f"{' or '.join(there)}: {file} has no others")
    weights = weights or there[0]
    return found | (about.get("averages", {}) if weights == AVERAGED else {}), weights


def require_whole(file: Path) -> None:
    """Raise Damaged unless all that was written is there: torch itself compares no checksums. OSError as it comes."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > file.stat().st_size:
                raise ValueError("it would unpack to more than its size")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make zipfile raise almost anything, OSError too
        require_readable(file)
        raise Damaged(f"{file} is damaged or no checkpoint: {first_line(error)}") from error


def require_readable(file: Path) -> None:
    """Read each byte, so that an OSError is of the disk and says nothing of the content."""
    with open(file, "rb") as stream:
        while stream.read(2**20):
            pass


def require_names(file: Path) -> None:
    """Raise ValueError if a checkpoint names what it need not be made of, or has more values than a training saves.

    torch's own list of what is harmless has more: bytearray(8 * 2**30) takes 8 GiB.
    """
    pickled = torch._C.PyTorchFileReader(str(file)).get_record("data.pkl")  # by the reader of torch.load
    require_known(pickletools.genops(pickled))


def require_known(pickled: Iterable[tuple[pickletools.OpcodeInfo, Any, Any]]) -> None:
    """`require_names`, of the operations of one pickle."""
    old = {" ".join(AS_PICKLED.get(part, part) for part in name.rsplit(".", 1)) for name in OMEGACONF}
    for count, (opcode, name, _) in enumerate(pickled):
        if count > MOST:
            raise ValueError(f"it has more than {MOST:,} values")
        if opcode.name == "GLOBAL" and name not in NAMES | old:
            module, _, kind = str(name).rpartition(" ")
            stored = kind.endswith("Storage") and module in ("torch", "torch.cuda")
            if not stored and not (module == "torch" and isinstance(getattr(torch, kind, None), torch.dtype)):
                raise ValueError(f"it has a {module}.{kind}; checkpoints have numbers, texts and tensors alone")


def values(content: Any) -> Iterator[Any]:
    """All that is in containers, at all depths, and they. Raises ValueError for what no training saves."""
    todo = [(content, 0)]
    for _ in range(MOST):
        if not todo:
            return
        value, depth = todo.pop()
        yield value
        if type(value) in (dict, OrderedDict, Counter):
            if not all(type(key) in (str, int) for key in value):
                raise ValueError("it has a key that is neither a text nor a number")
            value = value.values()
        elif type(value) not in (list, tuple, set):
            continue
        if depth == DEEPEST:
            raise ValueError(f"it has values in values in values, more than {DEEPEST} deep")
        if len(todo) + len(value) > MOST:
            break
        todo += [(inner, depth + 1) for inner in value]
    raise ValueError(f"it has more than {MOST:,} values")


def require_size(content: Any, most: int) -> None:
    """Raise ValueError if the tensors would take more than `most` bytes, or one has more numbers than it has memory.

    A tensor can repeat the numbers that it has (stride 0), and many can share them; where they are copied, each gets
    its own.
    """
    taken = 0
    for value in values(content):
        if isinstance(value, Tensor):
            taken += value.nbytes
            if value.nbytes > value.untyped_storage().nbytes():
                raise ValueError("it has a tensor that is larger than its numbers")
        elif type(value) is int and abs(value) >= 2**63:
            raise ValueError("it has a number of 2^63 or more")
    if taken > most:
        raise ValueError("its tensors would take more than twice its size")


def misfit(value: Any, kind: Any, place: str = "it") -> str:
    """The place of a value of the wrong kind, as cvae.logs.0; empty if all fit. Integers are counts: at least 0."""
    if isinstance(kind, tuple):
        return place if all(misfit(value, one) for one in kind) else ""
    if isinstance(kind, list):
        if not isinstance(value, list | tuple):
            return place
        inner = [(f"{place}.{number}", item, kind[0]) for number, item in enumerate(value)]
    elif isinstance(kind, dict):
        if not isinstance(value, dict) or (str in kind and not all(isinstance(key, str) for key in value)):
            return place
        here = "" if place == "it" else f"{place}."
        inner = [(f"{here}{key}", item, kind.get(key, kind.get(str))) for key, item in value.items()]
        inner = [row for row in inner if row[2] is not None]
    elif kind is None:
        return "" if value is None else place
    else:
        return "" if type(value) is kind and (kind is not int or value >= 0) else place
    return next(filter(None, itertools.starmap(lambda place, item, kind: misfit(item, kind, place), inner)), "")


class Budget(TorchDispatchMode):
    """A limit on the tensors that torch makes: no more than a model of the checkpoint's size needs.

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
