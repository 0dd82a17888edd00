"""What a trained VAE is measured by: importance-sampled log p(x), rate, distortion, active units, aggregate posterior.

The noise of draw k for image i is a function of (seed, i, k) and the kind of device: it is drawn in blocks of a fixed number of
images and samples, each from its own seed and always as a whole, what is not needed being thrown away. So the draws are exactly
the same however the images come in batches, how many of them there are, how many samples are asked for and whatever `chunk` is.
The figures differ with `chunk` by float rounding alone, since a decoder sums in another order for another batch size.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from zuko.distributions import NormalizingFlow

from cvae.checks import positive_int, seed_number
from cvae.distributions import rsample_and_log_prob
from cvae.errors import NotFinite
from cvae.noise import fixed_noise
from cvae.vae import VAE

BLOCK_IMAGES, BLOCK_SAMPLES = 100, 50  # the unit of randomness: other numbers are other draws
ACTIVE = 0.01  # variance of the posterior mean over images, above which a latent counts as active


class Figure(NamedTuple):
    """One measured number."""

    value: float | None  # None where it is not defined
    standard_error: float | None  # over images; None where there is none
    unit: str


class Block(NamedTuple):
    """What the draws say of each image of a block; nats, float64 on the CPU."""

    log_px: Tensor  # (B,) the importance-sampled log p(x)
    rate: Tensor  # (B,) mean over samples of log q(z|x) - log p(z)
    distortion: Tensor  # (B,) mean over samples of -log p(x|z)
    mean: Tensor  # (B, D) of q(z|x); of a flow the mean of the draws, since it does not know its own
    mean_error: Tensor  # (B, D) the variance of `mean` as an estimate: 0 where it is exact
    z: Tensor  # (B, D) the first draw, in the model's type and on its device
    log_q: Tensor  # (B,) of that draw
    log_pz: Tensor  # (B,) of that draw


@torch.no_grad()
def evaluate(
    vae: VAE,
    batches: Iterable[tuple[Tensor, Tensor]],
    samples: int,
    seed: int = 0,
    aggregate_images: int = 2000,
    chunk: int = 1000,
    advance: Callable[[str, int], None] = lambda what, count: None,
) -> dict[str, Figure]:
    """All figures of a model over a set of images, in the model's own state (eval() is the caller's).

    nll, elbo, rate and distortion share the same draws; elbo = -rate - distortion. The expected nll falls with the number of
    samples towards -log p(x) (Burda et al. 2016, theorem 1). Standard errors are over images.

    mutual_information I_q(x; z), aggregate_kl KL(q(z) || p(z)) and aggregate_rate, their sum exactly (Hoffman and Johnson
    2016), are over the first `aggregate_images` images with a draw each: see `aggregate`. The first two are None where a
    posterior's density of foreign z is NaN, as that of an ill-conditioned full covariance can be in float32.

    bits_per_dim is nll / (C H W ln 2) where the likelihood is a mass over 256 grey levels, and None elsewhere: a density has
    no bits without a unit of the pixels, and binary images are reported in nats.

    Args:
        vae: the model
        batches: (x (B, C, H, W), y (B,)) in batches of any size, on the model's device
        samples: importance samples an image
        seed: of the noise, 0 to 4294967295
        aggregate_images: at most so many images for the aggregate posterior, whose cost grows with their square; with a
            posterior that scores foreign z slowly (an inverse autoregressive flow takes D passes) most of the time goes there
        chunk: rows (an image with a sample) that are decoded at once, and pairs (a draw with an image) that are scored at
            once but at least BLOCK_IMAGES: memory and speed. More than BLOCK_IMAGES * BLOCK_SAMPLES decode no faster.
        advance: called with ("rows", n) after n decoded rows, in all images * samples of them, and with ("pairs", n) after n
            pairs, in all the square of the images of the aggregate posterior

    Raises:
        ConfigError: a number is out of its range.
        NotFinite: a figure is NaN or infinite.
    """
    for key, value in (("samples", samples), ("aggregate_images", aggregate_images), ("chunk", chunk)):
        positive_int(key, value)
    seed_number("seed", seed)
    prior, measured, kept = vae.p_z(), [], []
    for index, (x, y) in enumerate(blocks(batches)):
        measured.append(measure(vae, prior, x, y, samples, seed, index, chunk, advance))
        if index * BLOCK_IMAGES < aggregate_images:
            kept.append((x, y))
    dims = x[0].numel()
    every = Block(*(torch.cat(parts) for parts in zip(*measured, strict=True)))
    log_px, rate, distortion = every.log_px, every.rate, every.distortion

    z, log_q, log_pz = (part[:aggregate_images] for part in (every.z, every.log_q, every.log_pz))
    x, y = (torch.cat(parts)[:aggregate_images] for parts in zip(*kept, strict=True))
    log_qz = aggregate(vae, x, y, z, log_q, chunk, advance)

    scored = bool(log_qz.isfinite().all())
    nll = over_images(-log_px)
    figures = {
        "nll": nll,
        "elbo": over_images(-rate - distortion),
        "rate": over_images(rate),
        "distortion": over_images(distortion),
        "bits_per_dim": bits_per_dim(vae.likelihood, nll, dims),
        "active_units": active_units(every.mean, every.mean_error),
        "mutual_information": over_images(log_q - log_qz) if scored else Figure(None, None, "nats"),
        "aggregate_kl": over_images(log_qz - log_pz) if scored else Figure(None, None, "nats"),
        "aggregate_rate": over_images(log_q - log_pz),
    }
    if bad := [f"{name} is {figure.value}" for name, figure in figures.items() if not math.isfinite(figure.value or 0)]:
        raise NotFinite(f"evaluation of {len(log_px)} images: {', '.join(bad)}")
    return figures


def measure(
    vae: VAE, prior: Distribution, x: Tensor, y: Tensor, samples: int, seed: int, index: int, chunk: int, advance
) -> Block:
    """Importance sampling for the images x (B, C, H, W), y (B,) of block `index`, B at most BLOCK_IMAGES.

    log p(x) is estimated by log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) (Burda et al. 2016, eq. 8), as a running logsumexp.
    """
    images = len(x)
    q = vae.encode(filled(x), filled(y))
    log_px = torch.full((images,), -torch.inf, dtype=torch.float64)
    totals = []  # over the samples of a block, of: rate, distortion (B,), z, z^2 (B, D)
    for start in range(0, samples, BLOCK_SAMPLES):
        with fixed_noise(noise_seed(seed, index, start // BLOCK_SAMPLES), x.device):
            z, log_q = rsample_and_log_prob(q, (BLOCK_SAMPLES,))  # (S, B, D), (S, B)
        z, log_q = z[: samples - start, :images], log_q[: samples - start, :images].cpu().double()
        log_pz, log_px_z = log_densities(vae, prior, x, y, z, chunk, advance)
        log_px = torch.logaddexp(log_px, (log_px_z + log_pz - log_q).logsumexp(0))
        exact_z = z.cpu().double()
        totals.append([part.sum(0) for part in (log_q - log_pz, -log_px_z, exact_z, exact_z**2)])
        if start == 0:
            first = z[0].clone(), log_q[0], log_pz[0]  # a clone, so that the block can go
    rate, distortion, mean, square = (sum(parts) / samples for parts in zip(*totals, strict=True))
    if isinstance(
        q, NormalizingFlow
    ):  # E[z] has no closed form; from a single draw the error of its estimate is not known
        mean_error = (square - mean**2) / (samples - 1) if samples > 1 else torch.full_like(mean, torch.nan)
    else:
        mean, mean_error = q.mean[:images].cpu().double(), torch.zeros_like(mean)
    return Block(log_px - math.log(samples), rate, distortion, mean, mean_error, *first)


def log_densities(
    vae: VAE, prior: Distribution, x: Tensor, y: Tensor, z: Tensor, chunk: int, advance
) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x|z) of z (S, B, D) for x (B, C, H, W), y (B,): each (S, B), in nats, `chunk` rows at a time."""
    log_pz, log_px_z = z.new_empty(2, *z.shape[:2])
    images = min(z.shape[1], chunk)
    for s in range(0, z.shape[0], chunk // images):
        for b in range(0, z.shape[1], images):
            rows = slice(s, s + chunk // images), slice(b, b + images)
            log_pz[rows] = prior.log_prob(z[rows])
            log_px_z[rows] = vae.decode(z[rows], y[rows[1]]).log_prob(x[rows[1]])
            advance("rows", z[rows].shape[:2].numel())
    return log_pz.cpu().double(), log_px_z.cpu().double()


def aggregate(vae: VAE, x: Tensor, y: Tensor, z: Tensor, log_q: Tensor, chunk: int, advance) -> Tensor:
    """log q(z) (N,) in nats, for one draw z (N, D) from each of the posteriors of x (N, C, H, W), y (N,), log_q (N,) its own.

    q(z) = 1/N sum_j q(z|x_j) over these N images, the draw's own among them. For the N images as the whole population
    (Hoffman and Johnson 2016, where x is an index) the mean of log q(z|x) - log q(z) estimates I_q(x; z) without bias. As an
    estimate for the distribution that the images come from it is a lower bound in expectation, never above log N (van den
    Oord et al. 2018; Poole et al. 2019, eq. 12), and KL(q(z) || p(z)) is too high by as much. Near log N take more images.
    """
    log_qz = torch.full((len(z),), -torch.inf, dtype=torch.float64)
    for start in range(0, len(x), BLOCK_IMAGES):
        part = slice(start, start + BLOCK_IMAGES)
        images = len(x[part])
        q = vae.encode(x[part], y[part])
        draws = max(1, chunk // images)
        for i in range(0, len(z), draws):
            foreign = z[i : i + draws, None].expand(-1, images, -1)  # (Z, B, D)
            log_each = q.log_prob(foreign).cpu().double()  # (Z, B)
            # A posterior knows the density of its own draw to more digits than it finds by going back from z.
            own = torch.arange(i, i + len(log_each))[:, None] == torch.arange(start, start + images)
            log_each = torch.where(own, log_q[i : i + draws, None], log_each)
            log_qz[i : i + draws] = torch.logaddexp(log_qz[i : i + draws], log_each.logsumexp(1))
            advance("pairs", log_each.numel())
    return log_qz - math.log(len(x))


def active_units(mean: Tensor, mean_error: Tensor) -> Figure:
    """How many latents have a posterior mean (N, D) whose variance over the images is above 0.01 (Burda et al. 2016, 5.2).

    Where the means are estimates, their own variance (N, D) is taken off; not defined where that is unknown.
    """
    variance = mean.var(0, correction=0) - mean_error.mean(0)
    known = not variance.isnan().any()
    return Figure((variance > ACTIVE).sum().item() if known else None, None, f"of {mean.shape[1]} latents")


def bits_per_dim(likelihood, nll: Figure, dims: int) -> Figure:
    """`nll` in bits a colour value, of which an image has `dims`; not defined unless it is of a mass over 256 levels."""
    if not (likelihood.is_mass and "levels" in likelihood.describes):
        return Figure(None, None, "bits")
    scale = dims * math.log(2)
    return Figure(nll.value / scale, nll.standard_error and nll.standard_error / scale, "bits")


def over_images(values: Tensor) -> Figure:
    """The mean of one value in nats an image (N,), and its standard error."""
    error = (values.std() / len(values) ** 0.5).item() if len(values) > 1 else None
    return Figure(values.mean().item(), error, "nats")


def blocks(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (x, y) of any sizes, regrouped into blocks of BLOCK_IMAGES; the last one may be smaller."""
    held = None
    for batch in batches:
        held = [torch.cat(parts) for parts in zip(held, batch, strict=True)] if held else list(batch)
        while len(held[0]) >= BLOCK_IMAGES:
            yield tuple(part[:BLOCK_IMAGES] for part in held)
            held = [part[BLOCK_IMAGES:] for part in held]
    if held and len(held[0]):
        yield tuple(held)


def filled(part: Tensor) -> Tensor:
    """The images or labels of a block, the last one repeated up to BLOCK_IMAGES, so that noise has the same shape for each."""
    return torch.cat([part, part[-1:].expand(BLOCK_IMAGES - len(part), *part.shape[1:])])


def noise_seed(seed: int, image_block: int, sample_block: int) -> int:
    """A seed of its own for the noise of every block, by hashing."""
    return int(np.random.SeedSequence([seed, image_block, sample_block]).generate_state(1, np.uint64)[0])
