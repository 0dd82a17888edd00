"""python -m cvae compare PATHS…: one table and one figure of many runs."""

import argparse
import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cvae.errors import ConfigError
from cvae.runs.comparison import find, read, usable
from cvae.runs.curves import curve
from cvae.runs.directory import Run
from cvae.runs.names import shortened
from cvae.runs.storage import save
from cvae.runs.tables import SIGNS, WORDS, Part, Row, as_csv, as_markdown, columns, cut, parts, remarks, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND = 12  # more rows than these have no legend: it would cover the page
PARTS = 8  # that are drawn
MARKED = 30  # a curve of more points than these is a line alone


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare many runs: a table of the settings that differ and the results; also as a figure",
        description="Compare runs: the settings that differ, and the results (nats per image). Runs on other images or "
        "with another kind of likelihood have a table of their own, since their figures cannot be ranked together. "
        "Runs that differ only in their seed share a row: mean ± standard deviation.",
        epilog="example: python -m cvae compare outputs/tf_tutorial --plot comparison.png",
    )
    compare.set_defaults(call=show)
    compare.add_argument(
        "paths", metavar="PATH", nargs="+", help="a run, a sweep, or any folder with runs in it, such as outputs"
    )
    compare.add_argument(
        "--sort", metavar="COLUMN", default="ELBO", help="the column to sort by (default: ELBO, the best first)"
    )
    compare.add_argument("--each", action="store_true", help="a row for each run, also where only seeds differ")
    compare.add_argument("--all", action="store_true", help="all columns, however wide the table is")
    kind = compare.add_mutually_exclusive_group()
    kind.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    kind.add_argument("--csv", action="store_true", help="print a line for each run as CSV, with all digits")
    compare.add_argument(
        "--plot", metavar="FILE", help="draw learning curves, the rate-distortion plane and the ELBO against a number"
    )
    compare.add_argument("--against", metavar="KEY", help="the number of --plot (default: the first that was swept)")


def show(args: argparse.Namespace) -> None:
    """Print the table, and draw the figure if asked to.

    Raises:
        UserError: a path has no run, or an option is wrong.
    """
    if args.plot and Path(args.plot).suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError("--plot", args.plot, "the name of a file that ends in .png, .pdf or .svg")
    entries = read(find(args.paths))
    found = parts(entries, args.sort, args.each)
    numbers = against(found, args.against)
    if args.csv:
        sys.stdout.write(as_csv(entries))
    elif args.markdown:
        print("\n\n".join(as_markdown(part, args.all) for part in found))
    else:
        print_parts(found, args.all)
    if args.plot:
        import matplotlib

        matplotlib.use("agg")
        save(Path(args.plot), figure_of(found[:PARTS], numbers, Path(args.plot).suffix[1:]))
        more = f", of the {PARTS} kinds with the most runs; there are {len(found)}" if len(found) > PARTS else ""
        print(f"figure: {args.plot}{more}", file=sys.stderr)


def print_parts(found: list[Part], every: bool) -> None:
    """A table for each part, below what it models, as wide as the terminal; every: with all columns, however wide."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size((0, 0)).columns  # 0: it goes into a pipe or a file
    for number, part in enumerate(found):
        kept, left_out = (columns(part.rows), []) if every else shown(part.rows, width or None)
        console = Console(width=max(width, 300, sum(column.width() for column in kept)))  # nothing is cut by it
        table = Table(box=None)
        for column in kept:
            table.add_column(Text(column.title), justify="left" if column.title in WORDS else "right", no_wrap=True)
        for line in zip(*(column.cells for column in kept), strict=True):
            table.add_row(*map(Text, line))
        if number:
            console.print()
        for part_of_page in (Text(part.modelled[:300]), table, *map(Text, remarks(part.rows, left_out))):
            console.print(part_of_page, soft_wrap=isinstance(part_of_page, Text))


def against(found: list[Part], key: str | None) -> list[str | None]:
    """For each part the setting whose numbers are an axis: the one asked for, or the first that differs and is a number
    in each run; None where there is none.

    Raises:
        ConfigError: the one asked for is one of no part.
    """
    numeric = [numbers_of(part.rows) for part in found]
    if key is None:
        measured = [[row for row in part.rows if row.values("ELBO")] for part in found]
        return [next(iter(numbers_of(table)), None) if table else None for table in measured]
    wanted = [
        next((name for short, name in zip(shortened(names), names, strict=True) if key in (short, name)), None)
        for names in numeric
    ]
    if not any(wanted):
        there = ", ".join(dict.fromkeys(name for names in numeric for name in names)) or "none does"
        raise ConfigError("--against", key, f"a number that differs between the runs: {there}")
    return wanted


def numbers_of(table: list[Row]) -> list[str]:
    """The settings that are numbers in each row, and not the same in all."""
    keys = [key for key in table[0].settings if all(usable(row.settings[key]) for row in table)]
    return [key for key in keys if len({row.settings[key] for row in table}) > 1]


def as_it_is(text: str, signs: int = SIGNS) -> str:
    """Text that matplotlib draws as it is: no formula, no label that it leaves out, and no more than so many signs."""
    return f"{' ' * text.startswith('_')}{cut(text, signs)}".replace("$", r"\$")


def figure_of(found: list[Part], numbers: Sequence[str | None], kind: str) -> bytes:
    """The figure as a file's content: panels of its own for each part, with ELBOs of its own kind; a colour a row."""
    import io

    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels, colours, number_of_row = 3 if any(numbers) else 2, colormaps["viridis"], itertools.count()
    most = max(sum(len(part.rows) for part in found) - 1, 1)
    figure = Figure((5 * panels, 4.2 * len(found)), layout="constrained")
    frames = figure.subfigures(len(found), 1, squeeze=False)[:, 0]
    for frame, part, number in zip(frames, found, numbers, strict=False):
        palette = [colours(0.92 * next(number_of_row) / most) for _ in part.rows]
        axes = frame.subplots(1, panels)
        frame.suptitle(as_it_is(part.modelled, 120), fontsize="medium")
        learning_curves(axes[0], part.rows, palette)
        rate_distortion(axes[1], part.rows, palette)
        if number:
            against_number(axes[2], part.rows, number, palette)
        elif panels == 3:
            axes[2].axis("off")
        if len(part.rows) <= LEGEND:
            handles, labels = axes[0].get_legend_handles_labels()
            wide = 0.7 + 0.09 * max(map(len, labels), default=0)  # inches for an entry
            columns = max(1, min(len(part.rows), 2 * panels, int(5 * panels / wide)))
            frame.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=110)
    return content.getvalue()


def learning_curves(axes: "Axes", table: list[Row], palette: list) -> None:
    """The test ELBO over the optimizer steps, of every run; of the validation split where there is one."""
    shown = []
    for row, colour in zip(table, palette, strict=True):
        curves = [elbo_curve(entry.run) for entry in row.entries]
        drawn = any(curves) or row.values("ELBO")  # a run that is still trained has a curve alone
        for number, points in enumerate(curves):
            label = as_it_is(row.label) if number == 0 and drawn else None
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, color=colour, label=label, marker="." if len(x) <= MARKED else "", lw=1.2)
            shown += [value for _, value in points[len(points) // 4 :]]
    if shown and max(shown) > min(shown):  # the first steps would flatten the rest
        margin = 0.15 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set(title="learning curves", xlabel="optimizer steps", ylabel="ELBO, nats per image")


def elbo_curve(run: Run) -> list[tuple[int, float]]:
    return curve(run, "validation/elbo") or curve(run, "test/elbo")


def rate_distortion(axes: "Axes", table: list[Row], palette: list) -> None:
    """Draw the runs in the plane of rate and distortion; along the dotted lines the ELBO is the same."""
    for row, colour in zip(table, palette, strict=True):
        axes.scatter(row.values("rate"), row.values("distortion"), color=colour)
    axes.locator_params(axis="x", nbins=5)
    axes.set(title="rate and distortion", xlabel="rate, nats per image", ylabel="distortion, nats per image")
    x, y = axes.get_xlim(), axes.get_ylim()
    for level in range(1, 10):
        total = x[0] + y[0] + level / 10 * (x[1] - x[0] + y[1] - y[0])
        axes.plot(x, [total - x[0], total - x[1]], ls=":", lw=0.8, color="0.7", zorder=0)
    axes.set(xlim=x, ylim=y)


def against_number(axes: "Axes", table: list[Row], number: str, palette: list) -> None:
    """The test ELBO against a setting, with the standard deviation over seeds."""
    shown = [(row, colour) for row, colour in zip(table, palette, strict=True) if row.values("ELBO")]
    for row, colour in shown:
        spread = row.deviation("ELBO")
        axes.errorbar(row.settings[number], row.mean("ELBO"), spread, fmt="o", capsize=3, color=colour)
    values = sorted({row.settings[number] for row, _ in shown})
    if values and values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log")
        if all(isinstance(value, int) for value in values):
            axes.set_xticks(values, map(str, values))
            axes.minorticks_off()
    axes.set(title=as_it_is(f"ELBO against {number}"), xlabel=as_it_is(number), ylabel="test ELBO, nats per image")
