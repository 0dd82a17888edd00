"""The figures of a trained model.

They are -log p(x), ELBO, rate, distortion, bits per dim, active units, and those of the aggregate posterior.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions import Codes
from cvae.errors import NotFinite
from cvae.evaluation.aggregate import log_aggregate
from cvae.evaluation.batches import Batch, images_of_a_block, in_blocks
from cvae.evaluation.importance import Means, Measured, measure
from cvae.evaluation.pareto import can_fit
from cvae.evaluation.settings import Settings
from cvae.models.vae import VAE
from cvae.runtime.devices import float32
from cvae.runtime.noise import fixed_noise

ACTIVE = 0.01  # variance of the posterior mean over images, above which a latent counts as active
USED = 0.1  # nats an image of a group's rate, above which it counts as active
FEW = 10  # effective samples, below which an image's log p(x) rests on a few weights
HIGH = 0.7  # Pareto k-hat, above which the estimate cannot be relied on (Vehtari et al. 2024)


class Figure(NamedTuple):
    """One measured number."""

    value: float | None  # None where it is not defined
    standard_error: float | None  # over images, as if they were independent; None where there is none
    unit: str
    meaning: str  # what a table calls it


def no_advance(what: str, count: int) -> None:
    """Ignore the progress."""


@torch.no_grad()
def evaluate(
    vae: VAE,
    batches: Iterable[Batch],
    settings: Settings,
    advance: Callable[[str, int], None] = no_advance,
) -> dict[str, Figure]:
    """All figures of a model over a set of images, in the mode that the model is in: call eval() first.

    nll, elbo, rate and distortion share the same draws; elbo = -rate - distortion. The expected nll falls with the
    number of samples towards -log p(x) (Burda et al. 2016, theorem 1).

    How near it is, effective_samples says: the median over images of the effective sample size (Kish 1965), and
    few_effective the share of images where it is below 10. Where a few heavy weights carry the estimate, it is a loose
    bound, and its standard error over images does not show that. pareto_k is the median of the Pareto k-hat of the
    weights, high_pareto_k the share of images where it is above 0.7: there the estimate cannot be relied on (Vehtari et
    al. 2024). Both need the package arviz-stats and 25 samples.

    A posterior of one code (vq, fsq) has no such weights: nll is then a bound, distortion - log p(code), that more
    samples don't tighten, and the table says "at most" (van den Oord et al. 2017, section 3.2).

    Of codes there are perplexity and used_codes, over the first draw of each image.

    Where there are several groups of latents, rate_1, rate_2, … are those of each from the top down. They sum to rate.

    mutual_information is I_q(x; z), aggregate_kl is KL(q(z) || p(z)), and aggregate_rate is exactly their sum (Hoffman
    and Johnson 2016). The three are of the top group of latents and over the first `aggregate_images` images, with a
    draw each: see `log_aggregate`. The first two are None if a posterior's density of foreign z is NaN, as that of an
    ill-conditioned full covariance can be in float32. Their standard errors are taken as if the images were
    independent. The images share one q(z), so these errors are too small or too large by what that adds.

    bits_per_dim is nll / (C H W ln 2) if the likelihood is a mass over 256 grey levels, else None: a density has no
    bits without a unit of the pixels, and binary images are reported in nats.

    Args:
        vae: the model
        batches: (x (B, C, H, W), y (B,), or None for a model without classes) of any sizes, on the model's device. All
            of them are used: the caller must keep to settings.images
        settings: samples, aggregate_images, memory and seed
        advance: called with ("rows", n) after n rows (an image with a sample), and with ("pairs", n) after n pairs. In
            all there are images * samples rows; the pairs are the square of the images of the aggregate posterior

    Raises:
        NotFinite: a figure is NaN or infinite.
    """
    batches = iter(batches)
    first = next(batches)
    measured, spread, kept = [], Spread(), []  # kept: the blocks for the aggregate posterior
    limit = settings.aggregate_images
    device = first[0].device
    with fixed_noise(settings.seed, device), float32(device):  # the caller's random state stays as it is
        images = images_of_a_block(vae, *first, settings.memory)
        for number, (x, y) in enumerate(in_blocks(itertools.chain([first], batches), images)):
            seeds = settings.seed, number
            block, means = measure(vae, x, y, settings.samples, images, seeds, advance, settings.until)
            measured.append(block)
            spread.add(means)
            if number * images < limit:
                wanted = limit - number * images
                kept.append((x[:wanted], None if y is None else y[:wanted]))
        every = Measured(*(torch.cat(parts) for parts in zip(*measured, strict=True)))
        log_qz = log_aggregate(vae, kept, every.z[:limit], every.log_q[:limit], advance)
        p = vae(x[:1], None if y is None else y[:1]).latents[0].p  # any image has it
    figures = figures_of(vae, every, spread.variance(), log_qz, dims=x[0].numel()) | of_codes(p, every.z)
    if bad := [f"{name} is {figure.value}" for name, figure in figures.items() if not finite(figure)]:
        raise NotFinite(f"evaluation of {len(every.log_px)} images: {', '.join(bad)}")
    return figures


def figures_of(vae: VAE, every: Measured, variance: Tensor, log_qz: Tensor, dims: int) -> dict[str, Figure]:
    """The figures from what was measured of each image, and log q(z) (N,) of the first draws of the first N.

    variance: of the posterior means over the images, (D,).
    """
    count, rate = len(log_qz), every.rates.sum(-1)
    log_q, log_p = every.log_q[:count], every.log_p[:count]
    undefined = not log_qz.isfinite().all()
    one_code = bool(every.effective.isnan().any())
    nll = over_images(-every.log_px, "-log p(x), at most" if one_code else "-log p(x)")
    return {
        "nll": nll,
        "elbo": over_images(-rate - every.distortion, "ELBO"),
        "rate": over_images(rate, "rate, KL(q(z|x) || p(z))"),
        "distortion": over_images(every.distortion, "distortion, -E log p(x|z)"),
        "bits_per_dim": bits_per_dim(vae, nll, dims),
        "effective_samples": effective_samples(every.effective, every.samples),
        "few_effective": few_effective(every.effective),
        **pareto(every.pareto_k),
        "active_units": active_units(variance),
        **of_groups(every.rates),
        "mutual_information": over_images(log_q - log_qz, "mutual information I(x; z)", undefined),
        "aggregate_kl": over_images(log_qz - log_p, "KL(q(z) || p(z))", undefined),
        "aggregate_rate": over_images(log_q - log_p, "sum of the two"),
    }


def few_effective(effective: Tensor) -> Figure:
    """The share of images whose effective sample size (N,) is below 10; None where it is NaN."""
    share = None if effective.isnan().any() else (effective < FEW).double().mean().item()
    return Figure(share, None, "of the images", "with below 10")


def effective_samples(effective: Tensor, samples: Tensor) -> Figure:
    """The median over images of the effective sample size (N,), None where it is NaN, and of how many samples (N,)."""
    counts = [f"{number:,}" for number in (samples.min().item(), samples.max().item())]
    median = None if effective.isnan().any() else effective.median().item()
    return Figure(median, None, f"of {' to '.join(dict.fromkeys(counts))}", "effective samples, median")


def pareto(k: Tensor) -> dict[str, Figure]:
    """Of Pareto k-hat (N,) the median over the images that have one, and the share of these where it is above 0.7."""
    known = k[~k.isnan()]
    median, share = (known.median().item(), (known > HIGH).double().mean().item()) if len(known) else (None, None)
    unit = "" if can_fit() else "needs arviz-stats"
    return {
        "pareto_k": Figure(median, None, unit, "Pareto k-hat, median"),
        "high_pareto_k": Figure(share, None, "of the images", f"with above {HIGH}"),
    }


class Spread:
    """How posterior means vary over the images. Only sums are kept: a hierarchy has too many latents for all images."""

    def __init__(self) -> None:
        self.count, self.sums = 0, torch.zeros((), dtype=torch.float64)

    def add(self, means: Means) -> None:
        """The means (B, D) of more images."""
        self.count += len(means.mean)
        self.sums = self.sums + torch.stack([part.sum(0) for part in (means.mean, means.mean**2, means.error)])

    def variance(self) -> Tensor:
        """(D,) If the means are estimates, their own variance is subtracted; NaN if that is unknown."""
        mean, square, error = self.sums / self.count
        return square - mean**2 - error


def active_units(variance: Tensor) -> Figure:
    """How many latents have a posterior mean that varies over the images (Burda et al. 2016, section 5.2).

    "Varies" means a variance (D,) above 0.01; if one is unknown, so is the number.
    """
    count = None if variance.isnan().any() else int((variance > ACTIVE).sum())
    return Figure(count, None, f"of {len(variance)} latents", "active units")


def of_groups(rates: Tensor) -> dict[str, Figure]:
    """Of several groups of latents the rates (N, L), and how many groups have one above 0.1 nats; else nothing."""
    groups = rates.shape[1]
    if groups == 1:
        return {}
    each = {f"rate_{n}": over_images(rate, f"rate of group {n}") for n, rate in enumerate(rates.T, 1)}
    active = int((rates.mean(0) > USED).sum())
    return {"active_groups": Figure(active, None, f"of {groups} groups", "active groups"), **each}


def of_codes(p: Distribution, z: Tensor) -> dict[str, Figure]:
    """How many of its codes a model uses, from p(z) and the z (N, D) of N images; nothing if z are no codes.

    Perplexity is exp(entropy of their shares): as many codes, used equally, would have this entropy (van den Oord et
    al. 2017 report it).
    """
    if not isinstance(p, Codes):
        return {}
    counts, unit = p.read(z).flatten().bincount(minlength=p.num_codes), f"of {p.num_codes:,} codes"
    return {
        "perplexity": Figure(perplexity(counts), None, unit, "perplexity of the codes"),
        "used_codes": Figure(int((counts > 0).sum()), None, unit, "codes that are used"),
    }


def perplexity(counts: Tensor) -> float:
    """exp(entropy) of shares, from counts (C,), not all of them 0."""
    return torch.special.entr(counts.double() / counts.sum()).sum().exp().item()


def bits_per_dim(vae: VAE, nll: Figure, dims: int) -> Figure:
    """`nll` in bits a colour value, of which an image has `dims`; defined only for a mass over 256 levels."""
    meaning, scale = "bits per dim", dims * math.log(2)
    if nll.value is None or not (vae.likelihood.is_mass and "levels" in vae.likelihood.describes):
        return Figure(None, None, "bits", meaning)
    return Figure(nll.value / scale, nll.standard_error and nll.standard_error / scale, "bits", meaning)


def over_images(values: Tensor, meaning: str, undefined: bool = False) -> Figure:
    """The mean of one value in nats per image (N,), and its standard error; neither where it is not defined."""
    if undefined:
        return Figure(None, None, "nats", meaning)
    error = (values.std() / len(values) ** 0.5).item() if len(values) > 1 else None
    return Figure(values.mean().item(), error, "nats", meaning)


def finite(figure: Figure) -> bool:
    return figure.value is None or math.isfinite(figure.value)
