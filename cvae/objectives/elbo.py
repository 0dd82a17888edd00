"""The evidence lower bound, beta-VAE and free bits."""

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from cvae.checks import number, one_of, positive_int
from cvae.distributions import rsample_and_log_prob
from cvae.errors import ConfigError
from cvae.objectives.bound import Bound, factorizes
from cvae.schedules import at, number_or_schedule
from cvae.vae import VAE


class ELBO:
    """E_q log p(x|z) - KL(q(z|x) || p(z)), the expectations by Monte Carlo (Kingma and Welling 2014, eq. 3 and 6).

    With the defaults this is the objective of TensorFlow's tutorial. `beta` and `free_bits` change the loss alone:

        loss = distortion + beta * sum_j max(free_bits, KL_j)

    where KL_j is the rate of latent dimension j, averaged over the batch (Kingma et al. 2016, eq. 15, a group for each
    dimension). A dimension below `free_bits` then costs that constant and its rate has no gradient. The average is over the
    batch at hand, so the loss (and nothing else) depends on the batch size where free_bits > 0.

    Args:
        samples: K, draws of z an image
        kl: monte_carlo, the mean of log q(z|x) - log p(z) at the K draws; closed_form, torch's `kl_divergence`
        beta: weight of the rate, a number or a schedule (Higgins et al. 2017, eq. 4)
        free_bits: lambda, nats for each latent dimension; 0 switches it off. Above 0 it needs the rate of each dimension, so
            a posterior and a prior that are independent over the dimensions.

    Raises:
        ConfigError: a value is not allowed; at the first call, the posterior and the prior lack what kl or free_bits need.
    """

    def __init__(self, samples: int = 1, kl: str = "monte_carlo", beta=1, free_bits: float = 0):
        self.samples = positive_int("samples", samples)
        self.kl = one_of("kl", kl, ("monte_carlo", "closed_form"))
        self.beta = number_or_schedule("beta", beta)
        self.free_bits = number("free_bits", free_bits)

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        q, p = vae.encode(x, y), vae.p_z()
        if self.free_bits:
            q, p = self._factors(q), self._factors(p)  # one density for each dimension: their KLs have a last axis D
        if self.kl == "closed_form":
            z = q.rsample((self.samples,))
            kl = self._closed_form(q, p)  # (B,), or (B, D) with free bits
        else:
            z, log_q = rsample_and_log_prob(q, (self.samples,))  # (K, B, D), (K, B)
            kl = (log_q - p.log_prob(z)).mean(0)
        distortion = -vae.decode(z, y).log_prob(x).mean(0)
        rate = kl.sum(-1) if self.free_bits else kl
        elbo = -distortion - rate
        if self.free_bits:
            # Its mean over the batch is the sum of the maxima: a dimension counts as it is or as free_bits for all images.
            charged = torch.where(kl.mean(0) > self.free_bits, kl, self.free_bits).sum(-1)
        else:
            charged = rate
        return Bound(elbo, rate, distortion, loss=distortion + at(self.beta, step) * charged)

    def _closed_form(self, q: Distribution, p: Distribution) -> Tensor:
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            names = f"{type(q).__name__} and {type(p).__name__}"
            allowed = "monte_carlo for this posterior and prior (no closed form is known for"
            raise ConfigError("objective.kl", self.kl, f"{allowed} {names}), or choose two Gaussians") from None

    def _factors(self, distribution: Distribution) -> Distribution:
        if not factorizes(distribution):
            allowed = "0 unless posterior and prior are independent over the latent dimensions"
            example = "as posterior=diagonal_gaussian with prior=standard_normal is"
            raise ConfigError("objective.free_bits", self.free_bits, f"{allowed}, {example}")
        return distribution.base_dist
