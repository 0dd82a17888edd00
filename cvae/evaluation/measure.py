"""The figures of a trained model.

They are -log p(x), ELBO, rate, distortion, bits per dim, active units, and those of codes and the aggregate posterior.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvae.distributions import Codes, has_density
from cvae.distributions.precision import precise
from cvae.errors import NotFinite
from cvae.evaluation.aggregate import log_aggregate
from cvae.evaluation.batches import Batch, images_of_a_block, in_blocks
from cvae.evaluation.importance import PerImage, is_one_code, measure_block
from cvae.evaluation.pareto import can_fit, highest
from cvae.evaluation.settings import Settings
from cvae.evaluation.units import Means, Spread, figures_of_codes
from cvae.models.vae import VAE
from cvae.runtime.devices import float32
from cvae.runtime.noise import fixed_noise

USED = 0.1  # nats an image of a group's rate, above which it counts as active
AT_MOST = ", at most"  # behind what a figure means that is a bound; saved evaluations are known by it (cvae.runs)
FEW = 10  # effective samples, below which an image's log p(x) rests on a few weights


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

    effective_samples says how near it is: the median over images of the effective sample size (Kish 1965).
    few_effective is the share of images where it is below 10, if there were more samples. If a few heavy weights carry
    the estimate, it is a loose bound, and its standard error over images does not show that. pareto_k is the median of
    the Pareto k-hat of the weights, high_pareto_k the share of images where it is above min(1 - 1/log10 S, 0.7) for S
    samples: there the estimate cannot be relied on (Vehtari et al. 2024). Both need the package arviz-stats and 25
    samples. Where settings.until is given, not_reached is the share of images in blocks whose error is still above it.

    If the posterior of a group is a single code (vq, fsq), nll is an upper bound, and the table says "at most": no
    sample shows what other codes would add to p(x) (van den Oord et al. 2017, section 3.2). In a hierarchy, samples of
    the groups below tighten it. Without such groups all samples are the same, and effective_samples is None.

    Models of codes have perplexity, code_information and codebook_perplexity too, see `figures_of_codes`, and
    used_codes, the number of values among the first draws of all images.

    active_units are the latents that depend on the image, see `Spread.active`.

    With several groups of latents, rate_1, rate_2, … are their rates from the top down. They sum to rate.

    mutual_information is I_q(x; z), aggregate_kl is KL(q(z) || p(z)), and aggregate_rate is exactly their sum (Hoffman
    and Johnson 2016). The three are of the top group of latents and over the first `aggregate_images` images, with a
    draw each: see `log_aggregate`. The first two are None if a posterior's density of foreign z is NaN, as that of an
    ill-conditioned full covariance can be in float32. Their standard errors are taken as if the images were
    independent. The images share one q(z), so these errors are too small or too large by what that adds.

    A model whose posterior has no density has distortion and active_units alone.

    bits_per_dim is nll / (C H W ln 2) if the likelihood is a mass over 256 grey levels, else None: a density has no
    bits without a unit of the pixels, and binary images are reported in nats.

    Args:
        vae: the model
        batches: (x (B, C, H, W), y (B,), or None for a model without classes) of any sizes, on the model's device. All
            of them are used: the caller must keep to settings.images
        settings: samples, aggregate_images, memory and seed
        advance: called with ("rows", n) after n rows (an image with a sample), and with ("pairs", n) after n pairs. In
            all there are images * samples rows; the pairs are the square of the images of the aggregate posterior. For
            a model without densities it is called with ("images", n) alone

    Raises:
        NotFinite: a figure is NaN or infinite.
    """
    batches = iter(batches)
    first = next(batches)
    measured, spread, kept = [], Spread(), []  # kept: the blocks for the aggregate posterior
    limit = settings.aggregate_images
    device = first[0].device
    with fixed_noise(settings.seed, device), float32(device):  # the caller's random state stays as it is
        x, y = first
        latents = vae(x[:1], None if y is None else y[:1]).latents  # of any image: they say what q and p are
        if not has_density(latents[0].q):
            return of_autoencoder(vae, itertools.chain([first], batches), advance)
        images = images_of_a_block(vae, *first, settings.memory)
        for number, (x, y) in enumerate(in_blocks(itertools.chain([first], batches), images)):
            of_block, means = measure_block(vae, (x, y), number, images, settings, advance)
            measured.append(of_block)
            spread.add(means)
            if number * images < limit:
                wanted = limit - number * images
                kept.append((x[:wanted], None if y is None else y[:wanted]))
        every = PerImage(*(torch.cat(parts) for parts in zip(*measured, strict=True)))
        log_qz = log_aggregate(vae, kept, every.z[:limit], every.log_q[:limit], advance)
    figures = figures_of(vae, every, spread, log_qz, x[0].numel(), any(map(is_one_code, latents)))
    if spread.codes is not None:
        figures |= of_codes(spread.codes, latents[0].p, every.z)
    if settings.until is not None:
        share = 1 - every.reached.cpu().double().mean().item()
        figures["not_reached"] = Figure(share, None, "of the images", f"not within {settings.until:g} nats")
    if bad := [f"{name} is {figure.value}" for name, figure in figures.items() if not finite(figure)]:
        raise NotFinite(f"evaluation of {len(every.log_px)} images: {', '.join(bad)}")
    return figures


def of_autoencoder(vae: VAE, batches: Iterable[Batch], advance: Callable[[str, int], None]) -> dict[str, Figure]:
    """Distortion, and how many dimensions of the codes have a variance over the images above 0.01."""
    spread, distortions = Spread(), []
    for x, y in batches:
        with float32(x.device):
            trace = vae(x, y)
            distortions.append(-precise(trace.px.log_prob(x)[0]).cpu())
        z = precise(trace.latents[0].z[0]).cpu()
        spread.add(Means(z, z**2, torch.zeros_like(z), None))
        advance("images", len(x))
    active, latents = spread.active()
    figures = {
        "distortion": over_images(torch.cat(distortions), "distortion, -log p(x|z)"),
        "active_units": Figure(active, None, f"of {latents} latents", "active units"),
    }
    if bad := [f"{name} is {figure.value}" for name, figure in figures.items() if not finite(figure)]:
        raise NotFinite(f"evaluation: {', '.join(bad)}")
    return figures


def figures_of(
    vae: VAE, every: PerImage, spread: Spread, log_qz: Tensor, dims: int, bound: bool = False
) -> dict[str, Figure]:
    """The figures from what was measured of each image, and log q(z) (N,) of the first draws of the first N.

    bound: whether a group has posteriors of one code: then no number of samples makes nll -log p(x).
    """
    count, rate = len(log_qz), every.rates.sum(-1)
    log_q, log_p = every.log_q[:count], every.log_p[:count]
    undefined, at_most = not log_qz.isfinite().all(), AT_MOST if bound else ""
    nll = over_images(-every.log_px, f"-log p(x){at_most}")
    active, latents = spread.active()
    return {
        "nll": nll,
        "elbo": over_images(-rate - every.distortion, "ELBO"),
        "rate": over_images(rate, "rate, KL(q(z|x) || p(z))"),
        "distortion": over_images(every.distortion, "distortion, -E log p(x|z)"),
        "bits_per_dim": bits_per_dim(vae, nll, dims, at_most),
        "effective_samples": effective_samples(every.effective, every.samples),
        "few_effective": few_effective(every.effective, every.samples),
        **pareto(every.pareto_k, every.samples),
        "active_units": Figure(active, None, f"of {latents} latents", "active units"),
        **of_groups(every.rates),
        "mutual_information": over_images(log_q - log_qz, "mutual information I(x; z)", undefined),
        "aggregate_kl": over_images(log_qz - log_p, "KL(q(z) || p(z))", undefined),
        "aggregate_rate": over_images(log_q - log_p, "sum of the two"),
    }


def few_effective(effective: Tensor, samples: Tensor) -> Figure:
    """The share of images whose effective sample size (N,) is below 10 although there were more samples (N,).

    None where no image had more, or where the size is NaN.
    """
    none = effective.isnan().any() or samples.max() <= FEW
    share = None if none else ((effective < FEW) & (samples > FEW)).cpu().double().mean().item()
    return Figure(share, None, "of the images", f"with below {FEW}")


def effective_samples(effective: Tensor, samples: Tensor) -> Figure:
    """The median over images of the effective sample size (N,), None where it is NaN, and of how many samples (N,)."""
    counts = [f"{number:,}" for number in (samples.min().item(), samples.max().item())]
    median = None if effective.isnan().any() else median_of(effective)
    return Figure(median, None, f"of {' to '.join(dict.fromkeys(counts))}", "effective samples, median")


def pareto(k: Tensor, samples: Tensor) -> dict[str, Figure]:
    """The median of Pareto k-hat (N,) over the images that have one, and the share of these where it is too high.

    samples: (N,), the number for each image.
    """
    known, limits = k[~k.isnan()], highest(samples)
    said = dict.fromkeys(f"{limit:.2g}" for limit in (limits.min().item(), limits.max().item()))
    high = (k > limits).cpu().double().sum().item() / len(known) if len(known) else None
    unit = "" if can_fit() else "needs arviz-stats"
    return {
        "pareto_k": Figure(median_of(known) if len(known) else None, None, unit, "Pareto k-hat, median"),
        "high_pareto_k": Figure(high, None, "of the images", f"with above {' to '.join(said)}"),
    }


def median_of(values: Tensor) -> float:
    """The mean of the two in the middle where there are evenly many; torch's median is the lower one."""
    return float(np.median(values.numpy()))


def of_groups(rates: Tensor) -> dict[str, Figure]:
    """The mean of the rates (N, L) for each of several groups, and the number above 0.1 nats; {} for one group."""
    groups = rates.shape[1]
    if groups == 1:
        return {}
    each = {f"rate_{n}": over_images(rate, f"rate of group {n}") for n, rate in enumerate(rates.T, 1)}
    active = int((rates.mean(0) > USED).sum())
    return {"active_groups": Figure(active, None, f"of {groups} groups", "active groups"), **each}


def of_codes(sums: Tensor, p: Codes, z: Tensor) -> dict[str, Figure]:
    """How codes are used: from their `code_sums`, p(z), and a draw z (N, D) of each of N images."""
    perplexity, information, codebook = figures_of_codes(sums).values()
    unit = f"of {p.num_codes:,} codes"
    return {
        "perplexity": Figure(perplexity, None, unit, "perplexity of a code, mean"),
        "code_information": Figure(information, None, "nats a code", "information I(x; code), mean"),
        "codebook_perplexity": Figure(codebook, None, unit, "perplexity of all codes together"),
        "used_codes": Figure(len(p.read(z).unique()), None, unit, "codes that are used"),
    }


def bits_per_dim(vae: VAE, nll: Figure, dims: int, at_most: str = "") -> Figure:
    """`nll` in bits a colour value, of which an image has `dims`; defined only for a mass over 256 levels."""
    meaning, scale = f"bits per dim{at_most}", dims * math.log(2)
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
