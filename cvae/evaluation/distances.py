"""Distances between two sets of features, and how varied one set is, in float64."""

import torch
from torch import Tensor

SIZES = 10  # shares of the sets that the extrapolation is a line through
LEAST = 0.2  # of the sets, the smallest share of them
BLOCK = 1000  # features of a set that a kernel distance is found of at once


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D), unbiased, of features (N, D)."""
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / max(len(features) - 1, 1)


def frechet_of_moments(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> float:
    """The squared Fréchet distance of two normal distributions, by mean (D,) and covariance (D, D) of each.

    |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982). The trace of the root is the sum of the roots
    of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric.
    """
    (mean1, cov1), (mean2, cov2) = one, two
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * shared).item()


def frechet(one: Tensor, two: Tensor) -> float:
    """The squared Fréchet distance of two sets of features, float64 (N, D) and (M, D), as if both were normal.

    With Inception's features this is the FID (Heusel et al. 2017). It is too large by about c / N.
    """
    return frechet_of_moments(moments(one), moments(two))


def frechet_extrapolated(one: Tensor, two: Tensor, seed: int = 0) -> float:
    """The Fréchet distance that infinitely many features would have (Chong and Forsyth 2020, section 3).

    The bias is linear in 1 / N. So the intercept of the line through the distances of shares of the sets over 1 / share
    has none left to first order. They keep one of the sets whole; here both become smaller, so that the biases of both
    go: the distance between halves of one set is near 0, and may be below.

    one, two: float64 (N, D), (M, D). seed: of the parts that are drawn
    """
    generator = torch.Generator().manual_seed(seed)
    shares = torch.linspace(LEAST, 1, SIZES, dtype=torch.float64)
    found = []
    for share in shares.tolist():
        parts = [
            part[torch.randperm(len(part), generator=generator)[: round(share * len(part))]] for part in (one, two)
        ]
        found.append(frechet(*parts))
    line = torch.stack([torch.ones_like(shares), 1 / shares], 1)
    return torch.linalg.lstsq(line, torch.tensor(found, dtype=torch.float64)[:, None]).solution[0].item()


def kernel_distance(one: Tensor, two: Tensor) -> float:
    """The squared maximum mean discrepancy of features, float64 (N, D) and (M, D), unbiased, so it may be below 0.

    The kernel is (x·y / D + 1)³ (Bińkowski et al. 2018, equations 3 and 4).
    """
    count, other = len(one), len(two)
    within = (cubic(one, one).sum() - cubic_diagonal(one).sum()) / (count * (count - 1))
    within = within + (cubic(two, two).sum() - cubic_diagonal(two).sum()) / (other * (other - 1))
    return (within - 2 * cubic(one, two).mean()).item()


def cubic(one: Tensor, two: Tensor) -> Tensor:
    """(x·y / D + 1)³ for each pair: (N, M)."""
    return (one @ two.T / one.shape[1] + 1) ** 3


def cubic_diagonal(features: Tensor) -> Tensor:
    """The kernel of each with itself: (N,)."""
    return (features.square().mean(1) + 1) ** 3


def kid(one: Tensor, two: Tensor, seed: int = 0) -> tuple[float, float | None]:
    """The kernel distance as a mean over blocks of 1,000 features of each set, and its standard error.

    With Inception's features it is the KID (Bińkowski et al. 2018), which takes blocks that overlap. These do not, so
    that their standard deviation over the root of their number is the error of the mean; None for a single block.

    one, two: float64 (N, D), (M, D), at least two of each. seed: of the order, as a set may be sorted by class
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(BLOCK, len(one), len(two))
    blocks = min(len(one), len(two)) // size
    parts = [part[torch.randperm(len(part), generator=generator)[: size * blocks]].split(size) for part in (one, two)]
    found = torch.tensor([kernel_distance(*pair) for pair in zip(*parts, strict=True)], dtype=torch.float64)
    error = (found.std() / blocks**0.5).item() if blocks > 1 else None
    return found.mean().item(), error


def vendi(features: Tensor) -> float:
    """The Vendi score: how many different features there are in effect, from 1 to N (Friedman and Dieng 2023).

    exp of the entropy of the eigenvalues of K / N, K the cosines between all pairs. These are also the eigenvalues of
    the mean outer product of the features (N, D) at unit length, so at most D.
    """
    unit = features / features.norm(dim=1, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)
    values = torch.linalg.eigvalsh(unit.T @ unit / len(unit)).clamp(min=0)
    return torch.special.entr(values).sum().exp().item()
