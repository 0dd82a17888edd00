"""DIP-VAE I and II."""

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from cvae.checks import number, one_of
from cvae.distributions import factorizes
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, only_group, penalized, weigh


class DIPVAE(Objective):
    """distortion + rate + lambda_od sum_{i != j} C_ij^2 + lambda_d sum_i (C_ii - 1)^2 (Kumar et al. 2018, eq. 6 and 7).

    C is a covariance over the images of the batch: of E[z|x] for DIP-VAE I; for II of z itself, to which E Cov[z|x] is
    added, so that C is that of the aggregate posterior. The loss depends on the batch around an image; rate and
    distortion do not.

    Args:
        variant: 1 or 2
        off_diagonal: lambda_od
        diagonal: lambda_d; the paper takes 10 lambda_od for I and lambda_od for II

    Raises:
        ConfigError: a value is not allowed; at the first call, there are several groups of latents, or the posterior
            knows no mean and covariance.
    """

    def __init__(self, variant: int = 1, off_diagonal: float = 10, diagonal: float = 100) -> None:
        super().__init__()
        self.variant = one_of("variant", variant, (1, 2))
        self.off_diagonal, self.diagonal = number("off_diagonal", off_diagonal), number("diagonal", diagonal)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        q = only_group(trace, "dip_vae").q
        weights = weigh(trace, x)
        distortion, rate = weights.distortion[0], weights.rates[0][0]
        penalty = self.penalty(q).expand_as(rate)
        loss = penalized(distortion + rate + penalty, trace)
        return Terms(loss, -distortion - rate, rate, distortion, {"dip": penalty, **trace.penalties})

    def penalty(self, q: Distribution) -> Tensor:
        """Of q(z|x), batch (B,): ()."""
        mean, inner = moments(q)
        centred = mean - mean.mean(0)
        covariance = centred.T @ centred / len(mean)
        if self.variant == 2:
            covariance = covariance + inner.mean(0)
        diagonal = covariance.diagonal()
        off = covariance.square().sum() - diagonal.square().sum()
        return self.off_diagonal * off + self.diagonal * (diagonal - 1).square().sum()


def moments(q: Distribution) -> tuple[Tensor, Tensor]:
    """E[z|x] (B, D) and Cov[z|x] (B, D, D); ConfigError where q is no Gaussian."""
    if factorizes(q) and isinstance(q.base_dist, Normal):
        return q.mean, torch.diag_embed(q.variance)
    if isinstance(q, MultivariateNormal):
        return q.mean, q.covariance_matrix
    allowed = "another objective, or posterior=diagonal_gaussian or full_gaussian: dip_vae needs the moments of q(z|x)"
    raise ConfigError("objective", "dip_vae", allowed)
