"""The VAE/GAN."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cvae.checks import positive_int, positive_number
from cvae.models.vae import VAE
from cvae.objectives.critic import ImageCritic, fixed
from cvae.objectives.infovae import draws
from cvae.objectives.terms import Objective, Terms, only_group, penalized, weigh


class VAEGAN(Objective):
    """rate + similarity + weight * fooled, with a critic of images (Larsen et al. 2016, algorithm 1).

    The critic learns to tell images x from the means of p(x|z), for z of q(z|x) and of the prior, by the cross entropy.
    What the images have in common with their reconstructions is measured in its last hidden layer (eq. 7):

        similarity = |h(x) - h(E[x|z])|^2 / 2, z ~ q(z|x)

    `fooled` is -log of the probability that the critic takes decoded images for true ones. By it the decoder alone
    learns, at draws of which the encoder learns nothing; by the similarity both do. The paper takes these steps in
    turn, and weighs the decoder's similarity by gamma; as Adam ignores a factor of the whole, weight = 1 / gamma. Here
    all are in one backward pass: the model's gradient does not depend on the critic's loss, nor the critic's on the
    rest. The likelihood gives distortion and ELBO, which are reported and not trained for.

    Args:
        image_shape: (C, H, W)
        weight: of `fooled`, above 0
        width: channels of the critic's first layer; each further one doubles them
        layers: how many of these, each of which halves height and width

    Raises:
        ConfigError: a value is not allowed; at the first call, there are several groups of latents.
    """

    def __init__(self, image_shape: Sequence[int], weight: float = 1, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.weight = positive_number("weight", weight)
        self.critic = ImageCritic(image_shape, positive_int("width", width), positive_int("layers", layers))

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        latent = only_group(trace, "vae_gan")
        weights = weigh(trace, x)
        distortion, rate = weights.distortion[0], weights.rates[0][0]
        hidden, _ = fixed(self.critic, torch.cat([x, trace.px.mean[0]]))
        similarity = (hidden[: len(x)] - hidden[len(x) :]).square().sum(-1) / 2
        z = torch.stack([latent.z[0], draws(latent.p, len(x))]).detach()
        decoded = vae.likelihood_of(z, y).mean  # (2, B, C, H, W)
        fooled = F.softplus(-fixed(self.critic, decoded.flatten(0, 1))[1]).unflatten(0, (2, -1)).mean(0)
        true, made = self.critic(x)[1], self.critic(decoded.detach().flatten(0, 1))[1].unflatten(0, (2, -1))
        told_apart = (F.softplus(-true) + F.softplus(made).mean(0)) / 2
        loss = penalized(rate + similarity + self.weight * fooled + told_apart, trace)
        parts = {"similarity": similarity, "fooled": fooled, "critic": told_apart, **trace.penalties}
        return Terms(loss, -distortion - rate, rate, distortion, parts)
