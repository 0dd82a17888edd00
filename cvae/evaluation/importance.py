"""Importance sampling of log p(x), and rate, distortion and what single latents say from the same draws."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cvae.distributions import Codes
from cvae.distributions.precision import precise
from cvae.evaluation.batches import SAMPLES, Batch, filled
from cvae.evaluation.pareto import pareto_k
from cvae.evaluation.settings import Settings
from cvae.evaluation.units import Means, code_sums, known_mean, means_of, shifts
from cvae.models.trace import Latent, Trace
from cvae.models.vae import VAE
from cvae.runtime.noise import fixed_noise, hashed_seed

MOST = 50_000  # samples of an image that `until` may take; published figures are of 5,000
ENOUGH = 50  # effective samples that tell the variance of the weights


class PerImage(NamedTuple):
    """The estimates for each image, in nats, float64 on the CPU. L: groups of latents, the top one first."""

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


class Draws:
    """Importance sampling for a block of images: `add` takes more draws, `result` says what all of them give.

    log p(x) is estimated by log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) (Burda et al. 2016, eq. 8). Its weights have the
    effective sample size of Kish: (sum w)^2 / sum w^2.

    Args:
        x: the whole block (images, C, H, W)
        count: B, how many of its images count; the others only fill it
    """

    def __init__(self, x: Tensor, count: int) -> None:
        self.x, self.count, self.samples = x, count, 0
        self.log_w: list[Tensor] = []  # (at most SAMPLES, B) each
        self.sums: list[Tensor] = []  # over the samples, of: rates (B, L), distortion (B,), shifts and their squares

    def add(self, trace: Trace, most: int) -> None:
        """The first `most` draws of a trace of the block, or all if it has fewer."""
        if not self.samples:
            self.keep_first(trace)
        kept = slice(0, most), slice(0, self.count)
        rates = torch.stack([precise(latent.log_q[kept]) - precise(latent.log_p[kept]) for latent in trace.latents], -1)
        log_px_z, shift = precise(trace.px.log_prob(self.x)[kept]), precise(shifts(trace.latents)[kept])
        self.log_w.append(log_px_z - rates.sum(-1))
        more = [part.sum(0) for part in (rates, -log_px_z, shift, shift**2)]
        self.sums = [before + part for before, part in zip(self.sums, more, strict=True)] if self.sums else more
        self.samples += len(log_px_z)

    def keep_first(self, trace: Trace) -> None:
        """Keep the first draw, and whatever is the same in all traces."""
        top, count = trace.latents[0], self.count
        self.first = top.z[0, :count].clone(), precise(top.log_q[0, :count]), precise(top.log_p[0, :count])
        self.known = precise(known_mean(trace.latents, len(self.x))[:count]).cpu()
        self.codes = precise(code_sums(top, count)).cpu() if isinstance(top.p, Codes) else None
        self.one_code = all(map(is_one_code, trace.latents))  # further draws would be the same

    def error(self) -> float:
        """`error_of` the block's mean log p(x)."""
        return error_of(torch.cat(self.log_w))

    def result(self, reached: bool = True) -> tuple[PerImage, Means]:
        """The estimates from all draws; reached: whether their error is as small as was asked for."""
        log_px, effective, k = from_weights(torch.cat(self.log_w).cpu(), self.one_code)
        rates, distortion, shift, square = self.sums
        numbers = torch.full((self.count,), self.samples), torch.full((self.count,), reached)
        found = PerImage(log_px, rates / self.samples, distortion / self.samples, *numbers, effective, k, *self.first)
        means = means_of(self.known, shift.cpu(), square.cpu(), self.samples, self.codes)
        return PerImage(*(part.cpu() for part in found))._replace(z=found.z), means


def measure_block(
    vae: VAE, block: Batch, number: int, images: int, settings: Settings, advance: Callable[[str, int], None]
) -> tuple[PerImage, Means]:
    """Importance sampling for a block of B images and its labels; a full block has `images`.

    With settings.until the number of samples, rounded up to whole blocks of SAMPLES, doubles until `error_of` the
    block's mean log p(x) is below it, or there would be more than MOST.

    number: of the block; with settings.seed it gives the noise. advance: called with ("rows", n) after n rows.
    """
    count, until, wanted, reached = len(block[0]), settings.until, settings.samples, True
    if until is not None:
        wanted = math.ceil(wanted / SAMPLES) * SAMPLES
    x, y = filled(block[0], images), None if block[1] is None else filled(block[1], images)
    draws = Draws(x, count)
    while draws.samples < wanted:
        with fixed_noise(hashed_seed(settings.seed, number, draws.samples // SAMPLES), x.device):
            trace = vae(x, y, SAMPLES)
        before = draws.samples
        draws.add(trace, wanted - before)
        advance("rows", (draws.samples - before) * count)
        if draws.one_code:
            advance("rows", (wanted - draws.samples) * count)
            break
        if until is not None and draws.samples == wanted:
            reached = draws.error() < until
            wanted *= 1 if reached or 2 * wanted > MOST else 2
    return draws.result(reached)


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
    """log p(x), the effective sample size and Pareto k-hat, (B,) each, from log-weights (K, B).

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
