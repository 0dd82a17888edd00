"""The importance-weighted bound."""

import math

from torch import Tensor

from cvae.checks import one_of, positive_int
from cvae.distributions import rsample_and_log_prob
from cvae.objectives.bound import Bound
from cvae.vae import VAE


class IWAE:
    """The importance-weighted bound E log (1/K) sum_k w_k, w_k = p(x, z_k) / q(z_k|x) (Burda et al. 2016, eq. 8).

    loss = -bound, whatever `gradient` is; elbo, rate and distortion are those of one draw, averaged over the K draws. The
    decoder's and the prior's gradient is always sum_k v_k d log p(x, z_k), v_k = w_k / sum w. `gradient` is the encoder's:

    - plain: what differentiation gives. Its signal vanishes against its noise as K grows (Rainforth et al. 2018).
    - stl, sticking the landing (Roeder et al. 2017, eq. 8 and section 4.2): the score of q, d log q(z|x) at a fixed z, is left
      out. With K = 1 that has the same expectation; its variance is zero where q is the exact posterior. With K > 1 it is
      biased (Tucker et al. 2019, section 3).
    - dreg, doubly reparameterized (Tucker et al. 2019, eq. 8): unbiased, sum_k v_k^2 (d log w_k / dz_k) (dz_k / d encoder).
      With K = 1 it is stl.

    The score is left out by taking it away once it is there: log q at a detached z has the score as its only gradient. This
    asks nothing of q but a log_prob; for an inverse autoregressive flow that costs D passes, as it inverts the flow.
    A prior that is made by the encoder (VampPrior) is part of the model p: the encoder's gradient through the prior's density
    is always the plain one, and with it the estimators are as unbiased as they were.

    Raises:
        ConfigError: samples is not a positive integer, or gradient none of the three.
    """

    is_bound = True  # -loss is itself a bound on log p(x), and the one to choose a model by

    def __init__(self, samples: int = 50, gradient: str = "plain"):
        self.samples = positive_int("samples", samples)
        self.gradient = one_of("gradient", gradient, ("plain", "stl", "dreg"))

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        q = vae.encode(x, y)
        z, log_q = rsample_and_log_prob(q, (self.samples,))  # (K, B, D), (K, B)
        if self.gradient != "plain" and z.requires_grad:
            score = q.log_prob(z.detach())
            log_q = log_q - (score - score.detach())  # the same value
        z = z.view_as(z)  # what p sees: its gradient can be scaled without that of log q
        log_px, log_pz = vae.decode(z, y).log_prob(x), vae.p_z().log_prob(z)
        log_w = log_px + log_pz - log_q
        bound = log_w.logsumexp(0) - math.log(self.samples)
        if self.gradient == "dreg" and z.requires_grad:
            # Known only now, hence hooks: backward meets v_k once in logsumexp, and once more on the way to the encoder.
            v = log_w.detach().softmax(0)
            z.register_hook(lambda gradient: gradient * v.unsqueeze(-1))
            log_q.register_hook(lambda gradient: gradient * v)
        distortion, rate = -log_px.mean(0), (log_q - log_pz).mean(0)
        return Bound(-distortion - rate, rate, distortion, loss=-bound)
