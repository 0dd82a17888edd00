"""Priors: () -> p(z), a Distribution with event (D,).

Each is built from latent_dim (D), image_shape (what the encoder reads) and encode, a Module x -> q(z|x); most need D alone.
"""

import math

import torch
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from zuko.flows import NSF

from cvae.distributions import Mixture, near_identity
from cvae.errors import ConfigError, positive_int, positive_number


class StandardNormal(nn.Module):
    """p(z) = N(0, I)."""

    def __init__(self, latent_dim: int, image_shape=None, encode: nn.Module | None = None):
        super().__init__()
        # Not in the checkpoint: they follow from the config. Buffers, so that they move with the model.
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        return Independent(Normal(self.mean, self.scale, validate_args=False), 1, validate_args=False)


class MixtureOfGaussians(nn.Module):
    """p(z) = sum_k w_k N(z; mean_k, diag(exp(logvar_k))), all learned.

    Starts with equal weights, variances 1/2 and means from N(0, I/2): near N(0, I), with components that differ.

    Args:
        components: how many Gaussians

    Raises:
        ConfigError: `components` is not a positive integer.
    """

    def __init__(self, latent_dim: int, image_shape=None, encode: nn.Module | None = None, components: int = 10):
        super().__init__()
        positive_int("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, latent_dim) * 0.5**0.5)
        self.logvar = nn.Parameter(torch.full((components, latent_dim), math.log(0.5)))

    def forward(self) -> Distribution:
        scale = (self.logvar / 2).exp()
        gaussians = Independent(Normal(self.mean, scale, validate_args=False), 1, validate_args=False)
        return Mixture(Categorical(logits=self.logits, validate_args=False), gaussians, validate_args=False)


class VampPrior(nn.Module):
    """p(z) = 1/K sum_k q(z|u_k) over learned pseudo-inputs u_k in [0, 1] (Tomczak and Welling 2018, eq. 9).

    q is the model's own encoder and posterior, which this prior trains too. As in the authors' code the pseudo-inputs start
    from a normal distribution and are cut off at 0 and 1. With labels, they hold the label planes too. Each call encodes all
    of them: keep the distribution where it is used several times with the same weights. Any posterior will do; IAF is slow
    here, since each z is taken back through the flow of each component.

    Args:
        image_shape: (C, H, W) of what the encoder reads
        encode: x (K, C, H, W) -> q(z|x), shared with the model
        components: K
        pseudo_mean, pseudo_std: of the normal distribution that the pixels of the pseudo-inputs start from

    Raises:
        ConfigError: `components` is not a positive integer, `pseudo_mean` not from 0 to 1, or `pseudo_std` not above 0.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape,
        encode: nn.Module,
        components: int = 500,
        pseudo_mean: float = 0.05,
        pseudo_std: float = 0.01,
    ):
        super().__init__()
        shape = (positive_int("components", components), *image_shape)
        if not isinstance(pseudo_mean, (int, float)) or not 0 <= pseudo_mean <= 1:
            raise ConfigError("pseudo_mean", pseudo_mean, "a number from 0 to 1")
        self.pseudo_inputs = nn.Parameter(pseudo_mean + positive_number("pseudo_std", pseudo_std) * torch.randn(shape))
        # In a tuple, so that the model's weights are not in its checkpoint twice. A copy of the model shares the copy's.
        self.shared = (encode,)
        self.register_buffer("logits", torch.zeros(components), persistent=False)  # equal weights 1/K

    def forward(self) -> Distribution:
        q = self.shared[0](self.pseudo_inputs.clamp(0, 1))  # batch (K,), event (D,)
        return Mixture(Categorical(logits=self.logits, validate_args=False), q, validate_args=False)


class FlowPrior(nn.Module):
    """p(z) by an autoregressive neural spline flow (Durkan et al. 2019) on N(0, I), which it starts close to.

    `log_prob` takes one network pass a transform, a draw D passes. The splines bend [-5, 5] in each dimension; outside the
    tails stay those of N(0, 1).

    Args:
        transforms: how many autoregressive transforms; their order turns round from one to the next
        hidden: units in each of the two hidden layers of each masked network (none is needed for one dimension)
        bins: pieces of each spline

    Raises:
        ConfigError: `transforms` or `hidden` is not a positive integer, or `bins` not one of at least 2.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape=None,
        encode: nn.Module | None = None,
        transforms: int = 3,
        hidden: int = 128,
        bins: int = 8,
    ):
        super().__init__()
        if positive_int("bins", bins) < 2:
            raise ConfigError("bins", bins, "an integer of at least 2")
        positive_int("transforms", transforms)
        hidden_features = [positive_int("hidden", hidden)] * 2
        # For one dimension zuko has no network, and takes no options of one.
        options = {"hidden_features": hidden_features} if latent_dim > 1 else {}
        self.flow = NSF(latent_dim, transforms=transforms, bins=bins, **options)
        for transform in self.flow.transform.transforms:
            near_identity(transform)

    def forward(self) -> Distribution:
        return self.flow()
