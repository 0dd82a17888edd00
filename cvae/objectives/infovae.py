"""InfoVAE and MMD-VAE."""

import math

import torch
from torch import Tensor

from cvae.checks import number, one_of, positive_number
from cvae.distributions import rsample_and_log_prob
from cvae.errors import ConfigError
from cvae.objectives.bound import Bound
from cvae.vae import VAE


class InfoVAE:
    """distortion + (1 - alpha) rate + (alpha + lambda - 1) MMD^2(q(z), p(z)) (Zhao et al. 2017, eq. 6; MMD-VAE is alpha=1).

    The squared maximum mean discrepancy compares the batch's draws of z, one an image, with as many draws from the prior.
    It has no unit and depends on the batch, so the loss does; elbo, rate and distortion do not. A prior that can be
    reparameterized (a flow) is trained by both terms, a mixture only by the rate: not at all where alpha = 1.

    Args:
        alpha: at most 1; above 0 the mutual information of x and z is rewarded
        lambda_: weight of the aggregate posterior's divergence from the prior, above 0 and at least 1 - alpha; of use where
            lambda MMD^2 is of the order of the distortion
        kernel: rbf or imq, see `mmd`
        bandwidth: above 0, see `mmd`

    Raises:
        ConfigError: a value is not allowed.
    """

    def __init__(self, alpha: float = 1, lambda_: float = 1000, kernel: str = "rbf", bandwidth: float = 1):
        self.alpha = number("alpha", alpha, -math.inf)
        if alpha > 1:
            raise ConfigError("alpha", alpha, "a number of at most 1")
        self.lambda_ = positive_number("lambda_", lambda_)
        if alpha + lambda_ < 1:
            raise ConfigError("lambda_", lambda_, f"at least 1 - alpha, {1 - alpha:g}: the MMD would be rewarded")
        self.kernel = one_of("kernel", kernel, tuple(KERNELS))
        self.bandwidth = positive_number("bandwidth", bandwidth)

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        z, log_q = rsample_and_log_prob(vae.encode(x, y))  # (B, D), (B,)
        p = vae.p_z()
        distortion, rate = -vae.decode(z, y).log_prob(x), log_q - p.log_prob(z)
        drawn = p.rsample((len(z),)) if p.has_rsample else p.sample((len(z),))
        discrepancy = mmd(z, drawn, self.kernel, self.bandwidth)
        loss = distortion + (1 - self.alpha) * rate + (self.alpha + self.lambda_ - 1) * discrepancy
        return Bound(-distortion - rate, rate, distortion, loss)


KERNELS = {
    "rbf": lambda squared, scale: torch.exp(-squared / scale),
    "imq": lambda squared, scale: scale / (scale + squared),
}


def mmd(a: Tensor, b: Tensor, kernel: str, bandwidth: float) -> Tensor:
    """The unbiased estimate of MMD^2 between two samples a (N, D), b (M, D): () (Gretton et al. 2012, eq. 3).

    Kernels of r = |z - z'|, with c = 2 D bandwidth^2: rbf exp(-r^2 / c), and imq c / (c + r^2), whose long tails still pull at
    draws far from the prior (Tolstikhin et al. 2018, section 4). bandwidth=1 fits a standard normal: c is then the mean r^2
    between two of its draws. Unbiased, it can be below 0 where the samples are much alike.
    """
    scale = 2 * a.shape[-1] * bandwidth**2
    k = lambda a, b: KERNELS[kernel]((a.unsqueeze(1) - b).square().sum(-1), scale)
    within = lambda a: (
        (k(a, a).sum() - len(a)) / max(len(a) * (len(a) - 1), 1)
    )  # without the N pairs (z, z), where k = 1
    return within(a) + within(b) - 2 * k(a, b).mean()
