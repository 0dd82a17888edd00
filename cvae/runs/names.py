"""The name of a run, made of what was typed: latent_dim=8,seed=1. It is the end of its folder's name."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

LONGEST = 100  # characters: file systems allow 255, a table or a legend not that many


def suffix(name: str | None, overrides: Iterable[str] = (), leave_out: Iterable[str] = ()) -> str:
    """The end of a run's folder name, behind the time: _NAME, or nothing.

    name: given by hand, else None
    overrides: what was typed, KEY=VALUE
    leave_out: keys that do not tell runs apart; * stands for anything
    """
    text = safe(str(name)) if name is not None else name_of(overrides, leave_out)
    if len(text) > LONGEST:  # two names that begin alike stay two
        text = f"{text[: LONGEST - 9]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"_{text}" if text else ""


def name_of(overrides: Iterable[str], leave_out: Iterable[str]) -> str:
    """latent_dim=8,seed=1: each key as short as it can be told from the others, in the order typed."""
    pairs = {}
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+~")
        if not any(fnmatchcase(key, pattern) for pattern in leave_out):
            pairs[key] = value
    return ",".join(f"{short}={safe(value)}" for short, value in zip(shortened(pairs), pairs.values(), strict=True))


def shortened(keys: Iterable[str]) -> list[str]:
    """The last parts of each dotted key: as few as no other key ends with."""
    parts = [tuple(re.split(r"[./]", key)) for key in keys]
    tails = Counter(part[-n:] for part in parts for n in range(1, len(part) + 1))
    return [".".join(next((part[-n:] for n in range(1, len(part)) if tails[part[-n:]] == 1), part)) for part in parts]


def safe(text: str) -> str:
    """The text with - for everything that a file system or a shell might read in its own way."""
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-.")


def folder_of_sweep(experiment: str, overrides: Iterable[str]) -> str:
    """The folder of a sweep below outputs/: EXPERIMENT/multirun, or multirun if it sweeps over experiments."""
    typed = OverridesParser.create().parse_overrides(list(overrides))
    several = any(override.key_or_group == "experiment" and override.is_sweep_override() for override in typed)
    return "multirun" if several else f"{experiment}/multirun"


OmegaConf.register_new_resolver("suffix", suffix, replace=True)
OmegaConf.register_new_resolver("folder_of_sweep", folder_of_sweep, replace=True)
