"""Autoencoders, plain and regularized: no bound, no rate."""

import torch
from torch import Tensor

from cvae.checks import number, one_of
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, only_group, penalized, total

STEP = 1e-2  # of z, for differences in place of derivatives: of a network in float32 both errors are about 1e-4 there


class Autoencoder(Objective):
    """The distortion alone, -log p(x|z) at the code z of x (Hinton and Salakhutdinov 2006).

    Raises:
        ConfigError: at the first call, there are several groups of latents.
    """

    deterministic = True

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        only_group(trace, "autoencoder")
        distortion = -trace.px.log_prob(x)[0]
        return Terms(penalized(distortion, trace), None, None, distortion, dict(trace.penalties))


class RAE(Objective):
    """distortion + beta |z|^2 / 2 + lambda R, a regularized autoencoder (Ghosh et al. 2020, eq. 11).

    R keeps the decoder smooth:

    - l2: the sum of the squares of its parameters (RAE-L2)
    - gradient_penalty: |d E[x|z] / dz|^2, the squared Frobenius norm at the code (RAE-GP), by differences in one random
      direction of R^D, whose mean is that norm. So it takes two more passes through the decoder, in full precision, and
      no second derivatives.
    - none

    Args:
        embedding: beta
        regularizer: l2, gradient_penalty or none
        weight: lambda

    Raises:
        ConfigError: a value is not allowed; at the first call, there are several groups of latents.
    """

    deterministic = True

    def __init__(self, embedding: float = 1e-4, regularizer: str = "l2", weight: float = 1e-4) -> None:
        super().__init__()
        self.embedding, self.weight = number("embedding", embedding), number("weight", weight)
        self.regularizer = one_of("regularizer", regularizer, ("l2", "gradient_penalty", "none"))

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        z = only_group(trace, "rae").z[0]
        distortion, embedding = -trace.px.log_prob(x)[0], z.square().sum(-1) / 2
        loss, parts = distortion + self.embedding * embedding, {"embedding": embedding}
        if self.regularizer == "l2":
            squares = [parameter.square().sum() for parameter in vae.decoder.parameters()]
            parts["regularizer"] = total(squares).expand_as(embedding)
        elif self.regularizer == "gradient_penalty":
            parts["regularizer"] = slope(vae, z, y)
        if "regularizer" in parts:
            loss = loss + self.weight * parts["regularizer"]
        return Terms(penalized(loss, trace), None, None, distortion, parts | dict(trace.penalties))


def slope(vae: VAE, z: Tensor, y: Tensor | None) -> Tensor:
    """An estimate of |d E[x|z] / dz|^2 at each z (B, D): (B,)."""
    with torch.autocast(z.device.type, enabled=False):
        away = STEP * torch.randn_like(z)
        change = vae.likelihood_of(z + away, y).mean - vae.likelihood_of(z, y).mean
    return (change / STEP).square().flatten(1).sum(1)
