"""Rules for the config of a run directory: it may be somebody else's, so it must be data, not code.

Hydra calls any function whose name stands at `_target_`; OmegaConf's resolvers (`${oc.env:…}`) read the environment. So
before anything is resolved or called, these rules decide, and all else is refused by name:

1. A value is plain, or refers to a key that is plain: `require_plain`.
2. A `_target_` is a part of its group: a name that a module of PARTS has in its `__all__`: `require_parts`.
3. What writes gets the run directory, and no way out of it: `require_parts`, `require_inside`.

The user's own command line is not asked, nor is a run that the user trusts (--trust, `cvae.load(RUN, trust=True)`).
"""

import importlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cvae.errors import UserError

LIGHTNINGS = (  # callbacks that call nothing that they are given, and write into the run alone
    "EarlyStopping", "EMAWeightAveraging", "LearningRateMonitor", "ModelCheckpoint", "GradientAccumulationScheduler",
    "DeviceStatsMonitor", "Timer", "ModelSummary", "RichModelSummary", "TQDMProgressBar", "RichProgressBar",
)  # fmt: skip
OWN_IMAGES = "callbacks.pictures.own"  # is read, as data.root is
PARTS = {  # group -> where its parts come from: a package of cvae with its modules, another library's module or class
    "data": ("cvae.data",),
    "model": ("cvae.networks",),
    "posterior": ("cvae.posteriors", "cvae.schedules"),
    "prior": ("cvae.priors",),
    "likelihood": ("cvae.likelihoods",),
    "objective": ("cvae.objectives", "cvae.schedules", "cvae.runs.vgg"),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
    "trainer": ("pytorch_lightning.Trainer", "cvae.training"),
    "callbacks": ("cvae.training", *(f"pytorch_lightning.callbacks.{name}" for name in LIGHTNINGS)),
    "logger": ("pytorch_lightning.loggers.CSVLogger", "cvae.training"),
}
WRITING = ("trainer", "callbacks", "logger")  # groups of parts that write files
PARTIAL = ("data.source", "optimizer", "prior.prior", "scheduler")  # parts that are finished later: Hydra's _partial_

DATA_ROOT = "${oc.env:CVAE_DATA,data}"
ENVIRONMENT = {  # references to the environment as conf/ has them, which lead to what the user chose
    "data.root": DATA_ROOT,
    "logger.mlflow.tracking_uri": "${oc.env:MLFLOW_TRACKING_URI,sqlite:///mlflow.db}",
}
FILENAME = re.compile(r"([\w=. -]|\{\w+(:\d?\d?(\.\d)?[defg]?)?\})*")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
TRUST = "If you trust whoever made the run, say --trust (in Python: trust=True)"


def root_is_chosen(cfg: DictConfig) -> bool:
    """Whether the user chose the folder of the data, and not somebody else's run alone."""
    root = cfg.data._get_node("root") if "root" in cfg.data else None
    return root is None or not root._get_flag("foreign") or root._value() == DATA_ROOT


def require_plain(content: dict) -> None:
    """Raise UserError unless each value is plain, or refers to keys of `content` whose values are.

    A reference to a group, or to another reference, is refused too: a few of them can stand for billions of values.
    """
    for key, value in walk(content):
        text = value if isinstance(value, str) else ""
        if not (key + text).isprintable():
            raise UserError(f"{key!r}: {text!r} has characters that can't be printed. {TRUST}")
        if text and text == ENVIRONMENT.get(key):
            continue
        if isinstance(value, int) and abs(value) >= 2**32:  # of a seed
            raise UserError(f"{key}: a saved config has no number of 2^32 or more. {TRUST}")
        names = REFERENCE.findall(text)
        if "$" in REFERENCE.sub("", text) or len(names) > 8:
            raise UserError(
                f"{key}={text!r}: a saved config may refer to its own keys, as in ${{seed}}, not more. {TRUST}"
            )
        for name in names:
            if not is_plain(found(content, name)):
                raise UserError(f"{key}={text!r}: {name} is no plain value. {TRUST}")


def require_parts(content: Any, group: str) -> None:
    """Raise UserError unless a group of a saved config names parts of this group alone, at any depth."""
    if not isinstance(content.get(group), dict):
        raise UserError(f"{group}={content.get(group)!r}: a saved config must have the keys of a part here")
    for key, value in walk(content[group], group):
        name = key.rpartition(".")[2]
        if name == "_target_" and not is_part(value, PARTS.get(group, ())):
            places = " or ".join(PARTS.get(group, ())) or "nothing"
            raise UserError(f"{key}={value!r}: a saved config may build parts of {places} here, no others. {TRUST}")
        partial = name == "_partial_" and key.rpartition(".")[0] in PARTIAL
        if re.fullmatch("_.*_", name) and name != "_target_" and not partial:
            raise UserError(f"{key}={value!r}: a saved config may not say {name}. {TRUST}")
        if group in WRITING and key != OWN_IMAGES and leads_out(name, value, content):
            raise UserError(f"{key}={value!r}: what a saved config makes writes into ${{run_dir}} alone. {TRUST}")


def leads_out(name: str, value: Any, content: dict) -> bool:
    """Whether a value can make a part write elsewhere than into the run directory."""
    if name.endswith(("dir", "dirpath")):
        return value not in ("${run_dir}", "${run_dir}/checkpoints", None)
    if name == "filename":  # a pattern of Python's format, which can ask for a width of gigabytes
        return value is not None and not (isinstance(value, str) and FILENAME.fullmatch(value))
    text = REFERENCE.sub(lambda reference: str(found(content, reference[1])), value) if isinstance(value, str) else ""
    return name != "monitor" and (bool(set("/\\~") & set(text)) or ".." in text)


def is_part(target: Any, places: tuple[str, ...]) -> bool:
    """Whether `target` is one of `places`, or in the `__all__` of one; or of a module below one, if that is of cvae."""
    if not isinstance(target, str) or target in places:
        return target in places
    module, _, name = target.rpartition(".")
    ours = any(module.startswith(f"{place}.") for place in places if place.startswith("cvae."))
    if module not in places and not ours:
        return False
    try:
        return name in getattr(importlib.import_module(module), "__all__", ())
    except ImportError:
        return False


def walk(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each key with its value, and each item of a list, at all depths: (full key, value)."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        full = f"{place}.{key}" if place else str(key)
        yield full, value
        yield from walk(value, full)


def found(content: Any, name: str) -> Any:
    """The value of a full key, None if there is none."""
    for key in name.split("."):
        content = content.get(key) if isinstance(content, dict) else None
    return content


def is_plain(value: Any) -> bool:
    """Whether it is a single value that refers to nothing, or a list of such."""
    if isinstance(value, list):
        return not any(isinstance(item, list) or not is_plain(item) for item in value)
    return not isinstance(value, dict) and "$" not in str(value)


def require_inside(folder: Path, files: bool = False) -> None:
    """Raise UserError for what leads out of a run directory when it is written to, and for pipes.

    These are links to folders elsewhere and to nothing; and with `files`, for what is to be written on, links to files.
    """
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # the run goes on, and files come and go
                continue
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                continue
            inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # a link to itself, too
            if not (path.is_file() and (inside or not files)) and not (path.is_dir() and inside):
                raise UserError(f"{path} is a pipe, or a link that leads out of the run. {TRUST}")
