"""The inverse autoregressive flow."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.flows import MaskedAutoregressiveTransform
from zuko.transforms import ComposedTransform

from cvae.checks import positive_int
from cvae.distributions import Flow, scratch, stable
from cvae.posteriors.gaussian import diagonal_normal
from cvae.posteriors.posterior import Posterior


class IAF(Posterior):
    """The inverse autoregressive flow of Kingma et al. 2016.

    z = f_T(... f_1(z_0, h) ..., h), z_0 ~ N(mean, diag(exp(logvar))). Each f scales and shifts every dimension of its
    input; a masked network computes scale and shift from the dimensions before it and from the context h. The order of
    the dimensions is reversed from one f to the next. A draw together with its log-density takes one network pass per f
    (`rsample_and_log_prob`); `log_prob` of any other z inverts the flow, one dimension after the other.

    The scale is exp(a) with |a| < 6.9, where the paper has a sigmoid. All f start close to the identity.

    Features: mean (D), then log-variance (D), then h (context). The distribution's `mean` is not E[z]: see `Flow`.

    Args:
        transforms: how many f
        hidden: units in each of the two hidden layers of each masked network
        context: how many numbers h has

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
            stable(
                MaskedAutoregressiveTransform(
                    latent_dim, context, order=orders[i % 2], hidden_features=hidden_features, activation=nn.ELU
                )
            )
            for i in range(positive_int("transforms", transforms))
        )

    def forward(self, features: Tensor) -> Distribution:
        mean, logvar, context = features.split(self.sizes, dim=-1)
        forward = ComposedTransform(*(transform(context) for transform in self.transforms))  # z_0 -> z
        q = Flow(forward.inv, diagonal_normal(mean, logvar))  # zuko's flows take the inverse, z -> z_0
        q.scratch = partial(scratch, self.transforms)
        return q
