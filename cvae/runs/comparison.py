"""Many runs side by side: what was set differently, and what came of it. Reads small files only; needs no torch."""

import csv
import io
import math
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cvae.checks import is_number
from cvae.errors import UserError
from cvae.runs import trust
from cvae.runs.directory import STATES, Run, read_json
from cvae.runs.evaluations import best_evaluation
from cvae.runs.names import safe, shortened

# Columns: title -> (key of metrics.json, digits). Nats per image; the seconds are those of training.
FIGURES = {
    "ELBO": ("test/elbo", 2), "NLL": ("evaluation/nll", 2), "rate": ("test/rate", 2),
    "distortion": ("test/distortion", 2), "active units": ("evaluation/active_units", 0), "seconds": ("seconds", 0),
}  # fmt: skip
UNKNOWN = "unknown"  # how the NLL was found
WORDS = ("run", "NLL by", "state", "tags")  # the titles of columns without numbers
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast


@dataclass
class Entry:
    """A run as a table shows it. settings: every key that was typed for any of the runs -> its value in this one."""

    run: Run
    state: str
    figures: dict[str, float]  # title -> value, where there is one
    tags: list[str]
    by: str = ""  # how its NLL was found: samples and images
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """A line of the table: a run, or runs that differ in their seed alone."""

    label: str
    settings: dict[str, Any]
    entries: list[Entry]

    def values(self, title: str) -> list[float]:
        return [entry.figures[title] for entry in self.entries if title in entry.figures]

    def mean(self, title: str) -> float:
        """NaN where no run has the figure."""
        return statistics.fmean(self.values(title)) if self.values(title) else math.nan

    def deviation(self, title: str) -> float | None:
        """The standard deviation over seeds (n - 1), or None for fewer than two."""
        return statistics.stdev(self.values(title)) if len(self.values(title)) > 1 else None

    def by(self) -> str:
        """How its NLL was found."""
        return "; ".join(dict.fromkeys(entry.by or UNKNOWN for entry in self.entries if "NLL" in entry.figures))

    def state(self) -> str:
        states = [entry.state for entry in self.entries]
        if len(states) == 1:
            return states[0]
        return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)


def find(paths: Iterable[str | Path]) -> list[Run]:
    """The runs at or below each path, each once, by name of their folder.

    Raises:
        UserError: there is none at one of the paths.
    """
    found: dict[Path, Run] = {}
    for path in map(Path, paths):
        below = [Run(folder) for folder, folders, _ in os.walk(path) if is_run(folder, folders)]
        if not below:
            raise UserError(f"{path}: there is no run at or below it")
        found |= {run.path.resolve(): run for run in below}
    return sorted(found.values(), key=lambda run: natural(str(run)))


def is_run(folder: str, folders: list[str]) -> bool:
    """Whether a folder that os.walk is in is a run's: then nothing below is looked at, else no hidden folder."""
    there = Run(folder).config_file.is_file()
    folders[:] = [] if there else [name for name in folders if not name.startswith(".")]
    return there


def natural(text: str) -> list:
    """A key that sorts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def read(runs: Iterable[Run]) -> list[Entry]:
    """What the runs have left. A file that is missing or damaged leaves its figures out."""
    entries, typed, configs = [], {}, []
    for run in runs:
        metrics, config = read_json(run.metrics), read_config(run.config_file)
        pairs = dict(word.lstrip("+~").partition("=")[::2] for word in run.overrides())
        seconds, tags, by = metrics.get("train/seconds_per_epoch"), config.get("tags"), ""
        if seconds and isinstance(seconds, list) and all(map(is_number, seconds)):
            metrics["seconds"] = sum(seconds)
        if best := best_evaluation(run, metrics.get("steps")):
            metrics, by = metrics | best.figures, best.by
        figures = {title: metrics[key] for title, (key, _) in FIGURES.items() if is_number(metrics.get(key))}
        entries.append(Entry(run, run.state(), figures, list(map(str, tags)) if isinstance(tags, list) else [], by))
        configs.append((config, pairs))
        typed |= dict.fromkeys(pairs)
    for entry, (config, pairs) in zip(entries, configs, strict=True):
        entry.settings = {key: setting(entry.run, config, pairs, key) for key in typed}
    return entries


def read_config(file: Path) -> dict:
    """A config as it stands there, as data alone: nothing is resolved. {} where it is missing or damaged."""
    try:
        config = yaml.load(trust.read_yaml(file), Loader)
    except (OSError, ValueError, UserError, RecursionError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def setting(run: Run, config: dict, pairs: dict[str, str], key: str, follow: bool = True) -> Any:
    """The value of a key in a run, whether it was typed there or not; of a group its choice.

    follow: where it stands for another key, the value of that one
    """
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if follow and isinstance(value, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        return setting(run, config, {}, reference[1], follow=False)
    if isinstance(value, dict) or "/" in key:
        return pairs.get(key) or choices(run).get(key)
    return value


def choices(run: Run) -> dict[str, str]:
    """What was chosen of each group, typed or not: {"prior": "vamp", …}."""
    said = trust.found(read_config(run.hydra_file), "hydra.runtime.choices")
    return said if isinstance(said, dict) else {}


def differing(entries: list[Entry]) -> list[str]:
    """The keys whose values are not the same in all runs, in the order typed."""
    keys = entries[0].settings
    return [key for key in keys if len({str(entry.settings[key]) for entry in entries}) > 1]


def rows(entries: list[Entry], sort: str = "ELBO", each: bool = False) -> list[Row]:
    """The table: the best first, those without the figure last.

    sort: a title of FIGURES or a key; ELBO and active units are better when higher
    each: a row for each run; else runs that differ in their seed alone share a row

    Raises:
        UserError: there is no such column.
    """
    keys = differing(entries)
    groups: dict[Any, list[Entry]] = {}
    by = [key for key in keys if key != "seed"]
    for number, entry in enumerate(entries):
        groups.setdefault(number if each else tuple(str(entry.settings[key]) for key in by), []).append(entry)
    if len(groups) < len(entries):
        keys = by
    table = [Row("", {key: group[0].settings[key] for key in keys}, group) for group in groups.values()]
    name_rows(table)
    titles = dict(zip(shortened(keys), keys, strict=True)) | {key: key for key in keys}
    if sort in FIGURES:
        sign = -1 if sort in ("ELBO", "active units") else 1
        return sorted(table, key=lambda row: (math.isnan(row.mean(sort)), sign * row.mean(sort)))
    if sort not in titles:
        raise UserError(f"--sort {sort}: must be a column: {', '.join([*shortened(keys), *FIGURES])}")
    return sorted(table, key=lambda row: natural(str(row.settings[titles[sort]])))


def name_rows(table: list[Row]) -> None:
    """Label each row: the name of its run where that says which one it is, else its settings, else its path."""
    for row in table:
        row.label = row.entries[0].run.name if len(row.entries) == 1 else settings_of(row) or "all"
    for row in table:
        if sum(other.label == row.label for other in table) > 1:
            for other in table:
                other.label = str(other.entries[0].run)
            return


def settings_of(row: Row) -> str:
    """latent_dim=8,seed=1, as the name of a run would be."""
    pairs = zip(shortened(row.settings), row.settings.values(), strict=True)
    return ",".join(f"{short}={safe(text_of(value))}" for short, value in pairs)


def text_of(value: Any) -> str:
    """A setting as one types it."""
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


def cells(table: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(titles, a line of texts for each row): what differs, figures as mean ± standard deviation, the state.

    The name of a run comes first, unless it says what its settings say.
    """
    shown = [title for title in FIGURES if any(row.values(title) for row in table)]
    measured = len(ways(table)) > 1
    grouped, tagged = any(len(row.entries) > 1 for row in table), any(row.entries[0].tags for row in table)
    named = any(row.label != settings_of(row) for row in table)
    titles = [
        *(["run"] if named else []),
        *shortened(table[0].settings),
        *(["runs"] if grouped else []),
        *shown,
        *(["NLL by"] if measured else []),
        "state",
    ]
    lines = []
    for row in table:
        settings = [text_of(value) for value in row.settings.values()]
        count = [str(len(row.entries))] if grouped else []
        figures = [figure(row.mean(title), row.deviation(title), FIGURES[title][1]) for title in shown]
        tags = [",".join(row.entries[0].tags)] if tagged else []
        by = [row.by() or "-"] if measured else []
        lines.append([*([row.label] if named else []), *settings, *count, *figures, *by, row.state(), *tags])
    return titles + (["tags"] if tagged else []), lines


def ways(table: list[Row]) -> set[str]:
    """How the NLL of the rows were found."""
    return {row.by() for row in table if row.values("NLL")}


def caption(table: list[Row]) -> str:
    """How all NLL were found; nothing where they differ, which a column shows, or where it is not known."""
    said = ways(table) or {UNKNOWN}
    return f"NLL by {said.pop()}" if len(said) == 1 and UNKNOWN not in said else ""


def figure(mean: float, deviation: float | None, digits: int) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{max(digits, 1)}f}" if deviation is not None else "")


def as_markdown(table: list[Row]) -> str:
    titles, lines = cells(table)
    rule = ["---" if title in WORDS else "---:" for title in titles]
    said = ["", caption(table)] if caption(table) else []
    return "\n".join([*(f"| {' | '.join(line)} |" for line in (titles, rule, *lines)), *said])


def as_csv(entries: list[Entry]) -> str:
    """A line for each run, with its path and all digits."""
    keys, out = differing(entries), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", *keys, *FIGURES, "NLL by", "state", "tags"])
    for entry in entries:
        settings = [text_of(entry.settings[key]) for key in keys]
        figures = [entry.figures.get(title, "") for title in FIGURES]
        writer.writerow([entry.run, *settings, *figures, entry.by, entry.state, " ".join(entry.tags)])
    return out.getvalue()
