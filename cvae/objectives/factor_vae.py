"""FactorVAE."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cvae.checks import number, positive_int
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives.critic import critic, frozen, logits
from cvae.objectives.terms import Objective, Terms, only_group, penalized, refuse_codes, weigh


class FactorVAE(Objective):
    """distortion + rate + gamma TC, TC = KL(q(z) || prod_j q(z_j)) by a critic (Kim and Mnih 2018, eq. 2).

    The critic learns to tell draws of q(z) from draws of prod_j q(z_j), by the cross entropy. These are the batch's own
    draws, permuted in each dimension by itself (algorithm 1; the paper takes them from a second batch). Its logit is
    then log q(z) / prod_j q(z_j), whose mean over the batch is the total correlation. The loss holds the critic's too;
    the model's gradient does not depend on that, nor the critic's on the rest (algorithm 2).

    Args:
        latent_dim: D, which the critic reads
        gamma: weight of the total correlation
        hidden: units in each of the critic's hidden layers
        layers: how many of these

    Raises:
        ConfigError: a value is not allowed; at the first call, there are several groups of latents, or they are codes,
            or D is another.
    """

    def __init__(self, latent_dim: int, gamma: float = 10, hidden: int = 1000, layers: int = 5) -> None:
        super().__init__()
        self.latent_dim, self.gamma = positive_int("latent_dim", latent_dim), number("gamma", gamma)
        self.critic = critic(latent_dim, positive_int("hidden", hidden), positive_int("layers", layers))

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        latent = only_group(trace, "factor_vae")
        refuse_codes([latent], "objective", "factor_vae", "elbo or iwae")
        z = latent.z[0]
        if z.shape[-1] != self.latent_dim:
            raise ConfigError("objective.latent_dim", self.latent_dim, f"model.latent_dim, {z.shape[-1]}")
        weights = weigh(trace, x)
        distortion, rate = weights.distortion[0], weights.rates[0][0]
        correlation = frozen(self.critic, z)
        joint, product = logits(self.critic, z.detach()), logits(self.critic, permuted(z.detach()))
        told_apart = (F.softplus(-joint) + F.softplus(product)) / 2
        loss = penalized(distortion + rate + self.gamma * correlation + told_apart, trace)
        parts = {"total_correlation": correlation, "critic": told_apart, **trace.penalties}
        return Terms(loss, -distortion - rate, rate, distortion, parts)


def permuted(z: Tensor) -> Tensor:
    """z (B, D) with each dimension in an order of its own over the batch."""
    return z.gather(0, torch.rand_like(z).argsort(0))
