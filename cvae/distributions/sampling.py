"""Draws together with their own log-density."""

from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size

from cvae.distributions.triangular_normal import TriangularNormal


def rsample_and_log_prob(q: Distribution, shape: _size = (), score: bool = True) -> tuple[Tensor, Tensor]:
    """Draws z (*shape, B, D) and log q(z) (*shape, B), in nats.

    The draws are reparameterized if q can do that (`q.has_rsample`). If it cannot (discrete latents), z comes from
    `q.sample` and carries no gradient, so the gradient of whatever reads z never reaches q.

    A flow computes the density of its own draws in the same pass (zuko's `rsample_and_log_prob`). To ask for it
    afterwards would invert the flow, for an autoregressive one dimension after dimension.

    Args:
        score: False leaves out the score, the gradient of log q(z) with respect to q's parameters at a fixed z (Roeder
            et al. 2017, "Sticking the Landing"). The value of log q(z) stays the same, but its gradient then reaches
            the parameters only through z. In general this costs one more `log_prob` of z, so an inversion of an
            autoregressive flow.
    """
    if isinstance(q, TriangularNormal):
        return q.rsample_and_log_prob(shape, score)  # with or without the score, to float32's digits
    if hasattr(q, "rsample_and_log_prob"):
        z, log_q = q.rsample_and_log_prob(shape)
    else:
        z = q.rsample(shape) if q.has_rsample else q.sample(shape)
        log_q = q.log_prob(z)
    if score or not log_q.requires_grad:
        return z, log_q
    return z, without_score(q, z, log_q)


def without_score(q: Distribution, z: Tensor, log_q: Tensor) -> Tensor:
    """log_q = log q(z), the same value, minus the score's gradient: at a detached z, log q has no other gradient."""
    score = q.log_prob(z.detach())
    return log_q - (score - score.detach())
