"""The uniform prior on a sphere."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions import UniformSphere
from cvae.priors.prior import Prior


class UniformSpherePrior(Prior):
    """p(z) = 1 / area of the unit sphere of R^D, the same everywhere."""

    sphere = True
    like: Tensor  # (D,)

    def __init__(self, latent_dim: int, image_shape: Sequence[int] | None = None):
        super().__init__()
        self.register_buffer("like", torch.zeros(latent_dim), persistent=False)  # moves with the model

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        return UniformSphere(self.like)
