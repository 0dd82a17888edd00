"""The variational Renyi bound."""

import math

from torch import Tensor

from cvae.checks import number, positive_int
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, of_bound, weigh


class Renyi(Objective):
    """The variational Renyi bound by K draws (Li and Turner 2016).

        bound = 1 / (1 - alpha) E log 1/K sum_k w_k^(1 - alpha),  w = p(x, z) / q(z|x)

    alpha = 0 is IWAE, alpha = 1 (the limit) the ELBO. It falls as alpha grows, draw by draw, and is below log p(x) in
    expectation for each alpha of at least 0. Below 0 it is no lower bound, so that no model could be chosen by it.

    Args:
        samples: K, draws of z per image
        alpha: at least 0

    Raises:
        ConfigError: a value is not as above.
    """

    def __init__(self, samples: int = 50, alpha: float = 0.5) -> None:
        super().__init__()
        self.samples, self.alpha = positive_int("samples", samples), number("alpha", alpha)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y, self.samples)
        weights = weigh(trace, x)
        return of_bound(self.mean(weights.log_w), weights, trace)

    def mean(self, log_w: Tensor) -> Tensor:
        """The logarithm of the mean of the weights' powers, to the power of 1 / (1 - alpha): (K, B) -> (B,)."""
        power = 1 - self.alpha
        if power == 0:
            return log_w.mean(0)
        return ((power * log_w).logsumexp(0) - math.log(self.samples)) / power
