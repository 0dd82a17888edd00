"""Importance sampling of log p(x), and rate, distortion and the posterior's mean from the same draws."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from zuko.distributions import NormalizingFlow

from cvae.evaluation.batches import SAMPLES, filled, noise_seed
from cvae.evaluation.pareto import pareto_k
from cvae.models.trace import Latent
from cvae.models.vae import VAE
from cvae.runtime.noise import fixed_noise


class Measured(NamedTuple):
    """What the draws say of each image, in nats, float64 on the CPU. L: groups of latents, the top one first."""

    log_px: Tensor  # (B,) the importance-sampled log p(x)
    rates: Tensor  # (B, L) mean over samples of log q(z|x) - log p(z) of each group
    distortion: Tensor  # (B,) mean over samples of -log p(x|z)
    samples: Tensor  # (B,) how many draws there were
    effective: Tensor  # (B,) how many equal weights would be as good: (sum w)^2 / sum w^2; NaN for a single code
    pareto_k: Tensor  # (B,) how heavy the weights' tail is, see `pareto_k`; NaN where it has none
    z: Tensor  # (B, D') the first draw of the top group, in the model's type and on its device
    log_q: Tensor  # (B,) of that draw
    log_p: Tensor  # (B,) of that draw


class Means(NamedTuple):
    """Posterior means of images, float64 on the CPU. D: latents of all groups, the top one first."""

    mean: Tensor  # (B, D) of q(z|x), or of the draws where q does not know its mean
    error: Tensor  # (B, D) the variance of `mean` as an estimate: 0 where it is exact


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
    until: nats. The number of samples (rounded up to blocks of SAMPLES) doubles until the block's mean log p(x) has
        changed by less. None: `samples` it is.
    """
    count = len(x)
    if until is not None:
        samples = math.ceil(samples / SAMPLES) * SAMPLES
    x, y = filled(x, images), None if y is None else filled(y, images)
    weights: list[Tensor] = []  # their logarithms, (at most SAMPLES, B) each
    last = math.inf  # the block's mean log p(x) from half as many samples
    sums: list[Tensor] = []  # over the samples, of: rates (B, L), distortion (B,), z, z^2 (B, D)
    start = 0
    while start < samples:
        with fixed_noise(noise_seed(*seeds, start // SAMPLES), x.device):
            trace = vae(x, y, SAMPLES)
        kept = slice(0, min(SAMPLES, samples - start)), slice(0, count)
        rates = torch.stack([precise(latent.log_q[kept]) - precise(latent.log_p[kept]) for latent in trace.latents], -1)
        log_px_z = precise(trace.px.log_prob(x)[kept])
        weights.append(log_px_z - rates.sum(-1))
        z = torch.cat([precise(latent.z[kept]) for latent in trace.latents], -1)
        more = [part.sum(0) for part in (rates, -log_px_z, z, z**2)]
        sums = [before + part for before, part in zip(sums, more, strict=True)] if sums else more
        if start == 0:
            top = trace.latents[0]
            first = top.z[0, :count].clone(), precise(top.log_q[0, :count]), precise(top.log_p[0, :count])
            known = torch.cat([known_mean(latent, images)[:count] for latent in trace.latents], -1)
            if all(map(is_one_code, trace.latents)):  # further draws would be the same
                advance("rows", max(samples - SAMPLES, 0) * count)
                samples, until = min(samples, SAMPLES), None
        advance("rows", log_px_z.numel())
        start += SAMPLES
        if until is not None and start == samples:
            now = torch.cat(weights).logsumexp(0).mean().item() - math.log(samples)
            samples *= 2 if abs(now - last) >= until else 1
            last = now
    mean_rates, distortion, mean, square = (part / samples for part in sums)
    error = (square - mean**2) / (samples - 1) if samples > 1 else torch.full_like(mean, torch.nan)
    mean, error = torch.where(known.isnan(), mean, known), torch.where(known.isnan(), error, 0.0)
    log_px, effective, k = from_weights(torch.cat(weights).cpu(), any(map(is_one_code, trace.latents)))
    numbers = torch.full((count,), samples)
    measured = Measured(log_px, mean_rates, distortion, numbers, effective, k, *first)
    return Measured(*(part.cpu() for part in measured))._replace(z=measured.z), Means(mean.cpu(), error.cpu())


def from_weights(log_w: Tensor, one_code: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of importance weights (K, B): log p(x), the effective sample size and Pareto k-hat, (B,) each.

    one_code: all draws of an image are the same. Their weights are equal, and still no estimate: the last two are NaN.
    """
    log_sum = log_w.logsumexp(0)
    log_px = log_sum - math.log(len(log_w))
    if one_code:
        return log_px, *torch.full((2, len(log_px)), torch.nan, dtype=log_px.dtype)
    return log_px, (2 * log_sum - (2 * log_w).logsumexp(0)).exp(), pareto_k(log_w)


def precise(t: Tensor) -> Tensor:
    """`t` in float64 on its device, or on the CPU where the device has no float64 (MPS).

    So nothing waits for a GPU before the end of a block.
    """
    return (t.cpu() if t.device.type == "mps" else t).double()


def is_one_code(latent: Latent) -> bool:
    """Whether q(z|x) has all its mass on one code, so that all draws are the same."""
    return getattr(latent.q, "is_point", False)


def known_mean(latent: Latent, images: int) -> Tensor:
    """E[z|x] (B, D); NaN if q does not know it: a flow has no closed form, and below the top q depends on the draws."""
    q = latent.q
    if isinstance(q, NormalizingFlow) or len(q.batch_shape) > 1:
        return precise(latent.z.new_full((images, q.event_shape[0]), torch.nan))
    return precise(q.mean)
