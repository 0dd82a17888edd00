"""The standard normal prior."""

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal


class StandardNormal(nn.Module):
    """p(z) = N(0, I)."""

    def __init__(self, latent_dim: int, image_shape=None):
        super().__init__()
        # Not in the checkpoint: they follow from the config. Buffers, so that they move with the model.
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, encode=None) -> Distribution:
        return Independent(Normal(self.mean, self.scale, validate_args=False), 1, validate_args=False)
