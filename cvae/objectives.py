"""Objectives: (vae, x) -> Bound, named per-example tensors (B,) in nats. The mean over the batch is taken by the caller."""

from typing import NamedTuple

from torch import Tensor

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

    def __call__(self, vae: VAE, x: Tensor) -> Bound:
        q = vae.encode(x)
        z = q.rsample((self.samples,))  # (K, B, D)
        distortion = -vae.decode(z).log_prob(x).mean(0)
        rate = (q.log_prob(z) - vae.prior().log_prob(z)).mean(0)
        elbo = -distortion - rate
        return Bound(elbo, rate, distortion, loss=-elbo)
