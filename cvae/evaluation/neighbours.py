"""Measures by nearest neighbours among features: precision, recall, density, coverage, and what is nearest."""

from typing import NamedTuple

import torch
from torch import Tensor

NUMBERS = 2**23  # distances that are kept at once: 64 MB in float64
PRECISION, DENSITY = 3, 5  # neighbours that make a radius, as in the papers


class Fidelity(NamedTuple):
    """How far samples and real images cover each other. Samples that vary too little can have more than the same
    distribution has in all but recall.

    precision: the share of samples that are within the radius of a real image, its distance to the third nearest other
    recall: the share of real images that are within the radius of a sample (Kynkäänniemi et al. 2019)
    density: in how many radii a sample is, over 5, with radii of the fifth nearest; 1 for the same distribution
    coverage: the share of real images that have a sample within their radius (Naeem et al. 2020)
    """

    precision: float
    recall: float
    density: float
    coverage: float


def fidelity(real: Tensor, samples: Tensor, near: int = PRECISION, dense: int = DENSITY) -> Fidelity:
    """The four, of features (N, D) of real images and (M, D) of samples, with more than `near` and `dense` of each."""
    radii, sample_radii = distances_to_others(real, (near, dense)), distances_to_others(samples, (near,))[:, 0]
    in_real = torch.zeros(len(samples), dtype=torch.bool)
    near_sample, covered, balls = [], [], 0
    for rows, radius in zip(real.split(rows_at_once(samples)), radii.split(rows_at_once(samples)), strict=True):
        distance = torch.cdist(rows, samples)  # (rows, M)
        in_real |= (distance <= radius[:, :1]).any(0)
        near_sample.append((distance <= sample_radii).any(1))
        within = distance <= radius[:, 1:]
        balls += int(within.sum())
        covered.append(within.any(1))
    return Fidelity(
        share(in_real), share(torch.cat(near_sample)), balls / (dense * len(samples)), share(torch.cat(covered))
    )


def distances_to_others(features: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """For each of features (N, D) the distances to its nearest other, second nearest, …, of these ranks: (N, ranks)."""
    found, start = [], 0
    for rows in features.split(rows_at_once(features)):
        distance = torch.cdist(rows, features)
        distance[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = torch.inf  # itself is no other
        nearest = distance.topk(max(ranks), largest=False).values
        found.append(nearest[:, [rank - 1 for rank in ranks]])
        start += len(rows)
    return torch.cat(found)


def nearest(features: Tensor, among: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The `count` nearest of `among` (M, D) for each of features (N, D): distances and numbers (N, count), ascending.

    Found by products of matrices, whose rounding a copy's distance of 0 does not survive; so the distances of those
    that were found are computed anew.
    """
    distances, numbers = [], []
    for rows in features.split(rows_at_once(among)):
        found = torch.cdist(rows, among).topk(count, largest=False).indices
        exact, order = (rows[:, None] - among[found]).norm(dim=2).sort(1)
        distances.append(exact)
        numbers.append(found.gather(1, order))
    return torch.cat(distances), torch.cat(numbers)


def rows_at_once(columns: Tensor) -> int:
    """How many features' distances to all of `columns` (M, D) are kept at once."""
    return max(1, NUMBERS // len(columns))


def share(true: Tensor) -> float:
    return true.sum().item() / len(true)
