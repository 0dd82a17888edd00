"""Pictures for the page: the plane with the test images on it, single images, and all of it in one file."""

import base64
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from cvae import pictures
from cvae.explorer.overlay import GREY, PIXELS, Mark
from cvae.explorer.plane import Plane
from cvae.explorer.space import Space

DARK = "#334155"
LABEL = {"boxstyle": "round", "facecolor": "white", "edgecolor": "black"}
NAMED = 20  # classes at most in a legend


def colours(classes: int) -> list[str]:
    """A colour for each class, #rrggbb."""
    if classes <= 10:
        return [to_hex(colour) for colour in colormaps["tab10"](np.arange(classes))]
    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0.03, 0.97, classes))]


def classes(space: Space) -> list[tuple[str, str]]:
    """The legend: (class, colour), of at most NAMED classes; empty if there is one class alone."""
    names = [space.kind(label) for label in space.classes.tolist()]
    return list(zip(names, colours(len(names)), strict=True))[:NAMED] if len(names) > 1 else []


def points(axes: Axes, space: Space, plane: Plane, scale: float = 1.0) -> None:
    """The test images on axes that show the plane alone."""
    places = space.places(plane).numpy()
    of_class = np.array(colours(len(space.classes)))[space.of_class[: len(places)].numpy()]
    seen = (np.abs(places - 0.5) < 0.52).all(1)
    places, of_class = places[seen], of_class[seen]
    order = np.random.default_rng(0).permutation(len(places))  # no class lies above the others
    z = [
        low + part * (high - low)
        for part, low, high in zip((places[:, 0], 1 - places[:, 1]), plane.low, plane.high, strict=True)
    ]
    size = float(np.clip(20000 / max(len(places), 1), 5, 40)) * scale
    axes.scatter(z[0][order], z[1][order], c=of_class[order], s=size, alpha=0.75, linewidths=0)
    axes.set(xlim=(plane.low[0], plane.high[0]), ylim=(plane.low[1], plane.high[1]))
    axes.set_axisbelow(True)
    axes.grid(color="#e2e8f0")
    for side in axes.spines.values():
        side.set_visible(False)
    if plane.up is None:
        axes.set_yticks([])


@lru_cache(maxsize=16)  # it takes a third of a second, and each tab begins with the same one
def plane_png(space: Space, plane: Plane, scale: float = 1.0) -> bytes:
    """The plane, PIXELS x PIXELS, from edge to edge; numbers and names of its axes stand inside.

    scale: of what is written and of the points
    """
    figure = Figure(figsize=(10, 10), dpi=PIXELS / 10)
    axes = figure.add_axes((0, 0, 1, 1))
    points(axes, space, plane, scale)
    axes.locator_params(nbins=max(4, round(9 / scale)))
    for axis, low, high in zip((axes.xaxis, axes.yaxis), plane.low, plane.high, strict=True):
        margin = 0.04 * (high - low)  # a number at the very edge would be cut off
        axis.set_ticks([tick for tick in axis.get_ticklocs() if low + margin < tick < high - margin])
    axes.tick_params(length=0, labelsize=13 * scale, labelcolor=GREY)
    axes.tick_params(axis="x", pad=-20 * scale)
    axes.tick_params(axis="y", pad=-8)
    for label in axes.get_yticklabels():
        label.set_horizontalalignment("left")
    right, up = plane.names
    around: Any = {"transform": axes.transAxes, "fontsize": 16 * scale, "color": DARK}
    axes.text(0.985, 0.045 * scale, f"{right} →", ha="right", va="bottom", **around)
    axes.text(0.045 * scale, 0.985, f"{up} ↑", ha="left", va="top", **around)
    return pictures.png(pictures.to_pixels(figure))


def image_png(image: Tensor) -> bytes:
    """(C, H, W) in [0, 1], a pixel a pixel."""
    return pictures.png(pictures.grid(image[None], 1, padding=0, zoom=1))


def strip_png(images: Tensor, columns: int) -> bytes:
    """(K, C, H, W) in [0, 1] row by row."""
    return pictures.png(pictures.grid(images, columns, padding=0, zoom=1))


def url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def snapshot(space: Space, plane: Plane, marks: list[Mark], images: dict[str, Tensor], strip: Tensor | None) -> bytes:
    """The whole view as one PNG: the plane with its marks, images (C, H, W) under their names, a strip (K, C, H, W)."""
    heights = [8, 1.4] if strip is not None else [8]
    figure = Figure(figsize=(11, sum(heights)), dpi=130, layout="constrained")
    rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = rows[0].subgridspec(len(images), 2, width_ratios=(2.6, 1))
    axes = figure.add_subplot(top[:, 0])
    points(axes, space, plane)
    axes.set(xlabel=plane.names[0], ylabel=plane.names[1])
    dots = [axes.scatter([], [], color=colour, label=pictures.as_it_is(label)) for label, colour in classes(space)]
    axes.legend(handles=dots, ncols=10, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, title="class")
    for mark in marks:
        ((across, down),) = plane.places(mark.z[None]).tolist()
        if 0 <= across <= 1 and 0 <= down <= 1:  # else it would lie on other parts of the picture
            axes.text(across, 1 - down, mark.name, transform=axes.transAxes, ha="center", va="center", bbox=LABEL)
    for row, (name, image) in enumerate(images.items()):
        show(figure.add_subplot(top[row, 1]), image, name)
    if strip is not None:
        show(figure.add_subplot(rows[1]), torch.cat(list(strip), 2), "from A to B")
    return pictures.png(pictures.to_pixels(figure))


def show(axes: Axes, image: Tensor, name: str) -> None:
    """An image (C, H, W) with its name above it."""
    axes.imshow(pictures.grid(image[None], 1, padding=0, zoom=1), interpolation="nearest")
    axes.set_title(name, parse_math=False)
    axes.set_axis_off()
