"""python -m cvae compare PATHS…: one table and one figure of many runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.errors import ConfigError
from cvae.runs.comparison import WORDS, Row, as_csv, as_markdown, caption, cells, find, read, rows
from cvae.runs.curves import curve
from cvae.runs.directory import Run
from cvae.runs.names import shortened
from cvae.runs.storage import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND = 12  # more rows than these have no legend: it would cover the page


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    compare = commands.add_parser(
        "compare",
        help="one table of many runs: what was set differently, and what came of it; also as a figure",
        description="Compare runs: what was set differently and what came of it (nats per image). Runs that differ in "
        "their seed alone share a row: mean ± standard deviation.",
        epilog="example: python -m cvae compare outputs/tf_tutorial --plot comparison.png",
    )
    compare.set_defaults(call=show)
    compare.add_argument(
        "paths", metavar="PATH", nargs="+", help="a run, a sweep, or any folder that has some, as outputs"
    )
    compare.add_argument(
        "--sort", metavar="COLUMN", default="ELBO", help="of the table (default: ELBO, the best first)"
    )
    compare.add_argument("--each", action="store_true", help="a row for each run, also where only seeds differ")
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
    table = rows(entries, args.sort, args.each)
    numbers = against(table, args.against)
    if args.csv:
        sys.stdout.write(as_csv(entries))
    elif args.markdown:
        print(as_markdown(table))
    else:
        print_table(table)
    if args.plot:
        import matplotlib

        matplotlib.use("agg")
        save(Path(args.plot), drawn(table, numbers, Path(args.plot).suffix[1:]))
        print(f"figure: {args.plot}", file=sys.stderr)


def print_table(table: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    titles, lines = cells(table)
    shown = Table(box=None)
    for title in titles:
        shown.add_column(title, justify="left" if title in WORDS else "right", no_wrap=True)
    for line in lines:
        shown.add_row(*line)
    wide = Console(width=1000)  # a table that is cut at the terminal's width is none
    wide.print(shown, markup=False)
    if said := caption(table):
        wide.print(said, markup=False, highlight=False)


def against(table: list[Row], key: str | None) -> str | None:
    """The setting whose numbers are an axis: the one asked for, or the first that differs and is a number in each run.

    Raises:
        ConfigError: the one asked for is none.
    """
    settings = table[0].settings
    numeric = [name for name in settings if all(is_number(row.settings[name]) for row in table)]
    if key is None:
        return numeric[0] if numeric else None
    names = dict(zip(shortened(settings), settings, strict=True))
    found = names.get(key, key)
    if found not in numeric:
        raise ConfigError(
            "--against", key, f"a number that differs between the runs: {', '.join(numeric) or 'none does'}"
        )
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def drawn(table: list[Row], number: str | None, kind: str) -> bytes:
    """The figure as a file's content: a colour a row, the same in each panel."""
    import io

    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels = 3 if number else 2
    figure: Figure = Figure((5 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels)
    colours = colormaps["viridis"]
    palette = [colours(0.92 * place / max(len(table) - 1, 1)) for place in range(len(table))]
    learning_curves(axes[0], table, palette)
    rate_distortion(axes[1], table, palette)
    if number:
        against_number(axes[2], table, number, palette)
    if len(table) <= LEGEND:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(table), 2 * panels), frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=110)
    return content.getvalue()


def learning_curves(axes: "Axes", table: list[Row], palette: list) -> None:
    """The test ELBO over the optimizer steps, of every run; of the validation split where there is one."""
    shown = []
    for row, colour in zip(table, palette, strict=True):
        for number, entry in enumerate(row.entries):
            points = elbo_curve(entry.run)
            label = row.label if number == 0 and row.values("ELBO") else None
            axes.plot(*zip(*points, strict=True) if points else ([], []), color=colour, label=label, marker=".", lw=1.2)
            shown += [value for _, value in points[len(points) // 4 :]]
    if shown and max(shown) > min(shown):  # the first steps would flatten the rest
        margin = 0.15 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set(title="learning curves", xlabel="optimizer steps", ylabel="ELBO, nats per image")


def elbo_curve(run: Run) -> list[tuple[int, float]]:
    return curve(run, "validation/elbo") or curve(run, "test/elbo")


def rate_distortion(axes: "Axes", table: list[Row], palette: list) -> None:
    """Where the runs are in the plane of rate and distortion; along the dotted lines the ELBO is the same."""
    for row, colour in zip(table, palette, strict=True):
        axes.scatter(row.values("rate"), row.values("distortion"), color=colour)
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
    axes.set(title=f"ELBO against {number}", xlabel=number, ylabel="test ELBO, nats per image")
