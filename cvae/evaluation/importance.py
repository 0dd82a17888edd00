"""Importance sampling of log p(x), and rate, distortion and what single latents say from the same draws."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cvae.distributions import Codes
from cvae.distributions.precision import precise
from cvae.evaluation.batches import SAMPLES, filled, noise_seed
from cvae.evaluation.pareto import pareto_k
from cvae.evaluation.units import Means, code_sums, known_mean, means_of, shifts
from cvae.models.trace import Latent
from cvae.models.vae import VAE
from cvae.runtime.noise import fixed_noise

MOST = 50_000  # samples of an image that `until` may take; published figures are of 5,000
ENOUGH = 50  # effective samples that tell the variance of the weights


class Measured(NamedTuple):
    """What the draws say of each image, in nats, float64 on the CPU. L: groups of latents, the top one first."""

    log_px: Tensor  # (B,) the importance-sampled log p(x)
    rates: Tensor  # (B, L) mean over samples of log q(z|x) - log p(z) of each group
    distortion: Tensor  # (B,) mean over samples of -log p(x|z)
    samples: Tensor  # (B,) how many draws there were
    reached: Tensor  # (B,) whether their error is as small as was asked for
    effective: Tensor  # (B,) how many equal weights would be as good: (sum w)^2 / sum w^2; NaN: all draws are one code
    pareto_k: Tensor  # (B,) how heavy the weights' tail is, see `pareto_k`; NaN where it has none
    z: Tensor  # (B, D') the first draw of the top group, in the model's type and on its device
    log_q: Tensor  # (B,) of that draw
    log_p: Tensor  # (B,) of that draw


def measure(
    vae: VAE,
    x: Tensor,
    y: Tensor | None,
    samples: int,
    images: int,
    seeds: tuple[int, int],
    advance: Callable[[str, int], None],
    until: float | None = None,
) -> tuple[Measured, Means]:
    """Importance sampling for a block: images x (B, C, H, W), labels y (B,), B at most `images`, the full block's size.

    log p(x) is estimated by log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) (Burda et al. 2016, eq. 8). Its weights have the
    effective sample size of Kish: (sum w)^2 / sum w^2.

    seeds: of the evaluation, and the block's number. advance: called with ("rows", n) after n rows.
    until: nats. The number of samples (rounded up to blocks of SAMPLES) doubles until the `error_of` the block's mean
        log p(x) is below it, or there would be more than MOST. None: `samples` it is.
    """
    count = len(x)
    if until is not None:
        samples = math.ceil(samples / SAMPLES) * SAMPLES
    x, y = filled(x, images), None if y is None else filled(y, images)
    weights: list[Tensor] = []  # their logarithms, (at most SAMPLES, B) each
    sums: list[Tensor] = []  # over the samples, of: rates (B, L), distortion (B,), what says which latents are active
    start, reached = 0, True
    while start < samples:
        with fixed_noise(noise_seed(*seeds, start // SAMPLES), x.device):
            trace = vae(x, y, SAMPLES)
        kept = slice(0, min(SAMPLES, samples - start)), slice(0, count)
        rates = torch.stack([precise(latent.log_q[kept]) - precise(latent.log_p[kept]) for latent in trace.latents], -1)
        log_px_z, shift = precise(trace.px.log_prob(x)[kept]), precise(shifts(trace.latents)[kept])
        weights.append(log_px_z - rates.sum(-1))
        more = [part.sum(0) for part in (rates, -log_px_z, shift, shift**2)]
        sums = [before + part for before, part in zip(sums, more, strict=True)] if sums else more
        if start == 0:
            top = trace.latents[0]
            first = top.z[0, :count].clone(), precise(top.log_q[0, :count]), precise(top.log_p[0, :count])
            known = precise(known_mean(trace.latents, images)[:count])
            codes = precise(code_sums(top, count)).cpu() if isinstance(top.p, Codes) else None
            one_code = all(map(is_one_code, trace.latents))
            if one_code:  # further draws would be the same
                advance("rows", max(samples - SAMPLES, 0) * count)
                samples, until = min(samples, SAMPLES), None
        advance("rows", log_px_z.numel())
        start += SAMPLES
        if until is not None and start == samples:
            reached = error_of(torch.cat(weights)) < until
            samples *= 1 if reached or 2 * samples > MOST else 2
    log_px, effective, k = from_weights(torch.cat(weights).cpu(), one_code)
    numbers = torch.full((count,), samples), torch.full((count,), reached)
    measured = Measured(log_px, sums[0] / samples, sums[1] / samples, *numbers, effective, k, *first)
    means = means_of(known.cpu(), sums[2].cpu(), sums[3].cpu(), samples, codes)
    return Measured(*(part.cpu() for part in measured))._replace(z=measured.z), means


def error_of(log_w: Tensor) -> float:
    """By how many nats the mean of log p(x), estimated from weights (K, B), may be wrong; infinite where nobody knows.

    It is the bias, with S the effective sample size an expected (1/S - 1/K) / 2 of each image, and two standard errors
    of the mean over the B images, of variance 1/S - 1/K each (the delta method). So it covers the truth in about 95 of
    100 cases, as long as the weights' variance is finite (Pareto k-hat below 0.5) or nearly so. From few effective
    samples their variance cannot be told: it is infinite unless the harmonic mean of S over the images is ENOUGH.
    """
    few = (torch.logsumexp(2 * log_w, 0) - 2 * torch.logsumexp(log_w, 0)).exp()  # (B,), 1/S
    if few.mean() > 1 / ENOUGH:
        return math.inf
    variance = (few - 1 / len(log_w)).clamp(min=0)
    return (variance.mean() / 2 + 2 * variance.sum().sqrt() / len(few)).item()


def from_weights(log_w: Tensor, one_code: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of importance weights (K, B): log p(x), the effective sample size and Pareto k-hat, (B,) each.

    one_code: all draws of an image are the same. Their weights are equal, and still no estimate: the last two are NaN.
    """
    log_sum = log_w.logsumexp(0)
    log_px = log_sum - math.log(len(log_w))
    if one_code:
        return log_px, *torch.full((2, len(log_px)), torch.nan, dtype=log_px.dtype)
    return log_px, (2 * log_sum - (2 * log_w).logsumexp(0)).exp(), pareto_k(log_w)


def is_one_code(latent: Latent) -> bool:
    """Whether q(z|x) has all its mass on one code, so that all draws are the same."""
    return getattr(latent.q, "is_point", False)
