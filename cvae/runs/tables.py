"""The table of a comparison: a part for what can be ranked, the best first, no more columns than one reads."""

import csv
import io
import math
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.cells import cell_len

from cvae.errors import UserError
from cvae.runs.comparison import FIGURES, QUALITY, Entry, natural
from cvae.runs.directory import STATES
from cvae.runs.modelled import UNKNOWN
from cvae.runs.names import safe, shortened
from cvae.runs.small_files import one_line

NO_SETTINGS = "unknown"  # how an NLL was found of which no file says it
WORDS = ("run", "NLL by", "state", "tags")  # the titles of columns without numbers
COLUMNS, SIGNS = 12, 48  # at most, of a table that is read; signs of a cell, too
HIGHER = ("ELBO", "active units", "MIG", "DCI", "SAP", "FactorVAE")  # figures that are better when higher
FIRST = (1, 3, 6)  # weights of the first settings


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
        return "; ".join(dict.fromkeys(entry.by or NO_SETTINGS for entry in self.entries if "NLL" in entry.figures))

    def at_most(self) -> bool:
        """Whether its NLL is a bound that no number of samples makes tight."""
        return any(entry.at_most for entry in self.entries if "NLL" in entry.figures)

    def state(self) -> str:
        states = [entry.state for entry in self.entries]
        if len(states) == 1:
            return states[0]
        return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)


class Part(NamedTuple):
    """Runs that model the same, and so can be ranked. A part has at least one row."""

    modelled: str
    rows: list[Row]


class Column(NamedTuple):
    """A column of a table. weight: where there is no room for all, the heaviest is left out first."""

    title: str
    weight: int
    cells: list[str]

    def width(self) -> int:
        return 2 + max(map(cell_len, (self.title, *self.cells)))


def parts(entries: list[Entry], sort: str = "ELBO", each: bool = False) -> list[Part]:
    """A part for each thing that is modelled, those with the most runs first.

    sort: a title of FIGURES or a key, or of a figure of samples what its title begins with, as FD; those of HIGHER, and
        precision and recall, are better when higher
    each: a row for each run; else runs that differ in their seed alone share a row

    Raises:
        UserError: no part has such a column.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.modelled, []).append(entry)
    order = sorted(groups, key=lambda words: (words == UNKNOWN, -len(groups[words]), natural(words)))
    found = [Part(words, rows(groups[words], each or words == UNKNOWN)) for words in order]
    keys = list(dict.fromkeys(key for part in found for key in part.rows[0].settings))
    titles = {title: title for title in FIGURES}
    for title in of_samples(entries):
        titles |= {title: title, (short := title.partition(" ")[0]): titles.get(short, title)}
    if sort not in (*titles, *keys, *shortened(keys)):
        raise UserError(f"--sort {sort}: must be a column: {', '.join([*shortened(keys), *titles])}")
    if sort in titles:
        return [part._replace(rows=best_first(part.rows, titles[sort])) for part in found]
    key = dict(zip(shortened(keys), keys, strict=True)).get(sort, sort)
    return [
        part._replace(rows=sorted(part.rows, key=lambda row: natural(str(row.settings.get(key))))) for part in found
    ]


def of_samples(entries: Iterable[Entry]) -> dict[str, int]:
    """The titles of figures of samples, each with its features, and their digits."""
    titles = {title for entry in entries for title in entry.figures} - set(FIGURES)
    order = {name: number for number, name in enumerate(QUALITY)}
    found = sorted(titles, key=lambda title: (title.partition(" ")[2], order[title.partition(" ")[0]]))
    return {title: QUALITY[title.partition(" ")[0]][1] for title in found}


def differing(entries: list[Entry]) -> list[str]:
    """The keys whose values are not the same in all runs, those first that most runs typed."""
    keys = entries[0].settings
    return [key for key in keys if len({str(entry.settings[key]) for entry in entries}) > 1]


def rows(entries: list[Entry], each: bool = False) -> list[Row]:
    """The rows of a part, those with the best ELBO first."""
    keys = differing(entries)
    groups: dict[Any, list[Entry]] = {}
    by = [key for key in keys if key != "seed"]
    for number, entry in enumerate(entries):
        groups.setdefault(number if each else tuple(str(entry.settings[key]) for key in by), []).append(entry)
    if len(groups) < len(entries):
        keys = by
    table = [Row("", {key: group[0].settings[key] for key in keys}, group) for group in groups.values()]
    name_rows(table)
    return best_first(table, "ELBO")


def best_first(table: list[Row], title: str) -> list[Row]:
    """The rows by a figure, those without it last."""
    sign = -1 if title in HIGHER or title.startswith(("precision", "recall")) else 1
    return sorted(table, key=lambda row: (math.isnan(row.mean(title)), sign * row.mean(title)))


def name_rows(table: list[Row]) -> None:
    """Label each row: the name of its run, of several what they share; the path where that does not tell rows apart."""
    for row in table:
        name = one_line(row.entries[0].run.name)
        if len(row.entries) > 1:
            settings, shared = settings_of(row), re.sub(r"(^|,)seed=\d+", "", name).strip(",")
            name = settings if len(settings) <= SIGNS else shared or settings
        row.label = name or "all"
    counts = Counter(row.label for row in table)
    for row in table:
        if counts[row.label] > 1:
            row.label = one_line(str(row.entries[0].run))


def settings_of(row: Row) -> str:
    """latent_dim=8,seed=1, as the name of a run would be."""
    pairs = zip(shortened(row.settings), row.settings.values(), strict=True)
    return ",".join(f"{short}={safe(text_of(value))}" for short, value in pairs)


def text_of(value: Any) -> str:
    """A setting as one types it."""
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def columns(table: list[Row]) -> list[Column]:
    """All columns of a part: what differs, figures as mean ± standard deviation, the state.

    The name of a run comes first, unless it says what its settings say.
    """
    names = [row.label for row in table]
    found = [] if names == [settings_of(row) for row in table] else [Column("run", 0, names)]
    for number, (title, key) in enumerate(zip(shortened(table[0].settings), table[0].settings, strict=True)):
        weight = FIRST[number] if number < len(FIRST) else 10 + number
        found.append(Column(title, weight, [text_of(row.settings[key]) for row in table]))
    if any(len(row.entries) > 1 for row in table):
        found.append(Column("runs", 2, [str(len(row.entries)) for row in table]))
    weights = {"ELBO": 0, "NLL": 2, "MIG": 2, "rate": 5, "distortion": 5, "active units": 6, "seconds": 8}
    drawn = of_samples(entry for row in table for entry in row.entries)
    weights |= {title: 3 if title.startswith("FD") else 9 for title in drawn}
    for title, digits in ({title: digits for title, (_, digits) in FIGURES.items()} | drawn).items():
        if any(row.values(title) for row in table):
            cells = [figure(row.mean(title), row.deviation(title), digits) for row in table]
            if title == "NLL":
                cells = [("≤ " if row.at_most() else "") + cell for row, cell in zip(table, cells, strict=True)]
            found.append(Column(title, weights.get(title, 3), cells))
    if len(ways(table)) > 1:
        found.append(Column("NLL by", 7, [row.by() or "-" for row in table]))
    found.append(Column("state", 4, [row.state() for row in table]))
    if any(row.entries[0].tags for row in table):
        found.append(Column("tags", 9, [",".join(row.entries[0].tags) for row in table]))
    return found


def shown(table: list[Row], width: int | None = None) -> tuple[list[Column], list[str]]:
    """The columns that one reads, and the titles of those that are left out.

    width: signs of a line that they must fit into, if they must
    """
    kept, left_out = columns(table), list[str]()
    if not any(column.title == "run" for column in kept) and len(table[0].settings) > COLUMNS:
        kept.insert(0, Column("run", 0, [row.label for row in table]))  # else rows may look alike
    signs = min(SIGNS, max(16, width // 3)) if width else SIGNS
    kept = [column._replace(cells=[cut(cell, signs) for cell in column.cells]) for column in kept]
    while len(kept) > COLUMNS or (width and sum(column.width() for column in kept) > width and len(kept) > 2):
        heaviest = max(kept, key=lambda column: (column.weight, kept.index(column)))
        kept.remove(heaviest)
        left_out.insert(0, heaviest.title)
    return kept, left_out


def cut(text: str, signs: int = SIGNS) -> str:
    """The text, without its middle where it has more than so many signs."""
    return text if len(text) <= signs else f"{text[: signs // 2 - 1]}…{text[-signs // 2 :]}"


def ways(table: list[Row]) -> set[str]:
    """How the NLL of the rows were found."""
    return {row.by() for row in table if row.values("NLL")}


def remarks(table: list[Row], left_out: list[str]) -> list[str]:
    """Notes to print below a part of the table, a line each."""
    said, nll = ways(table) or {NO_SETTINGS}, "NLL" not in left_out
    lines = [f"NLL by {next(iter(said))}"] if nll and len(said) == 1 and NO_SETTINGS not in said else []
    if nll and any(row.at_most() for row in table):
        lines.append("≤ of a single code for each image: a bound on the NLL that no number of samples makes tight")
    if set(of_samples(entry for row in table for entry in row.entries)) - set(left_out):
        lines.append("FD: Fréchet distance of samples by the features that are named, of so many samples/test images")
    if averaged := sum(entry.averaged for row in table for entry in row.entries):
        lines.append(f"{averaged} of the runs: figures of averaged weights (averaging.decay)")
    if chosen := sum(entry.chosen for row in table for entry in row.entries):
        lines.append(f"{chosen} of the runs: their search chose by the test images (data.validation_size=0)")
    more = textwrap.shorten(", ".join(left_out), 100, placeholder=" …")
    return lines + ([f"more columns by --all: {more}"] if left_out else [])


def figure(mean: float, deviation: float | None, digits: int) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{max(digits, 1)}f}" if deviation is not None else "")


def as_markdown(part: Part, every: bool = False) -> str:
    """A part as Markdown; every: with all columns."""
    kept, left_out = (columns(part.rows), []) if every else shown(part.rows)
    titles, lines = [column.title for column in kept], zip(*(column.cells for column in kept), strict=True)
    rule = ["---" if title in WORDS else "---:" for title in titles]
    table = [[cell.replace("|", "\\|") for cell in line] for line in (titles, rule, *lines)]
    table_lines = [f"| {' | '.join(line)} |" for line in table]
    return "\n\n".join([part.modelled, "\n".join(table_lines), *remarks(part.rows, left_out)])


def as_csv(entries: Iterable[Entry]) -> str:
    """A line for each run, with its path, what it models and all digits."""
    entries, out = list(entries), io.StringIO()
    keys, writer = differing(entries), csv.writer(out, lineterminator="\n")
    titles = [*FIGURES, *of_samples(entries)]
    writer.writerow(["path", "modelled", *keys, *titles, "NLL is", "NLL by", "state", "tags"])
    for entry in entries:
        settings = [text_of(entry.settings[key]) for key in keys]
        figures = [entry.figures.get(title, "") for title in titles]
        bound = ("at most" if entry.at_most else "") if "NLL" in entry.figures else ""
        about = [bound, entry.by, entry.state, " ".join(entry.tags)]
        writer.writerow([one_line(str(entry.run)), entry.modelled, *settings, *figures, *about])
    return out.getvalue()
