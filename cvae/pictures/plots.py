"""Figures with axes, by matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cvae.errors import printable
from cvae.pictures.grids import grid
from cvae.runs.directory import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
SIGNS = 24  # of a name, at most


def new_figure(width: float, height: float, **options: Any) -> "Figure":
    """A figure of this size in inches. Not pyplot's: it keeps a global list of figures, and training goes on."""
    from matplotlib.figure import Figure  # takes half a second

    return Figure(figsize=(width, height), dpi=DPI, **options)


def to_pixels(figure: "Figure") -> np.ndarray:
    """The pixels (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def framed(
    pixels: np.ndarray, cells: tuple[int, int], left: int, right: int, top: int, bottom: int
) -> "tuple[Figure, Axes]":
    """A figure with axes around a picture of (rows, columns) cells, pixel for pixel, with margins in pixels.

    Cell (i, j) reaches from j to j + 1 and, counted from the bottom, from i to i + 1.
    """
    height, width = pixels.shape[:2]
    whole = height + top + bottom, width + left + right
    # A little more than the pixels: some versions of matplotlib cut off a size that the division has made too small.
    figure = new_figure((whole[1] + 1e-6) / DPI, (whole[0] + 1e-6) / DPI)
    axes = figure.add_axes((left / whole[1], bottom / whole[0], width / whole[1], height / whole[0]))
    axes.imshow(pixels, extent=(0, cells[1], 0, cells[0]), aspect="auto", interpolation="nearest")
    return figure, axes


def manifold(images: Tensor, z: Tensor, title: str, names: Sequence[str] = ("z[0]", "z[1]")) -> np.ndarray:
    """The images (steps * steps, C, H, W) of `latent_manifold` over the values z (steps, 2), with axes."""
    steps = len(z)
    zoom = max(1, 560 // (steps * images.shape[-1]))
    figure, axes = framed(grid(images, steps, padding=0, zoom=zoom), (steps, steps), 90, 20, 40, 60)
    shown = sorted({round(i * (steps - 1) / 5) for i in range(6)})
    places = [i + 0.5 for i in shown]
    for dim, axis in enumerate((axes.xaxis, axes.yaxis)):
        axis.set_ticks(places, [f"{z[i, dim]:.2f}".replace("-", "−") for i in shown])
    axes.set(xlabel=names[0], ylabel=names[1], title=title)
    return to_pixels(figure)


def latent_map(
    points: np.ndarray,
    labels: np.ndarray,
    axes_names: Sequence[str],
    title: str,
    classes: Sequence[str] | None = None,
    radius: float | None = None,
) -> np.ndarray:
    """Points (N, 2) by class, a colour for each; beside them the legend, or for many classes a scale.

    classes: class k is called classes[k]; None: by its number. radius: of a circle that is drawn around 0
    """
    figure = new_figure(7.7, 6.6, layout="constrained")
    axes = figure.add_subplot()
    occur, of = np.unique(labels, return_inverse=True)
    colours = "tab10" if len(occur) <= 10 else "tab20" if len(occur) <= 20 else "nipy_spectral"
    last = {"tab10": 9, "tab20": 19}.get(colours, len(occur) - 1)  # a colour each, the same however many there are
    places: Any = axes.scatter(  # matplotlib's types know of to_rgba for arrays alone
        points[:, 0], points[:, 1], c=of, cmap=colours, vmin=0, vmax=last, s=np.clip(20_000 / len(points), 4, 20),
        linewidths=0,
    )  # fmt: skip
    if radius is not None:
        from matplotlib.patches import Circle

        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="0.5"))
    if 1 < len(occur) <= 20:
        from matplotlib.lines import Line2D

        names = [as_it_is(classes[k] if classes and k < len(classes) else str(k)) for k in occur.astype(int)]
        dots = [Line2D([], [], marker="o", ls="", color=places.to_rgba(number)) for number in range(len(occur))]
        axes.legend(dots, names, title="class", loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    elif len(occur) > 20:
        figure.colorbar(places, label="class")
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1], title=title)
    axes.set_aspect("equal", adjustable="datalim")
    return to_pixels(figure)


def as_it_is(text: str, signs: int = SIGNS) -> str:
    """A name that matplotlib draws as it is: no formula, no label that it leaves out, in one line that is not long."""
    line = " ".join(printable(text).split())
    line = line if len(line) <= signs else f"{line[: signs // 2 - 1]}…{line[-signs // 2 :]}"
    return f"{' ' * line.startswith('_')}{line}".replace("$", r"\$")


def traversal(
    images: Tensor,
    dims: Sequence[int],
    units: Sequence[float],
    own: Sequence[float],
    rate: Sequence[float],
    exact: bool | None,
    title: str,
) -> np.ndarray:
    """A row for each of the dimensions, a column for each place, and on the right the rate of each dimension.

    Codes without noise have none (exact is None): their standard deviation takes its place.

    A frame marks the place that is nearest to the image's own. See `cvae.evaluation.latents.Traversal`.
    """
    from matplotlib.patches import Rectangle

    rows, columns = len(dims), len(units)
    middles = [rows - row - 0.5 for row in range(rows)]
    figure, axes = framed(grid(images.flatten(0, 1), columns), (rows, columns), 60, 190, 40, 50)
    axes.set_yticks(middles, [f"z[{dim}]" for dim in dims])
    axes.set_xticks([column + 0.5 for column in range(columns)], [f"{unit:.2g}".replace("-", "−") for unit in units])
    axes.tick_params(length=0)
    axes.set(xlabel="standard deviations from the mean of all images", title=title)
    for row, value in enumerate(own):
        column = int(np.abs(np.asarray(units) - value).argmin())
        axes.add_patch(Rectangle((column, rows - row - 1), 1, 1, fill=False, edgecolor="tab:orange", linewidth=3))
    box, width = axes.get_position(), figure.get_size_inches()[0] * DPI
    bars = figure.add_axes((box.x1 + 20 / width, box.y0, 130 / width, box.height))
    bars.bar_label(bars.barh(middles, rate, 0.6), [f"{value:.2f}" for value in rate], padding=3)
    bars.set(ylim=(0, rows), xlim=(0, 1.5 * max(*rate, 0.01)), yticks=[], xticks=[])
    bars.set_xlabel({True: "rate, nats", False: "information, nats", None: "standard deviation"}[exact])
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    return to_pixels(figure)


def rates(rate: Tensor, exact: bool) -> np.ndarray:
    """The rate (D,) of each dimension in nats, the highest first, as bars."""
    order = rate.argsort(descending=True).tolist()
    figure = new_figure(max(6.0, min(16.0, 1.5 + 0.22 * len(order))), 4, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(order)), [rate[dim].item() for dim in order], 0.7)
    if len(order) <= 64:
        axes.set_xticks(range(len(order)), [str(dim) for dim in order], fontsize=9 if len(order) <= 32 else 7)
    what = f"rate of each latent dimension, {rate.sum():.2f} nats in all"
    estimate = "what each latent dimension tells of the image, estimated by variances"
    axes.set(xlabel="dimension of z", ylabel="nats per image", title=what if exact else estimate)
    axes.spines[["top", "right"]].set_visible(False)
    return to_pixels(figure)


def curves(epochs: Mapping[str, Sequence[tuple[int, float]]]) -> np.ndarray:
    """Learning curves {"train/elbo": [(epoch, nats per image), …], …}: on the left the ELBO, then rate and distortion.

    There is a line for each split, and no panel for a figure that a run has not.
    """
    names: tuple[str, ...] = ("elbo", "rate", "distortion")
    names = tuple(name for name in names if any(epochs.get(f"{split}/{name}") for split in SPLITS)) or names
    last = max((epoch for points in epochs.values() for epoch, _ in points), default=0)
    figure = new_figure(4 * len(names), 4, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for split in SPLITS:
            if points := epochs.get(f"{split}/{name}"):
                axes.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 30 else None)
        axes.set(xlabel="epoch", ylabel="nats per image", title={"elbo": "ELBO"}.get(name, name))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.ticklabel_format(useOffset=False)  # whole numbers of nats, not their distances from one
        axes.grid(alpha=0.3)
        axes.set_xlim(0, max(1.05 * last, 2))  # of a single epoch matplotlib's would be a tenth of an epoch wide
        if axes.lines:
            axes.legend(frameon=False)
    return to_pixels(figure)


def neighbours(
    images: Tensor, distance: Sequence[float], samples: np.ndarray, test: np.ndarray, features: str
) -> np.ndarray:
    """Rows of a sample and the training images that are nearest to it, and all distances as histograms.

    images (R, 1 + K, C, H, W): the sample first; distance (R,): to the nearest. samples (S,), test (N,): of all samples
    and of the test images to the training image that is nearest by these features.
    """
    rows, columns = images.shape[:2]
    figure, axes = framed(grid(images.flatten(0, 1), columns), (rows, columns), 70, 500, 60, 60)
    axes.set_yticks([rows - row - 0.5 for row in range(rows)], [f"{value:.2f}" for value in distance])
    axes.set_xticks([column + 0.5 for column in range(columns)], ["sample", *map(str, range(1, columns))])
    axes.tick_params(length=0)
    axes.axvline(1, color="white", linewidth=4)
    axes.set(title="samples, and the training images nearest to them")
    box, width = axes.get_position(), figure.get_size_inches()[0] * DPI
    bars = figure.add_axes((box.x1 + 70 / width, box.y0, 410 / width, box.height))
    edges = np.linspace(0, max(np.quantile(samples, 0.995), np.quantile(test, 0.995)), 41).tolist()
    for values, label in ((samples, "samples"), (test, "test images")):
        share = np.full(len(values), 1 / len(values))
        bars.hist(np.minimum(values, edges[-1]), edges, weights=share, histtype="stepfilled", alpha=0.5, label=label)
    bars.set(xlabel=f"distance to the nearest training image, {as_it_is(features)}", ylabel="share", yticks=[])
    bars.legend(frameon=False)
    bars.spines[["top", "right", "left"]].set_visible(False)
    return to_pixels(figure)
