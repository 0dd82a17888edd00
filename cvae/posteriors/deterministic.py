"""Codes without noise."""

from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions import Dirac
from cvae.posteriors.posterior import Posterior


class Deterministic(Posterior):
    """z is the features themselves, as in an autoencoder: there is no density, so no rate, no ELBO and no log p(x).

    It needs an objective that asks for none of these (`cvae.objectives.Autoencoder`, WAE, RAE, AAE).
    """

    deterministic = True

    def __init__(self, latent_dim: int):
        super().__init__()
        self.num_features = latent_dim

    def forward(self, features: Tensor) -> Distribution:
        return Dirac(features)
