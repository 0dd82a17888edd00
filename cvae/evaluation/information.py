"""What each latent tells of each known factor: by histograms MIG and modularity, by lines a SAP score."""

import numpy as np

BINS = 20  # of each latent, of the same width, as Locatello et al. (2019) take them


def binned(z: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The number of each value's bin, from 0, in bins of the same width from a latent's least to its greatest value.

    z (N, D) -> int (N, D).
    """
    low, width = z.min(0), np.ptp(z, axis=0) / bins
    return np.minimum((z - low) / np.where(width > 0, width, 1), bins - 1).astype(np.int64)


def entropy(counts: np.ndarray) -> np.ndarray:
    """Of the shares of counts along the last axis, in nats."""
    share = counts / counts.sum(-1, keepdims=True)
    return -(share * np.log(np.where(share > 0, share, 1))).sum(-1)


def entropies(factors: np.ndarray) -> np.ndarray:
    """Of each factor (N, F), in nats: (F,)."""
    return np.array([entropy(np.bincount(factor)) for factor in factors.T])


def information(z: np.ndarray, factors: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The mutual information of each binned latent (N, D) and each factor (N, F) in nats: (D, F).

    Of the shares in N points. That is too high by about (bins - 1) (values - 1) / 2N for what is independent (Miller
    1955); a gap between two latents loses most of it.
    """
    places = binned(z, bins)
    found = np.empty((z.shape[1], factors.shape[1]))
    for f, factor in enumerate(factors.T):
        values = factor.max() + 1
        for d, place in enumerate(places.T):
            joint = np.bincount(place * values + factor, minlength=bins * values).reshape(bins, values)
            found[d, f] = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.ravel())
    return np.maximum(found, 0)  # rounding


def chance(z: np.ndarray, factors: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The `information` that latents (N, D) of no factor (N, F) exceed hardly ever: (D, F).

    2N times it has a chi-squared distribution with (filled bins - 1) (values - 1) degrees of freedom, in the limit of
    many points in each; five standard deviations above its mean.
    """
    filled = [len(np.unique(place)) for place in binned(z, bins).T]
    values = [len(np.unique(factor)) for factor in factors.T]
    freedom = np.outer(np.array(filled) - 1, np.array(values) - 1)
    return (freedom + 5 * np.sqrt(2 * freedom)) / (2 * len(z))


def gap(scores: np.ndarray) -> np.ndarray:
    """How far the best latent of each factor is above the second, of scores (D, F): (F,). A latent alone is above 0."""
    best = np.sort(np.pad(scores, ((1, 0), (0, 0))), axis=0)
    return best[-1] - best[-2]


def mig(told: np.ndarray, of: np.ndarray) -> float:
    """The mutual information gap (Chen et al. 2018, eq. 6), from `information` (D, F) and `entropies` (F,): 0 to 1.

    For each factor the gap between the latent that tells most of it and the second, as a share of its entropy; the mean
    over the factors. The paper integrates over q(z|x); the bins are of its mean, as Locatello et al. (2019) do it.
    """
    return float((gap(told) / of).mean())


def modularity(told: np.ndarray, by_chance: np.ndarray) -> float:
    """Whether each latent tells of one factor (Ridgeway and Mozer 2018, eq. 2), from `information` (D, F): 0 to 1.

    1 - sum of the squares of the others' information / (that of the most told factor squared, times F - 1); the mean
    over the latents that tell of a factor more than `chance` (D, F), as others have the modularity of noise, about a
    half. 0 where there are none.
    """
    square, others = told[(told > by_chance).any(1)] ** 2, told.shape[1] - 1
    if not len(square) or not others:
        return float(len(square) > 0)
    return float((1 - (square.sum(1) / square.max(1) - 1) / others).mean())


def sap_of_lines(z: np.ndarray, factors: np.ndarray) -> float:
    """The separated attribute predictability score (Kumar et al. 2018, section 3) of factors that are numbers: 0 to 1.

    Of the squared correlations of a factor (N, F) with the latents (N, D) how far the best is above the second; the
    mean over the factors. It takes the order of a factor's values as given.
    """
    a, b = (part - part.mean(0) for part in (z, factors))
    size = np.outer((a**2).sum(0), (b**2).sum(0))
    return float(gap((a.T @ b) ** 2 / np.where(size > 0, size, 1)).mean())
