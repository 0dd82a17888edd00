"""Gaussian posteriors."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from cvae.distributions import TriangularNormal
from cvae.posteriors.posterior import Posterior


class DiagonalGaussian(Posterior):
    """q(z|x) = N(mean, diag(exp(logvar))) (Kingma and Welling 2014, eq. 9). Features: mean (D), log-variance (D)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.num_features = 2 * latent_dim

    def forward(self, features: Tensor) -> Distribution:
        mean, logvar = features.chunk(2, dim=-1)
        return diagonal_normal(mean, logvar)


def diagonal_normal(mean: Tensor, logvar: Tensor) -> Distribution:
    """N(mean, diag(exp(logvar))) for mean and logvar (B, D): batch (B,), event (D,)."""
    return Independent(Normal(mean, (logvar / 2).exp(), validate_args=False), 1, validate_args=False)


class FullGaussian(Posterior):
    """q(z|x) = N(mean, L L^T), as TensorFlow Probability's MultivariateNormalTriL layer makes it.

    Features: mean (D), then D(D+1)/2 numbers that fill the lower triangle of L in a spiral (`fill_triangular`). On the
    diagonal of L stands softplus + 1e-5 of the number that falls there, so the diagonal is positive.
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.num_features = latent_dim + latent_dim * (latent_dim + 1) // 2

    def forward(self, features: Tensor) -> Distribution:
        mean, entries = features.split([self.latent_dim, self.num_features - self.latent_dim], dim=-1)
        filled = fill_triangular(entries, self.latent_dim)  # (B, D, D)
        diagonal = F.softplus(filled.diagonal(dim1=-2, dim2=-1)) + 1e-5
        return TriangularNormal(mean, scale_tril=filled.tril(-1) + diagonal.diag_embed(), validate_args=False)


def fill_triangular(entries: Tensor, n: int) -> Tensor:
    """(..., n(n+1)/2) -> lower triangular (..., n, n), in TensorFlow Probability's order.

    Examples:
        >>> fill_triangular(torch.arange(6), 3).tolist()
        [[3, 0, 0], [5, 4, 0], [2, 1, 0]]
    """
    return torch.cat([entries[..., n:], entries.flip(-1)], -1).unflatten(-1, (n, n)).tril()
