"""Bounds between the ELBO and the importance-weighted one: MIWAE, CIWAE and PIWAE."""

import math

import torch
from torch import Tensor

from cvae.checks import number, positive_int
from cvae.errors import ConfigError
from cvae.models.trace import Latent
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, Weights, of_bound, only_group, weigh

FLOOR = 1e-12  # of a weight that the encoder's gradient is divided by: far below the digits of the decoder's


class MIWAE(Objective):
    """The mean of M importance-weighted bounds of K draws each (Rainforth et al. 2018).

        bound = E 1/M sum_m log 1/K sum_k w_mk,  w = p(x, z) / q(z|x)

    With M = 1 it is IWAE, with K = 1 the ELBO of M draws. As M grows the encoder's gradient gets less noise at the same
    signal, which IWAE loses as K grows.

    Args:
        estimates: M, bounds of each image
        samples: K, draws of z in each of them; M K are drawn

    Raises:
        ConfigError: one of them is not a positive integer.
    """

    def __init__(self, estimates: int = 8, samples: int = 8) -> None:
        super().__init__()
        self.estimates, self.samples = positive_int("estimates", estimates), positive_int("samples", samples)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y, self.estimates * self.samples)
        weights = weigh(trace, x)
        return of_bound(self.each(weights.log_w).mean(0) - math.log(self.samples), weights, trace)

    def each(self, log_w: Tensor) -> Tensor:
        """The logarithm of the sum of the K weights of each estimate: (M K, B) -> (M, B)."""
        return log_w.unflatten(0, (self.estimates, self.samples)).logsumexp(1)


class PIWAE(MIWAE):
    """The decoder and the prior learn by IWAE of all M K draws, the encoder by MIWAE (Rainforth et al. 2018).

    bound = -loss = that of IWAE, log 1/(M K) sum w, which the model of x is trained by. One backward pass makes both
    gradients. It meets each draw with its share of all weights, v_mk; on the way from z and log q(z|x) to the encoder
    it is multiplied by what leads from there to MIWAE's, the share among the draws of its own estimate, over M.

    A draw whose v_mk is nearly 0 still needs its gradient for the encoder, so 1e-12 of MIWAE's share is added to it:
    float32 and bfloat16 have room for this, and the decoder's gradient none of it. float16 (trainer.precision=16-mixed)
    does not: estimates with less than about 1e-8 of the weight don't reach the encoder there.

    A prior that is made by the encoder (VampPrior) is part of the model: through its density the encoder gets IWAE's.

    Raises:
        ConfigError: as MIWAE; at the first call, the model has several groups of latents, of which a decoder makes q.
    """

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y, self.estimates * self.samples)
        weights = weigh(trace, x)
        return of_bound(self.bound(weights, only_group(trace, "piwae")), weights, trace)

    def bound(self, weights: Weights, latent: Latent) -> Tensor:
        """IWAE's (B,), with its gradient for all that is no encoder; on the way to the encoder hooks make MIWAE's."""
        log_w = weights.log_w.detach()
        in_all, each = log_w.logsumexp(0), self.each(log_w)  # (B,), (M, B)
        share = (each - in_all).exp()  # of each estimate, (M, B)
        ratio = (1 / (self.estimates * share + FLOOR)).repeat_interleave(self.samples, 0)  # (M K, B), at most 1e12
        own = (log_w - each.repeat_interleave(self.samples, 0)).exp() / self.estimates  # MIWAE's, (M K, B)
        if latent.z.requires_grad:
            latent.z.register_hook(lambda gradient: gradient * ratio.unsqueeze(-1))
        if latent.log_q.requires_grad:
            latent.log_q.register_hook(lambda gradient: gradient * ratio)
        weighted = ((log_w - in_all).exp() + FLOOR * own) * weights.log_w  # the gradient is that of the first factor
        weighted = weighted.sum(0)
        return in_all - math.log(len(log_w)) + (weighted - weighted.detach())


class CIWAE(Objective):
    """beta ELBO + (1 - beta) IWAE, both of the same K draws (Rainforth et al. 2018).

    The bound is this combination: log p(x) is above it for each beta.

    Args:
        samples: K, draws of z per image
        beta: from 0, which is IWAE, to 1, the ELBO

    Raises:
        ConfigError: a value is not as above.
    """

    def __init__(self, samples: int = 64, beta: float = 0.05) -> None:
        super().__init__()
        self.samples, self.beta = positive_int("samples", samples), number("beta", beta)
        if beta > 1:
            raise ConfigError("beta", beta, "a number from 0 to 1")

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y, self.samples)
        weights = weigh(trace, x)
        iwae = weights.log_w.logsumexp(0) - math.log(self.samples)
        return of_bound(torch.lerp(iwae, weights.log_w.mean(0), self.beta), weights, trace)
