"""The latents of a set of images: the aggregate posterior, dimension by dimension."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from cvae.distributions import factorizes, has_density
from cvae.evaluation.batches import Batch
from cvae.models.latent_paths import posterior_mean
from cvae.models.vae import VAE


class Latents(NamedTuple):
    """The latents of N images, of D dimensions, on the CPU."""

    means: Tensor  # (N, D) of q(z|x)
    draws: Tensor  # (N, D) one draw of each q(z|x): a sample of the aggregate posterior
    rate: Tensor  # (D,) nats per image, the rate of each dimension; of codes without noise their standard deviations
    exact: bool | None  # whether the rate is the KL divergence, or an estimate by variances; None: there is no rate

    @property
    def mean(self) -> Tensor:
        """Mean of the aggregate posterior in each dimension: (D,)."""
        return self.draws.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation of the aggregate posterior in each dimension: (D,)."""
        return self.draws.std(0, correction=0)

    def at(self, units: Tensor, dims: list[int]) -> Tensor:
        """Values of z (len(dims), S), `units` (S,) standard deviations of the aggregate posterior from its mean."""
        return self.mean[dims, None] + units * self.std[dims, None]

    def units(self, z: Tensor) -> Tensor:
        """z (..., D) in standard deviations of the aggregate posterior from its mean: the inverse of `at`."""
        return (z - self.mean) / self.std.clamp(min=1e-6)

    @property
    def order(self) -> list[int]:
        """The dimensions, that of the highest rate first."""
        return self.rate.argsort(descending=True).tolist()


@torch.no_grad()
def latents(vae: VAE, batches: Iterable[Batch]) -> Latents:
    """The latents of the images in `batches`: x (B, C, H, W) and y (B,), None for a model without classes.

    If posterior and prior are independent over the dimensions, the rate of dimension d is KL(q(z_d|x) || p(z_d)),
    averaged over the images. Otherwise the KL does not split up, and the figure estimates how much z_d tells of x: the
    capacity of a Gaussian channel, log(V / v) / 2, where V is the variance of the aggregate posterior and v that of
    q(z_d|x), averaged over the images. A posterior without a density has no such channel: there the variance alone
    ranks the dimensions.
    """
    p = vae.p_z()
    parts = []
    for x, y in batches:
        q = vae.encode(x, y)
        parts.append(of_batch(q, p))
    means, first, second, rates = (torch.cat(part) for part in zip(*parts, strict=True))
    if not has_density(q):
        return Latents(means, first, means.std(0, correction=0), None)
    exact = not rates.isnan().any()
    inside = (first - second).square().mean(0) / 2  # the variance of two draws, without bias
    across = torch.cat([first, second]).var(0, correction=0)
    return Latents(means, first, rates.mean(0) if exact else (across / inside).log().clamp(min=0) / 2, bool(exact))


def of_batch(q: Distribution, p: Distribution) -> tuple[Tensor, ...]:
    """Means, two draws, and the rate of each dimension, NaN where it has none: (B, D) each, on the CPU."""
    first, second = q.sample((2,))
    rate = torch.full_like(first, torch.nan)
    if factorizes(q) and factorizes(p):
        rate = kl_divergence(q.base_dist, p.base_dist)
    return tuple(part.cpu() for part in (posterior_mean(q), first, second, rate))


class Traversal(NamedTuple):
    """Single dimensions of an image's z, moved through the aggregate posterior."""

    images: Tensor  # (D', S, C, H, W) means of p(x|z)
    dims: list[int]  # D' of them, that of the highest rate first
    units: list[float]  # S, where the dimension is: standard deviations of the aggregate posterior from its mean
    own: list[float]  # D', where the image itself is
    rate: list[float]  # D', nats
    exact: bool | None  # as in `Latents`


@torch.no_grad()
def traverse(vae: VAE, found: Latents, x: Tensor, y: Tensor | None, dims: int, steps: int) -> Traversal:
    """The `dims` dimensions of the highest rates, from -3 to 3 in `steps`, around an image x (1, C, H, W), y (1,).

    One dimension moves, and the others stay where the image is. The unit is the aggregate posterior's standard
    deviation, not that of q(z|x): within the latter, images hardly change where z tells much of x. And it counts from
    the aggregate posterior's mean, so that no z leaves the region from which the decoder has learned.
    """
    chosen, units = found.order[:dims], torch.linspace(-3, 3, steps)
    images = vae.traverse(x, y, chosen, found.at(units, chosen))[:, :, 0]
    own = found.units(posterior_mean(vae.encode(x, y)).cpu())[0, chosen]
    return Traversal(images, chosen, units.tolist(), own.tolist(), found.rate[chosen].tolist(), found.exact)
