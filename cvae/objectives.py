"""Objectives: (vae, x, y, step) -> Bound, named per-example tensors (B,) in nats.

x (B, C, H, W) images, y (B,) class labels (read only by a conditional VAE), step: how many optimizer steps were made, for
schedules. The mean over the batch is taken by the caller.
"""

from typing import NamedTuple

from torch import Tensor

from cvae.distributions import rsample_and_log_prob
from cvae.errors import positive_int
from cvae.vae import VAE


class Bound(NamedTuple):
    """What an objective says of each image of a batch; every field is a tensor (B,), in nats."""

    elbo: Tensor  # a lower bound on log p(x), higher is better
    rate: Tensor  # KL(q(z|x) || p(z)), or its Monte Carlo estimate
    distortion: Tensor  # -E_q log p(x|z), or its Monte Carlo estimate
    loss: Tensor  # what the optimizer minimizes


class ELBO:
    """E_q [log p(x|z) + log p(z) - log q(z|x)] by Monte Carlo (Kingma and Welling 2014, eq. 6).

    With samples=1 this is the objective of TensorFlow's tutorial.
    """

    def __init__(self, samples: int = 1):
        self.samples = positive_int("samples", samples)

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        z, log_q = rsample_and_log_prob(vae.encode(x, y), (self.samples,))  # (K, B, D), (K, B)
        distortion = -vae.decode(z, y).log_prob(x).mean(0)
        rate = (log_q - vae.prior().log_prob(z)).mean(0)
        elbo = -distortion - rate
        return Bound(elbo, rate, distortion, loss=-elbo)
