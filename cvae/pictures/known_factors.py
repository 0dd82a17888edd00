"""Latents against known factors, as a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cvae.pictures.plots import as_it_is, new_figure, to_pixels

SHOWN = 32  # latents, those that tell most of a factor


def factors(z: np.ndarray, known: np.ndarray, told: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """What each latent tells of each factor as a matrix; below it how the best latent of each factor goes with it.

    z (N, D) standardized, known (N, F) the numbers of the factors' values, told (D, F): shares of their
    entropies.
    """
    dims = np.sort(told.max(1).argsort()[::-1][:SHOWN])
    titles = [as_it_is(name) for name in names]
    count = len(titles)
    width = max(2.2 * count, 2.5 + 0.55 * len(dims))
    figure = new_figure(width, 1.2 + 0.45 * count + 2.6, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.2 + 0.45 * count, 2.6))
    above, below = parts
    axes = above.add_subplot()
    drawn = axes.imshow(told[dims].T, cmap="viridis", vmin=0, vmax=max(1e-6, told.max()), aspect="auto")
    axes.set_yticks(range(count), titles)
    axes.set_xticks(range(len(dims)), [f"z[{dim}]" for dim in dims], fontsize=9 if len(dims) <= 16 else 6)
    axes.set_title("mutual information, as a share of the factor's entropy")
    if len(dims) <= 16:
        for (f, d), value in np.ndenumerate(told[dims].T):
            bright = value > 0.6 * told.max()
            axes.text(d, f, f"{value:.2f}", ha="center", va="center", color="black" if bright else "white", fontsize=8)
    figure.colorbar(drawn, ax=axes)
    for f, panel in enumerate(below.subplots(1, count, squeeze=False)[0]):
        dim = int(told[:, f].argmax())
        values = np.unique(known[:, f])
        of = [z[known[:, f] == value, dim] for value in values]
        mean, spread = np.array([part.mean() for part in of]), np.array([part.std() for part in of])
        panel.fill_between(values, mean - spread, mean + spread, alpha=0.25, linewidth=0)
        panel.plot(values, mean, marker="." if len(values) < 12 else None)
        panel.set(xlabel=titles[f], ylabel=f"z[{dim}]")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.spines[["top", "right"]].set_visible(False)
    below.suptitle("the latent that tells most of each factor: mean ± standard deviation at each of its values")
    return to_pixels(figure)
