"""The adversarial autoencoder."""

import torch.nn.functional as F
from torch import Tensor

from cvae.checks import positive_int, positive_number
from cvae.distributions import Unknown, has_density
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives.critic import critic, frozen, logits
from cvae.objectives.infovae import draws
from cvae.objectives.terms import Objective, Terms, only_group, penalized, refuse_codes, weigh


class AAE(Objective):
    """distortion + weight * fooled, a critic's word for how far q(z) is from p(z) (Makhzani et al. 2015).

    The critic learns to tell draws of the prior from draws of q(z), by the cross entropy; `fooled`, -log of the
    probability that it takes draws of q(z) for the prior's, is what the encoder learns from beside the distortion. The
    paper takes these steps in turn, and here all are in one backward pass: the loss holds the critic's too, the model's
    gradient does not depend on that, nor the critic's on the rest.

    Near q(z) = p(z) the gradient of `fooled` is half of KL(q(z) || p(z))'s. A critic that learns as fast as the model
    soon tells all draws apart, and then its word is large and says little of where p(z) is; so it learns more slowly.

    q(z|x) is deterministic, or any other of numbers. With a density there is an ELBO, which is reported and not trained
    for.

    Args:
        latent_dim: D, which the critic reads
        weight: of `fooled`, above 0
        hidden: units in each of the critic's hidden layers
        layers: how many of these
        critic_lr: its learning rate, in parts of the model's: above 0

    Raises:
        ConfigError: a value is not allowed; at the first call, there are several groups of latents, or they are codes,
            D is another, or there is no prior.
    """

    deterministic = None
    trains_prior = False

    def __init__(
        self, latent_dim: int, weight: float = 1, hidden: int = 1000, layers: int = 2, critic_lr: float = 0.1
    ) -> None:
        super().__init__()
        self.lr_share = positive_number("critic_lr", critic_lr)
        self.latent_dim, self.weight = positive_int("latent_dim", latent_dim), positive_number("weight", weight)
        self.critic = critic(latent_dim, positive_int("hidden", hidden), positive_int("layers", layers))

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        latent = only_group(trace, "aae")
        refuse_codes([latent], "objective", "aae", "elbo or iwae")
        if isinstance(latent.p, Unknown):
            raise ConfigError(
                "objective", "aae", "autoencoder or rae with prior=none: aae draws the codes to the prior"
            )
        z = latent.z[0]
        if z.shape[-1] != self.latent_dim:
            raise ConfigError("objective.latent_dim", self.latent_dim, f"model.latent_dim, {z.shape[-1]}")
        fooled = F.softplus(-frozen(self.critic, z))
        of_prior, of_images = logits(self.critic, draws(latent.p, len(z)).detach()), logits(self.critic, z.detach())
        told_apart = (F.softplus(-of_prior) + F.softplus(of_images)) / 2
        parts = {"fooled": fooled, "critic": told_apart, **trace.penalties}
        weights = weigh(trace, x)
        distortion = weights.distortion[0]
        rate, bound = (weights.rates[0][0], weights.log_w[0]) if has_density(latent.q) else (None, None)
        return Terms(penalized(distortion + self.weight * fooled + told_apart, trace), bound, rate, distortion, parts)
