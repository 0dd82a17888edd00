"""The standard normal prior."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from cvae.priors.prior import Prior


class StandardNormal(Prior):
    """p(z) = N(0, I)."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)

    def __init__(self, latent_dim: int, image_shape: Sequence[int] | None = None):
        super().__init__()
        # Buffers move to the model's device; the checkpoint does not need them, since they follow from the config.
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        return Independent(Normal(self.mean, self.scale, validate_args=False), 1, validate_args=False)
