"""A plane of the latent space as a square picture: where a point lies in it, and which point lies at a place."""

from typing import NamedTuple

import torch
from torch import Tensor

GOLDEN = 0.6180339887  # multiples of it, without their integers, are spread evenly over [0, 1]
Ends = tuple[float, float]  # along the two axes


class Placed:
    """Points that an algorithm like UMAP has placed in a plane, which knows no way from other places to z.

    z (N, D): of the points; at (N, 2): where they are; names: of the two axes
    """

    def __init__(self, z: Tensor, at: Tensor, names: tuple[str, str]) -> None:
        self.z, self.at, self.names = z, at, names

    def nearest(self, z: Tensor) -> Tensor:
        """Which point has the z that is nearest to z (..., D): (...)."""
        return (z.unsqueeze(-2) - self.z).norm(dim=-1).argmin(-1)


class Plane(NamedTuple):
    """Two directions of the latent space: the first grows to the right, the second upwards.

    Places in it are fractions (across, down) of its sides, from the upper left corner. With up=None, for a model of one
    dimension, only `across` has a meaning. With `placed` there are no directions: a place means the z of the point that
    is nearest to it, and any z stands at the point whose own is nearest.
    """

    right: int  # a latent dimension; with `directions` the number of a principal component, from 0
    up: int | None
    low: Ends  # coordinates at the left and at the lower side
    high: Ends  # at the right and at the upper side
    directions: tuple[tuple[float, ...], ...] | None = None  # of the principal components, orthonormal; None: dims
    placed: Placed | None = None

    @property
    def names(self) -> tuple[str, str]:
        """What the axes are called."""
        if self.placed:
            return self.placed.names
        name = "z[{}]".format if self.directions is None else (lambda number: f"PC {number + 1}")
        return name(self.right), "class" if self.up is None else name(self.up)

    @property
    def dims(self) -> list[int]:
        """The latent dimensions that are its axes."""
        return [] if self.directions or self.placed else [dim for dim in (self.right, self.up) if dim is not None]

    def axes(self, like: Tensor) -> Tensor:
        """Unit vectors (1 or 2, D), with the dtype of z (..., D)."""
        if self.directions:
            return torch.tensor(self.directions).to(like)
        return torch.eye(like.shape[-1])[self.dims].to(like)

    def coordinates(self, z: Tensor) -> Tensor:
        """z (..., D) along the axes: (..., 1 or 2)."""
        return self.placed.at[self.placed.nearest(z)] if self.placed else z @ self.axes(z).T

    def move(self, z: Tensor, across: float, down: float) -> Tensor:
        """z (D,) with other coordinates in this plane, those of a place inside the picture."""
        if self.placed:
            return self.placed.z[nearest(self.fractions(self.placed.at), across, down)[0]]
        place = [min(max(part, 0.0), 1.0) for part in (across, 1 - down)]
        ends = zip(place, self.low, self.high, strict=True)
        wanted = torch.tensor([low + part * (high - low) for part, low, high in ends]).to(z)
        axes = self.axes(z)
        return z + (wanted[: len(axes)] - axes @ z) @ axes

    def step(self, z: Tensor, right: int, below: int, far: float) -> Tensor:
        """z (D,) moved in one of four directions by a part of the side; to the next point there that is so far away."""
        (here,) = self.places(z[None])
        if not self.placed:
            across, down = here.tolist()
            return self.move(z, across + far * right, down + far * below)
        apart = self.fractions(self.placed.at) - here
        ahead, beside = (apart @ torch.tensor(axis).to(apart) for axis in ((right, below), (below, right)))
        seen = (ahead >= far) & (ahead >= beside.abs())
        return self.placed.z[apart.norm(dim=1).where(seen, torch.inf).argmin()] if seen.any() else z

    def places(self, z: Tensor) -> Tensor:
        """The places (N, 2) of z (N, D); with up=None in the middle."""
        return self.fractions(self.coordinates(z))

    def fractions(self, found: Tensor) -> Tensor:
        """The places (N, 2) of coordinates (N, 1 or 2)."""
        across = (found[:, 0] - self.low[0]) / (self.high[0] - self.low[0])
        if self.up is None:
            return torch.stack([across, torch.full_like(across, 0.5)], 1)
        return torch.stack([across, 1 - (found[:, 1] - self.low[1]) / (self.high[1] - self.low[1])], 1)

    def zoomed(self, across: float, down: float, factor: float) -> "Plane":
        """This plane with sides of `factor` times their length: what is at the place (across, down) stays there."""
        x, y = (a + part * (b - a) for part, a, b in zip((across, 1 - down), self.low, self.high, strict=True))
        low, high = ((x + factor * (ends[0] - x), y + factor * (ends[1] - y)) for ends in (self.low, self.high))
        return self._replace(low=low, high=high)


def rows_of_classes(places: Tensor, y: Tensor) -> Tensor:
    """places (N, 2), each moved into the row of its class y (N,) and spread within it, the first class below."""
    spread = 0.1 + 0.8 * (torch.arange(len(y)) * GOLDEN % 1)
    return torch.stack([places[:, 0], 1 - (y + spread) / (y.max() + 1)], 1)


def nearest(places: Tensor, across: float, down: float) -> tuple[int, float]:
    """The index of the place (N, 2) that is nearest to a pointer, and how far it is."""
    distance, index = (places - torch.tensor([across, down])).square().sum(1).min(0)
    return int(index), float(distance.sqrt())


def window(values: Tensor, least: float) -> Ends:
    """From where to where coordinates (N,) go, with a margin, without those that lie apart; at least `least` long.

    Apart lies what is farther from the middle 98 % than half of their width: a single image would make a plane in which
    all others are a dot.
    """
    first, last = values.quantile(torch.tensor([0.01, 0.99])).tolist()
    reach = (last - first) / 2
    low, high = max(float(values.min()), first - reach), min(float(values.max()), last + reach)
    margin = max(0.05 * (high - low), (least - (high - low)) / 2)
    return low - margin, high + margin
