"""A learned mixture of Gaussians as prior."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from cvae.checks import positive_int
from cvae.distributions import Mixture
from cvae.priors.prior import Prior


class MixtureOfGaussians(Prior):
    """p(z) = sum_k w_k N(z; mean_k, diag(exp(logvar_k))), all learned.

    It starts with equal weights, variances 1/2 and means drawn from N(0, I/2): close to N(0, I), and no two components
    alike.

    Args:
        components: how many Gaussians

    Raises:
        ConfigError: `components` is not a positive integer.
    """

    def __init__(self, latent_dim: int, image_shape: Sequence[int] | None = None, components: int = 10):
        super().__init__()
        positive_int("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, latent_dim) * 0.5**0.5)
        self.logvar = nn.Parameter(torch.full((components, latent_dim), math.log(0.5)))

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        scale = (self.logvar / 2).exp()
        gaussians = Independent(Normal(self.mean, scale, validate_args=False), 1, validate_args=False)
        return Mixture(Categorical(logits=self.logits, validate_args=False), gaussians, validate_args=False)
