"""Latents on a sphere."""

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import positive_int
from cvae.distributions import PowerSpherical
from cvae.errors import ConfigError
from cvae.posteriors.posterior import Posterior


class PowerSphericalPosterior(Posterior):
    """q(z|x) on the unit sphere of R^D, around a direction (De Cao and Aziz 2020; Davidson et al. 2018 for the VAE).

    The sphere of D numbers has D - 1 dimensions. Features: the direction (D), which is normalized, and a number whose
    softplus is the concentration.

    Raises:
        ConfigError: latent_dim is below 2.
    """

    sphere = True

    def __init__(self, latent_dim: int):
        super().__init__()
        if positive_int("latent_dim", latent_dim) < 2:
            raise ConfigError("latent_dim", latent_dim, "at least 2 for a sphere")
        self.num_features = latent_dim + 1

    def forward(self, features: Tensor) -> Distribution:
        return PowerSpherical(F.normalize(features[..., :-1], dim=-1), F.softplus(features[..., -1]))
