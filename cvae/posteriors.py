"""Posteriors: features (B, num_features) -> q(z|x), a Distribution with batch (B,) and event (D,)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from zuko.distributions import NormalizingFlow
from zuko.flows import MaskedAutoregressiveTransform
from zuko.transforms import ComposedTransform

from cvae.distributions import TriangularNormal, near_identity
from cvae.errors import positive_int


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(mean, diag(exp(logvar))) (Kingma and Welling 2014, eq. 9). Features: mean (D), then log-variance (D)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.num_features = 2 * latent_dim

    def forward(self, features: Tensor) -> Distribution:
        mean, logvar = features.chunk(2, dim=-1)
        return diagonal_normal(mean, logvar)


def diagonal_normal(mean: Tensor, logvar: Tensor) -> Distribution:
    """N(mean, diag(exp(logvar))) for mean and logvar (B, D): batch (B,), event (D,)."""
    return Independent(Normal(mean, (logvar / 2).exp(), validate_args=False), 1, validate_args=False)


class FullGaussian(nn.Module):
    """q(z|x) = N(mean, L L^T), L lower triangular, as TensorFlow Probability's MultivariateNormalTriL layer makes it.

    Features: mean (D), then D(D+1)/2 numbers that fill L in a spiral (`fill_triangular`). The diagonal of L is
    softplus + 1e-5 of what lands there, so that it is positive.
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

    For n = 3 the entries 0..5 land at [[3, ., .], [5, 4, .], [2, 1, 0]].
    """
    return torch.cat([entries[..., n:], entries.flip(-1)], -1).unflatten(-1, (n, n)).tril()


class IAF(nn.Module):
    """Inverse autoregressive flow (Kingma et al. 2016): z = f_T(... f_1(z_0, h) ..., h), z_0 ~ N(mean, diag(exp(logvar))).

    Each f scales and shifts every dimension by what a masked network reads in the dimensions before it and in the context
    h; the order turns round from one f to the next. A draw and its own log-density take one network pass a transform
    (`rsample_and_log_prob`); `log_prob` of any other z inverts the flow, in D passes a transform.

    The scale is exp(a) with |a| < 6.9 where the paper has a sigmoid, and all f start close to the identity.

    Features: mean (D), then log-variance (D), then h (context). The distribution's `mean` is not E[z]: see `Flow`.

    Args:
        transforms: how many f
        hidden: units in each of the two hidden layers of each masked network
        context: numbers in h

    Raises:
        ConfigError: one of them is not a positive integer.
    """

    def __init__(self, latent_dim: int, transforms: int = 4, hidden: int = 128, context: int = 64):
        super().__init__()
        self.sizes = [latent_dim, latent_dim, positive_int("context", context)]
        self.num_features = sum(self.sizes)
        hidden_features = [positive_int("hidden", hidden)] * 2
        orders = [torch.arange(latent_dim), torch.arange(latent_dim).flip(0)]
        self.transforms = nn.ModuleList(
            near_identity(
                MaskedAutoregressiveTransform(
                    latent_dim, context, order=orders[i % 2], hidden_features=hidden_features, activation=nn.ELU
                )
            )
            for i in range(positive_int("transforms", transforms))
        )
        self.scratch = transforms * latent_dim * (latent_dim + context + 4 * hidden)

    def forward(self, features: Tensor) -> Distribution:
        mean, logvar, context = features.split(self.sizes, dim=-1)
        forward = ComposedTransform(*(transform(context) for transform in self.transforms))  # z_0 -> z
        q = Flow(forward.inv, diagonal_normal(mean, logvar))  # zuko's flows are given by the way back, z -> z_0
        q.scratch = self.scratch  # floats that log_prob of one z keeps for the backward pass, about
        return q


class Flow(NormalizingFlow):
    """zuko's flow, batch (B,), event (D,), with a `mean` for pictures and for the variance of posterior means."""

    @property
    def mean(self) -> Tensor:
        """Where the flow takes the base's mean (B, D): a centre of the distribution, not E[z], which has no closed form."""
        return self.transform.inv(self.base.mean)
