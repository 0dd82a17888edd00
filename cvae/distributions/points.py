"""Distributions without a density: codes without noise, and no p(z) at all."""

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size

from cvae.errors import ConfigError


class Dirac(Distribution):
    """All mass on one point of R^D, batch (B,), event (D,): the code of an autoencoder.

    It has no density, so log_prob is NaN: no rate, ELBO or log p(x) that is made of it can pass for a number.
    """

    arg_constraints = {}
    has_rsample = True

    def __init__(self, z: Tensor) -> None:
        super().__init__(z.shape[:-1], z.shape[-1:], validate_args=False)
        self.z = z

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """(*sample_shape, B, D), all alike."""
        return self.z.expand(*sample_shape, *self.z.shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return nowhere(z)

    @property
    def mean(self) -> Tensor:
        return self.z


class Unknown(Distribution):
    """No p(z): nothing is known of latents (D,) but their number."""

    arg_constraints = {}

    def __init__(self, dims: int) -> None:
        super().__init__(event_shape=torch.Size([dims]), validate_args=False)

    def log_prob(self, z: Tensor) -> Tensor:
        return nowhere(z)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Raises ConfigError: there is nothing to draw from."""
        raise ConfigError("prior", "none", "fitted to the codes before: python -m cvae fit-prior RUN prior=gmm")


def has_density(q: Distribution) -> bool:
    """Whether log_prob gives numbers: without them there are no rate, no ELBO and no log p(x)."""
    return not isinstance(q, Dirac | Unknown)


def nowhere(z: Tensor) -> Tensor:
    """NaN for each z (..., D): (...)."""
    return torch.full_like(z[..., 0], torch.nan)
