"""The latents of images against the known factors of these: all measures, over several draws of images."""

import logging
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from cvae.data import Images
from cvae.errors import UserError
from cvae.evaluation import predicted
from cvae.evaluation.batches import Batch
from cvae.evaluation.fixed_factors import DRAWN, factor_vae
from cvae.evaluation.fixed_factors import POINTS as DRAWN_POINTS
from cvae.evaluation.information import BINS, chance, entropies, information, mig, modularity, sap_of_lines
from cvae.evaluation.measure import Figure
from cvae.models.latent_paths import posterior_mean
from cvae.models.vae import VAE
from cvae.runtime.devices import float32
from cvae.runtime.noise import fixed_noise

log = logging.getLogger(__name__)

DRAWS, DRAWS_OF_TREES = 5, 3  # the latter take nearly all of the time
POINTS = 10_000  # images that are learned from, at most, and half as many to test it, as Locatello et al. (2019)
LEAST = 10  # images for each value of a factor; of fewer no measure can tell its values apart
NEEDED = "SAP, DCI, explicitness and beta-VAE's score need scikit-learn: pip install -e '.[measures]'"

Points = predicted.Points


class Coded(NamedTuple):
    """Codes z float64 (N, D), each of mean 0 and standard deviation 1 (or all 0), and the factors int (N, F) of images.

    A factor's values are numbered from 0, those that occur; names (F,): what the factors are called.
    """

    z: np.ndarray
    factors: np.ndarray
    names: tuple[str, ...]

    def points(self, rows: np.ndarray) -> Points:
        return self.z[rows], self.factors[rows]


class Measured(NamedTuple):
    """Figures by name; told (D, F): what each latent tells of each factor, as a share of the factor's entropy."""

    figures: dict[str, Figure]
    told: np.ndarray


def can_measure(vae: VAE, images: Images) -> bool:
    """Whether there is something to measure: numbers as latents, and factors."""
    return vae.posterior.num_codes is None and images.factors is not None


@torch.no_grad()
def coded(vae: VAE, batches: Iterable[Batch], images: Images, rows: Sequence[int], seed: int) -> Coded:
    """The means of q(z|x), of several groups of the top one, for batches (x, y) of the images at `rows`; their factors.

    Factors with one value, or with fewer than LEAST images for each, are left out.

    Raises:
        UserError: the model is of codes, whose numbers have no order; there are no factors, or none is left.
    """
    if vae.posterior.num_codes is not None:
        raise UserError("latents are compared with factors as numbers, and this model's are codes, which have no order")
    if images.factors is None:
        raise UserError("these data have no known factors; data=sprites has, and data=npz with an array factors")
    device = next(vae.parameters()).device
    with fixed_noise(seed, device), float32(device):
        z = torch.cat([posterior_mean(vae.encode(x, y)).cpu() for x, y in batches]).numpy().astype(np.float64)
    known = images.factors[list(rows)].cpu().numpy()
    names = images.factor_names or tuple(f"factor {f}" for f in range(known.shape[1]))
    return of_arrays(z, known, names)


def of_arrays(z: np.ndarray, factors: np.ndarray, names: Sequence[str]) -> Coded:
    """`coded`, of any codes (N, D) and factors (N, F)."""
    numbers = np.stack([np.unique(factor, return_inverse=True)[1] for factor in factors.T], 1)
    values = numbers.max(0) + 1
    kept = (values > 1) & np.array([np.bincount(number).min() >= LEAST for number in numbers.T])
    for name, count, stays in zip(names, values, kept, strict=True):
        if not stays:
            log.info("The factor %s is left out: %s values in %s images", name, f"{count:,}", f"{len(numbers):,}")
    if not kept.any():
        raise UserError(f"no factor has two values and {LEAST} images for each; there are {len(numbers):,} images")
    spread = z.std(0)
    varies = spread > 1e-9 * max(1, np.abs(z).max())
    z = np.where(varies, (z - z.mean(0)) / np.where(varies, spread, 1), 0)
    return Coded(z, numbers[:, kept], tuple(name for name, stays in zip(names, kept, strict=True) if stays))


def halves(count: int, draws: int, seed: int) -> Iterable[tuple[np.ndarray, np.ndarray, np.random.Generator]]:
    """For each draw half of the images' numbers, the other half, and what makes its random numbers.

    The deviation of a figure over random halves is its standard error from all images (Shao and Wu 1989); over parts
    of n of N images it is sqrt((N - n) / n) times that.
    """
    for number in range(draws):
        rng = np.random.default_rng((seed, number))
        order = rng.permutation(count)
        yield order[: count // 2], order[count // 2 :], rng


def of_information(known: Coded, seed: int) -> dict[str, Figure]:
    """MIG and modularity, of all images; their errors from halves."""

    def scores(z: np.ndarray, factors: np.ndarray) -> tuple[float, float]:
        told = information(z, factors)
        return mig(told, entropies(factors)), modularity(told, chance(z, factors))

    value = scores(known.z, known.factors)
    error = np.std([scores(*known.points(half)) for half, _, _ in halves(len(known.z), DRAWS, seed)], 0, ddof=1)
    by = f"{BINS} bins, {len(known.z):,} images"
    meanings = {"mig": f"MIG, {by}", "modularity": f"modularity, {by}"}
    return {name: Figure(value[n], float(error[n]), "", meaning) for n, (name, meaning) in enumerate(meanings.items())}


def at_the_end(vae: VAE, batches: Iterable[Batch], images: Images, rows: Sequence[int], seed: int) -> dict[str, Figure]:
    """MIG, as the evaluation of a run has it: at once. Nothing where there is nothing to measure."""
    if not can_measure(vae, images):
        return {}
    try:
        return {"mig": of_information(coded(vae, batches, images, rows, seed), seed)["mig"]}
    except UserError as error:
        log.info("No MIG: %s", error)
        return {}


Score = Callable[[Points, Points, np.random.Generator], float | tuple[float, ...]]


def over_draws(
    known: Coded, score: Score, meanings: dict[str, str], draws: int, seed: int, most: int | None = None
) -> dict[str, Figure]:
    """The mean of scores over draws, and its standard error.

    That is of the images at hand, as of `halves`, and of the draws, of which there are few.

    most: how many images a score learns from, POINTS if None
    """
    most, count = most or POINTS, len(known.z)
    found = []
    for half, other, rng in halves(count, draws, seed):
        train, test = known.points(half[:most]), known.points(other[: most // 2])
        found.append(np.atleast_1d(score(train, test, rng)))
    learned = min(count // 2, most)
    mean = np.mean(found, 0)
    error = np.std(found, 0, ddof=1) * (learned / (count - learned) + 1 / draws) ** 0.5
    return {
        name: Figure(float(mean[n]), float(error[n]), "", meaning) for n, (name, meaning) in enumerate(meanings.items())
    }


def measure(known: Coded, seed: int, watched: Callable[[Sequence], Iterable] = iter) -> Measured:
    """All measures that can be taken: without scikit-learn those that need it are left out.

    watched: called with the measures that are to be taken, gives them one after the other
    """
    half = f"{min(len(known.z) // 2, POINTS):,} images"
    drawn = f"{DRAWN_POINTS:,} points of {DRAWN} images"
    ranks = ("disentanglement", "completeness", "informativeness")
    trees = f"{min(len(known.z) // 2, predicted.TREES):,} images"
    of_trees = {f"dci_{name}": f"DCI {name}, boosted trees, {trees}" for name in ranks}
    of_lasso = {f"dci_lasso_{name}": f"DCI {name}, lasso, {half}" for name in ranks}
    rows: list[tuple[Score, dict[str, str], int, int]] = [
        (factor_vae, {"factor_vae_score": f"FactorVAE score, {drawn}"}, DRAWS, POINTS),
        (lambda a, _, __: sap_of_lines(*a), {"sap_of_lines": f"SAP, squared correlation, {half}"}, DRAWS, POINTS),
    ]
    if find_spec("sklearn") is None:
        log.info(NEEDED)
    else:
        rows += [
            (predicted.beta_vae, {"beta_vae_score": f"beta-VAE score, {drawn}"}, DRAWS, POINTS),
            (lambda a, b, _: predicted.sap(a, b), {"sap": f"SAP, linear SVM, {half}"}, DRAWS, POINTS),
            (lambda a, b, _: predicted.dci_trees(a, b, seed), of_trees, DRAWS_OF_TREES, predicted.TREES),
            (lambda a, b, _: predicted.dci_lasso(a, b), of_lasso, DRAWS, POINTS),
            (lambda a, b, _: predicted.explicitness(a, b), {"explicitness": f"explicitness, {half}"}, DRAWS, POINTS),
        ]
    figures = of_information(known, seed)
    for score, meanings, draws, most in watched(rows):
        figures |= over_draws(known, score, meanings, draws, seed, most)
    return Measured(figures, information(known.z, known.factors) / entropies(known.factors))
