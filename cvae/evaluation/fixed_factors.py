"""Which factor was held fixed? The scores of beta-VAE and FactorVAE, by points drawn from codes with known factors."""

from collections.abc import Iterator

import numpy as np

POINTS, DRAWN = 5000, 64  # points of a classifier, half as many to test it; codes of each, as Locatello et al. (2019)
BLOCK = 500  # points that are made at once


class Fixed:
    """Draws codes (N, D) in which one of the factors (N, F) is fixed.

    The codes are of a set of images: those in which the factor has the value, with replacement. So the other factors
    are as they occur there, which is independent where the images are drawn from a grid.
    """

    def __init__(self, factors: np.ndarray) -> None:
        self.factors = factors
        self.order = factors.argsort(axis=0, kind="stable")  # for each factor: the images, by its value
        self.counts = [np.bincount(factor) for factor in factors.T]
        self.starts = [np.cumsum(count) - count for count in self.counts]

    def like(self, images: np.ndarray, factor: int, rng: np.random.Generator) -> np.ndarray:
        """For each of the images (any shape) one that has the same value of a factor."""
        value = self.factors[images, factor]
        place = (rng.random(images.shape) * self.counts[factor][value]).astype(np.int64)
        return self.order[self.starts[factor][value] + place, factor]


def drawn(factors: np.ndarray, points: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """(factor, how many of the points have it fixed), in blocks; the factors are drawn alike."""
    counts = rng.multinomial(points, np.full(factors.shape[1], 1 / factors.shape[1]))
    for factor, count in enumerate(counts):
        for start in range(0, count, BLOCK):
            yield factor, min(BLOCK, count - start)


def differences(
    z: np.ndarray, factors: np.ndarray, points: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points of beta-VAE's score: the mean |z - z'| of DRAWN pairs that share a factor (P, D), and which (P,).

    z (N, D), factors (N, F).
    """
    fixed, found, of = Fixed(factors), [], []
    for factor, count in drawn(factors, points, rng):
        one = rng.integers(0, len(z), (count, DRAWN))
        found.append(np.abs(z[one] - z[fixed.like(one, factor, rng)]).mean(1))
        of.append(np.full(count, factor))
    return np.concatenate(found), np.concatenate(of)


def votes(z: np.ndarray, factors: np.ndarray, points: int, rng: np.random.Generator) -> np.ndarray:
    """Votes of FactorVAE's score: how often each latent varied least when a factor was fixed, (F, D).

    z (N, D), factors (N, F). For each point DRAWN codes share a value, which is that of an image drawn at random.
    """
    variance = z.var(0, ddof=1)
    varies = np.flatnonzero(variance > 0)  # a constant latent would win each vote
    fixed, found = Fixed(factors), np.zeros((factors.shape[1], z.shape[1]))
    for factor, count in drawn(factors, points, rng):
        one = np.broadcast_to(rng.integers(0, len(z), (count, 1)), (count, DRAWN))
        within = z[fixed.like(one, factor, rng)][..., varies].var(1, ddof=1)
        least = varies[(within / variance[varies]).argmin(1)]
        found[factor] += np.bincount(least, minlength=z.shape[1])
    return found


def factor_vae(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> float:
    """FactorVAE's score (Kim and Mnih 2018, section 4): how often the latent that varies least tells which is fixed.

    By the vote of POINTS points from the codes and factors `train`, on half as many from `test`: from about 1 / F to 1.
    0 where no latent varies.
    """
    if not (train[0].std(0) > 0).any():
        return 0.0
    chosen = votes(*train, POINTS, rng).argmax(0)  # (D,)
    tested = votes(*test, POINTS // 2, rng)
    return float(tested[chosen, np.arange(len(chosen))].sum() / tested.sum())
