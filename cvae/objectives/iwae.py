"""The importance-weighted bound."""

import math

from torch import Tensor

from cvae.checks import one_of, positive_int
from cvae.errors import ConfigError
from cvae.models.trace import Latent
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, of_bound, refuse_codes, weigh


class IWAE(Objective):
    """The importance-weighted bound E log (1/K) sum_k w_k, w_k = p(x, z_k) / q(z_k|x) (Burda et al. 2016, eq. 8).

    loss = -bound, whatever `gradient` is; rate and distortion are those of one draw, averaged over the K draws. The
    decoder's and the prior's gradient is sum_k v_k d log p(x, z_k), v_k = w_k / sum w. `gradient` chooses the
    encoder's:

    - plain: what differentiation gives. Its signal vanishes against its noise as K grows (Rainforth et al. 2018).
    - stl, sticking the landing (Roeder et al. 2017, eq. 8 and section 4.2): without the score of q, d log q(z|x) at a
      fixed z. With K = 1 that has the same expectation; its variance is zero where q is the exact posterior. With K > 1
      it is biased (Tucker et al. 2019, section 3).
    - dreg, doubly reparameterized (Tucker et al. 2019, eq. 8): sum_k v_k^2 (d log w_k / dz_k) (dz_k / d encoder), which
      is unbiased. With K = 1 it is stl. It is for one group of latents: in a hierarchy the distribution of a group
      depends on the draws above it, which needs more terms (Bauer and Mnih 2021).

    In a hierarchy the decoder's path makes q of the groups below the top, too, from the mean and the variance of p.
    So the decoder's gradient has a part of q there, which `gradient` chooses as it does the encoder's: with stl and
    K > 1 the decoder's gradient is biased as well.

    A prior that is made by the encoder (VampPrior) is part of the model p: the encoder's gradient through the prior's
    density is always the plain one, and the estimators are as unbiased as without it.

    Args:
        samples: K, draws of z per image
        gradient: plain, stl or dreg

    Raises:
        ConfigError: samples is not a positive integer, or gradient none of the three; at the first call, gradient is
            dreg and the model has several groups of latents, or it is not plain and latents are codes.
    """

    def __init__(self, samples: int = 50, gradient: str = "plain") -> None:
        super().__init__()
        self.samples = positive_int("samples", samples)
        self.gradient = one_of("gradient", gradient, ("plain", "stl", "dreg"))

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y, self.samples, score=self.gradient == "plain")
        if self.gradient != "plain":
            refuse_codes(trace.latents, "objective.gradient", self.gradient, "plain")
        weights = weigh(trace, x)
        if self.gradient == "dreg":
            self._square_weights(trace.latents, weights.log_w.detach().softmax(0))
        return of_bound(weights.log_w.logsumexp(0) - math.log(self.samples), weights, trace)

    def _square_weights(self, latents: tuple[Latent, ...], v: Tensor) -> None:
        """Multiply the encoder's gradient by v (K, B): backward meets v_k once in logsumexp, and once more here."""
        if len(latents) > 1:
            allowed = f"plain or stl, or another model=: this one has {len(latents)} groups of latents"
            raise ConfigError("objective.gradient", "dreg", allowed)
        (latent,) = latents
        if latent.z.requires_grad:  # v is known only now, hence hooks
            latent.z.register_hook(lambda gradient: gradient * v.unsqueeze(-1))
            latent.log_q.register_hook(lambda gradient: gradient * v)
