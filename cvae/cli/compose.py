"""Combine an experiment's values with the user's choices: values that no longer apply are left out, typed ones win.

An experiment (conf/experiment/NAME.yaml) chooses a member of each group and sets values of them. Hydra composes the
choices, the user's before the experiment's. The experiment's values then go in before those that the user
typed, unless the chosen member lacks the key, or they would undo a choice within a group (objective/beta=linear). Hydra
has no hook for such a rule, so this module wraps the step in which Hydra applies what the user typed.
"""

from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, open_dict, read_write

from cvae.data import OWN

PACKAGE = Path(__file__).parents[1]
# The groups of choices: in the package where it was installed, beside it where it is used as it was checked out.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

apply_what_was_typed = ConfigLoaderImpl._apply_overrides_to_config


def apply_experiment_then_what_was_typed(overrides: list, cfg: DictConfig) -> None:
    """Hydra's step, after the experiment's values; cfg.experiment then has a line for each value that was left out."""
    if isinstance(cfg.get("experiment"), DictConfig):
        with open_dict(cfg):
            values = cfg.pop("experiment")
            cfg.experiment = {"left_out": merge(cfg, values)}
    apply_what_was_typed(overrides, cfg)


def for_own_images(words: list[str]) -> list[str]:
    """The words, with experiment=own_images for a user's own images where no experiment is typed.

    The default experiment is the tutorial, which turns each pixel into 0 or 1: right for its digits, not for colours.
    """
    typed = dict(word.partition("=")[::2] for word in words)
    return [*words, "experiment=own_images"] if typed.get("data") in OWN and "experiment" not in typed else words


def for_members(config: DictConfig, word: str) -> None:
    """Add a word for each member of a sweep, which composes its config anew and sees no other change of `config`."""
    with read_write(config.hydra):
        config.hydra.overrides.hydra.append(word)


def merge(target: DictConfig, values: DictConfig, place: str = "") -> list[str]:
    """Put values into target, in place; returns a line for each that does not apply. A key with a + is added as new."""
    left_out = []
    for key in map(str, values):
        value, new = values._get_node(key), key.lstrip("+")
        name = f"{place}{new}"
        if new == key and key not in target:
            owner = target.get("_target_") or place.rstrip(".") or "the config"
            left_out.append(f"{name}={shown(value)}: {owner} has no such key")
        elif isinstance(current := target._get_node(new), DictConfig) and (chosen := choice(current, value)):
            left_out.append(f"{name}={shown(value)}: {name} is {chosen}")
        elif isinstance(current, DictConfig) and isinstance(value, DictConfig):
            left_out += merge(current, value, f"{name}.")
        else:
            target[new] = value
    return left_out


def choice(current: DictConfig, value: Any) -> str | None:
    """The class chosen within a group, if `value` would replace it; else None."""
    target = current.get("_target_")
    if not isinstance(value, DictConfig):
        return target
    other = value.get("_target_", target)
    return target if other != target else None


def shown(value: Any) -> str:
    return str(value if isinstance(value, DictConfig | ListConfig) else value._value())


# Hydra has no hook for either.
ConfigLoaderImpl._apply_overrides_to_config = staticmethod(  # type: ignore[method-assign]
    apply_experiment_then_what_was_typed
)
# Hydra copies where it finds configs for each question it asks, 140 times for --help, and with it this store of the
# libraries' own configs, the same for all: half the time of --help. What is read from the store is copied anyway.
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
