"""Many runs side by side: what each models, what was set differently, what came of it. Small files only; no torch."""

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from cvae.checks import is_number
from cvae.errors import UserError
from cvae.runs import trust
from cvae.runs.directory import AVERAGED, Run
from cvae.runs.evaluations import best_evaluation, factor_figures, qualities
from cvae.runs.modelled import chosen_by, modelled, one_code, weights_of
from cvae.runs.small_files import read_config, read_json

log = logging.getLogger(__name__)

# Columns: title -> (key of metrics.json, digits). Nats per image; the seconds are those of training.
FIGURES = {
    "ELBO": ("test/elbo", 2), "NLL": ("evaluation/nll", 2), "rate": ("test/rate", 2),
    "distortion": ("test/distortion", 2), "active units": ("evaluation/active_units", 0), "seconds": ("seconds", 0),
    "MIG": ("evaluation/mig", 3), "DCI": ("evaluation/dci_disentanglement", 3), "SAP": ("evaluation/sap", 3),
    "FactorVAE": ("evaluation/factor_vae_score", 3),
}  # fmt: skip
# Of samples and reconstructions: what begins a column's title, before its features -> (name, digits).
QUALITY = {
    "FD": ("frechet", 2), "KID": ("kid", 4), "precision": ("precision", 3), "recall": ("recall", 3),
    "rFD": ("reconstruction_frechet", 2), "LPIPS": ("lpips", 4),
}  # fmt: skip
LARGEST = 1e30  # a figure, or a number of a figure's axis; sums and drawings of larger ones overflow
TYPED, TAGS, LONGEST = 500, 20, 200  # words and tags of a run, and signs of the name of a key: more are left out
LINKED = 20_000  # folders behind links that are looked at: a link may lead to the whole disk


@dataclass
class Entry:
    """A run as a table shows it.

    settings: every key that was typed for any of the runs -> its value in this one, those first that most runs typed
    """

    run: Run
    modelled: str  # what it models: only within the same words are figures compared
    state: str
    figures: dict[str, float]  # title -> value, where there is one
    tags: list[str]
    by: str = ""  # how its NLL was found: samples and images
    at_most: bool = False  # its NLL is an upper bound that no number of samples makes tight
    chosen: bool = False  # of a search that chose by the test images
    averaged: bool = False  # its figures are of averages of the weights
    settings: dict[str, Any] = field(default_factory=dict)


def find(paths: Iterable[str | Path]) -> list[Run]:
    """The runs at or below each path, each once, by name of their folder.

    Raises:
        UserError: there is none at one of the paths.
    """
    found: dict[str, Run] = {}
    for path in map(Path, paths):
        below = list(runs_below(str(path)))
        if not below:
            raise UserError(f"{path}: there is no run at or below it")
        for folder in below:
            found.setdefault(os.path.realpath(folder), Run(folder))
    return sorted(found.values(), key=lambda run: natural(str(run)))


def runs_below(path: str) -> Iterator[str]:
    """The folders of runs at or below a path, also behind links, as TensorBoard finds them.

    Links come last, and a folder that was looked at is not looked at again: no circle has an end, and of the ways to a
    run the one without a link is kept. What is within a run is not looked at, nor are hidden folders.
    """
    seen, starts, behind_links = set(), deque([path]), 0
    while starts:
        start = starts.popleft()
        for folder, folders, _ in os.walk(start):
            behind_links += start != path
            if behind_links > LINKED:
                log.warning("%s: behind links %s folders are looked at, no more", path, f"{LINKED:,}")
                return
            if (place := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(place)
            if there := Run(folder).config_file.is_file():
                yield folder
            folders[:] = [] if there else [name for name in folders if not name.startswith(".")]
            starts += [inner for name in folders if os.path.islink(inner := os.path.join(folder, name))]


def natural(text: str) -> list:
    """A key that sorts 2 before 10."""
    parts = re.split(r"([0-9]+)", text[:LONGEST])
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]


def read(runs: Iterable[Run]) -> list[Entry]:
    """An entry for each run, from its files. A missing or damaged file leaves its figures out."""
    entries, configs, typed = [], [], Counter[str]()
    for run in runs:
        config, hydra = read_config(run.config_file), read_config(run.hydra_file)
        pairs = dict(word.lstrip("+~").partition("=")[::2] for word in run.overrides()[:TYPED])
        pairs = {key: value for key, value in pairs.items() if value and len(key) <= LONGEST}
        entries.append(entry_of(run, config, hydra))
        configs.append((config, choices(hydra) | pairs))
        typed.update(list(pairs))
    for entry, (config, pairs) in zip(entries, configs, strict=True):
        entry.settings = {key: setting(config, pairs, key) for key, _ in typed.most_common()}
    return entries


def entry_of(run: Run, config: dict, hydra: dict) -> Entry:
    """A run without its settings."""
    metrics, by, at_most = read_json(run.metrics), "", one_code(config)
    seconds, tags = metrics.get("train/seconds_per_epoch"), config.get("tags")
    if seconds and isinstance(seconds, list) and all(map(usable, seconds)):
        metrics["seconds"] = sum(seconds)
    if best := best_evaluation(run, metrics.get("steps"), weights_of(config)):
        metrics, by, at_most = metrics | best.figures, best.by, at_most or best.at_most
    metrics |= factor_figures(run, metrics.get("steps"), weights_of(config))
    figures = {title: metrics[key] for title, (key, _) in FIGURES.items() if usable(metrics.get(key))}
    for features, measured in qualities(run, metrics.get("steps"), weights_of(config)).items():
        known = {f"{title} {features}": measured.get(name) for title, (name, _) in QUALITY.items()}
        figures |= {title: value for title, value in known.items() if usable(value)}
    tags = list(map(str, tags[:TAGS])) if isinstance(tags, list) else []
    search = "optuna" in str(trust.found(hydra, "hydra.sweeper._target_"))
    chosen, averaged = search and chosen_by(config), weights_of(config) == AVERAGED
    return Entry(run, modelled(config), run.state(), figures, tags, by, at_most, chosen, averaged)


def setting(config: dict, choices: dict[str, str], key: str, follow: bool = True) -> Any:
    """The value of a key in a run, whether it was typed there or not; of a group its choice.

    choices: what was chosen of each group, or typed for a key
    follow: where it stands for another key, the value of that one
    """
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if follow and isinstance(value, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        return setting(config, choices, reference[1], follow=False)
    if isinstance(value, dict) or "/" in key:
        return choices.get(key)
    return value


def choices(hydra: dict) -> dict[str, str]:
    """The choice in each group, typed or not: {"prior": "vamp", …}."""
    said = trust.found(hydra, "hydra.runtime.choices")
    return said if isinstance(said, dict) else {}


def usable(value: Any) -> TypeGuard[float]:
    """Whether it is a number that can be summed and drawn."""
    return is_number(value) and abs(value) < LARGEST
