"""The evidence lower bound, beta-VAE and free bits."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from cvae.checks import number, one_of, positive_int
from cvae.distributions import factorizes
from cvae.errors import ConfigError
from cvae.models.trace import Latent
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, penalized, rate_of_groups, total
from cvae.schedules import at, number_or_schedule


class ELBO(Objective):
    """E_q log p(x|z) - KL(q(z|x) || p(z)), the expectations by Monte Carlo (Kingma and Welling 2014, eq. 3 and 6).

    With the defaults this is the objective of TensorFlow's tutorial. `beta` and `free_bits` change the loss alone:

        loss = distortion + beta * sum_j max(free_bits, KL_j)

    KL_j is the rate of latent dimension j, averaged over the batch (Kingma et al. 2016, eq. 15, with a group for each
    dimension). In a hierarchy j is a group of latents instead, as each layer is one there. What is below `free_bits`
    costs that constant and its rate has no gradient. The average is over the batch at hand, so the loss (and nothing
    else) depends on the batch size where free_bits > 0.

    Args:
        samples: K, draws of z per image
        kl: monte_carlo, the mean of log q(z|x) - log p(z) at the K draws; closed_form, torch's `kl_divergence`
        beta: weight of the rate, a number or a schedule (Higgins et al. 2017, eq. 4); or a list of these, one for each
            group of latents from the top down
        free_bits: lambda, nats for each latent dimension, or for each group where there are several; 0 switches it off.
            With one group it needs the rate of each dimension, so a posterior and a prior that are independent over the
            dimensions.

    Raises:
        ConfigError: a value is not allowed; at the first call, the posterior and the prior lack what kl or free_bits
            need, or there are more or fewer groups than the list has.
    """

    def __init__(
        self,
        samples: int = 1,
        kl: str = "monte_carlo",
        beta: float | Callable | Sequence[float | Callable] = 1,
        free_bits: float = 0,
    ) -> None:
        super().__init__()
        self.samples = positive_int("samples", samples)
        self.kl = one_of("kl", kl, ("monte_carlo", "closed_form"))
        listed = list(beta) if isinstance(beta, Sequence) and not isinstance(beta, str) and beta else [beta]
        self.betas = [number_or_schedule("beta", each) for each in listed]
        self.free_bits = number("free_bits", free_bits)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y, self.samples)
        distortion = -trace.px.log_prob(x).mean(0)
        if self.free_bits and len(trace.latents) == 1:
            parts = self._rate_of_dimensions(trace.latents[0])  # (B, D)
            rates = [parts.sum(-1)]
        else:
            rates = [self._rate(latent) for latent in trace.latents]  # (B,) each
            parts = torch.stack(rates, -1)  # (B, L)
        rate = total(rates)
        charged = self._charge(parts) if self.free_bits else parts
        loss = penalized(distortion + self._weighted(charged, len(trace.latents), step), trace)
        return Terms(loss, -distortion - rate, rate, distortion, rate_of_groups(rates) | dict(trace.penalties))

    def _rate(self, latent: Latent) -> Tensor:
        """(B,)"""
        if self.kl == "closed_form":
            return over_draws(self._closed_form(latent.q, latent.p), latent.log_q.dim())
        return (latent.log_q - latent.log_p).mean(0)

    def _rate_of_dimensions(self, latent: Latent) -> Tensor:
        """(B, D)"""
        q, p = self._factors(latent.q), self._factors(latent.p)  # one density for each dimension
        if self.kl == "closed_form":
            return over_draws(self._closed_form(q, p), latent.z.dim())
        return (q.log_prob(latent.z) - p.log_prob(latent.z)).mean(0)

    def _charge(self, rate: Tensor) -> Tensor:
        """The rate (B, D) of dimensions or groups, or free_bits where the mean of one is below it: (B, D).

        The mean over the batch is then the maximum.
        """
        return torch.where(rate.mean(0) > self.free_bits, rate, self.free_bits)

    def _weighted(self, charged: Tensor, groups: int, step: int | Tensor) -> Tensor:
        """The sum over dimensions or groups (B, D), each by its beta: (B,)."""
        if len(self.betas) == 1:
            return at(self.betas[0], step) * charged.sum(-1)
        if len(self.betas) != groups:
            allowed = f"one value, or one for each group of latents, of which there are {groups}"
            raise ConfigError("objective.beta", f"[{len(self.betas)} values]", allowed)
        return total([at(beta, step) * each for beta, each in zip(self.betas, charged.unbind(-1), strict=True)])

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


def over_draws(kl: Tensor, dims: int) -> Tensor:
    """The mean over the K draws above, where a group's KL depends on them and so has all `dims` axes, K first."""
    return kl.mean(0) if kl.dim() == dims else kl
