"""InfoVAE and MMD-VAE."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import number, one_of, positive_number
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, only_group, penalized, refuse_codes


class InfoVAE(Objective):
    """distortion + (1 - alpha) rate + (alpha + lambda - 1) MMD^2(q(z), p(z)) (Zhao et al. 2017, eq. 6).

    With alpha=1 it is the MMD-VAE. The squared maximum mean discrepancy compares the batch's draws of z, one an image,
    with as many draws from the prior. It has no unit and depends on the batch, so the loss does; rate and distortion do
    not. Both terms train a prior that can be reparameterized (a flow). Only the rate trains a mixture, so nothing does
    where alpha = 1. A batch of one image has no such estimate and goes without it.

    Args:
        alpha: at most 1; above 0 the mutual information of x and z is rewarded
        lambda_: weight of the aggregate posterior's divergence from the prior, above 0 and at least 1 - alpha; useful
            if lambda MMD^2 is of the order of the distortion
        kernel: rbf or imq, see `mmd`
        bandwidth: above 0, see `mmd`

    Raises:
        ConfigError: a value is not allowed; at the first call, latents are codes, or there are several groups of them.
    """

    def __init__(self, alpha: float = 1, lambda_: float = 1000, kernel: str = "rbf", bandwidth: float = 1) -> None:
        super().__init__()
        self.alpha = number("alpha", alpha, -math.inf)
        if alpha > 1:
            raise ConfigError("alpha", alpha, "a number of at most 1")
        self.lambda_ = positive_number("lambda_", lambda_)
        if alpha + lambda_ < 1:
            raise ConfigError("lambda_", lambda_, f"at least 1 - alpha, {1 - alpha:g}: the MMD would be rewarded")
        self.kernel = one_of("kernel", kernel, tuple(KERNELS))
        self.bandwidth = positive_number("bandwidth", bandwidth)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        latent = only_group(trace, "infovae")
        refuse_codes([latent], "objective", "infovae", "elbo or iwae")
        z, p = latent.z[0], latent.p  # (B, D)
        distortion, rate = -trace.px.log_prob(x)[0], (latent.log_q - latent.log_p)[0]
        if len(z) > 1:
            discrepancy = mmd(z, draws(p, len(z)), self.kernel, self.bandwidth)
        else:
            discrepancy = z.new_zeros(())
        loss = distortion + (1 - self.alpha) * rate + (self.alpha + self.lambda_ - 1) * discrepancy
        parts = {"mmd": discrepancy.expand_as(rate), **trace.penalties}
        return Terms(penalized(loss, trace), -distortion - rate, rate, distortion, parts)


def draws(p: Distribution, num: int) -> Tensor:
    """(num, D) of p, with a gradient where it can have one: Normal.sample looks at scales, and waits for a GPU."""
    return p.rsample((num,)) if p.has_rsample else p.sample((num,))


def rbf(squared: Tensor, scale: float) -> Tensor:
    """exp(-r^2 / c)"""
    return torch.exp(-squared / scale)


def imq(squared: Tensor, scale: float) -> Tensor:
    """c / (c + r^2), whose long tails still pull at draws far from the prior (Tolstikhin et al. 2018, section 4)."""
    return scale / (scale + squared)


KERNELS = {"rbf": rbf, "imq": imq}


def mmd(a: Tensor, b: Tensor, kernel: str, bandwidth: float) -> Tensor:
    """The unbiased estimate of MMD^2 between two samples a (N, D), b (M, D): () (Gretton et al. 2012, lemma 6).

    The kernels are functions of r = |z - z'| and c = 2 D bandwidth^2. bandwidth=1 fits a standard normal: c is then the
    mean r^2 between two of its draws. As the estimate is unbiased, it can be below 0 if the samples are much alike.

    Raises:
        ValueError: a sample has fewer than two draws, of which no pair can be made.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"the MMD needs at least two draws in each sample, here are {len(a)} and {len(b)}")
    scale = 2 * a.shape[-1] * bandwidth**2

    def similarities(a: Tensor, b: Tensor) -> Tensor:  # (N, M)
        return KERNELS[kernel]((a.unsqueeze(1) - b).square().sum(-1), scale)

    def within(a: Tensor) -> Tensor:  # the mean over pairs of different draws: without the N pairs (z, z), where k = 1
        return (similarities(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return within(a) + within(b) - 2 * similarities(a, b).mean()
