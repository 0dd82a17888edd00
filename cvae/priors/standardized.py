"""A prior for latents of any mean and scale."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import AffineTransform, Distribution
from zuko.distributions import NormalizingFlow

from cvae.priors.prior import Prior


class Standardized(Prior):
    """A prior of (z - loc) / scale, for one that expects latents of about N(0, I), as a spline flow does.

    loc and scale are set when it is fitted to draws (`cvae.evaluation.fit`).

    Args:
        prior: latent_dim, image_shape -> the prior of D dimensions, as `FlowPrior`
    """

    loc: Tensor  # (D,)
    scale: Tensor  # (D,)

    def __init__(self, latent_dim: int, image_shape: Sequence[int] | None, prior: Callable[..., Prior]):
        super().__init__()
        self.prior = prior(latent_dim=latent_dim, image_shape=image_shape)
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        away = AffineTransform(-self.loc / self.scale, 1 / self.scale, event_dim=1)  # zuko's flows take z to the base
        return NormalizingFlow(away, self.prior(infer))
