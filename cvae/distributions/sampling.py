"""Draws together with their own log-density."""

from torch import Tensor
from torch.distributions import Distribution


def rsample_and_log_prob(q: Distribution, shape=(), score: bool = True) -> tuple[Tensor, Tensor]:
    """Reparameterized draws z (*shape, B, D) and log q(z) (*shape, B), in nats.

    A flow knows the density of its own draws in the same pass (zuko's `rsample_and_log_prob`); asking for it afterwards
    would invert the flow, which for an inverse autoregressive flow takes D passes.
    """
    if hasattr(q, "rsample_and_log_prob"):
        z, log_q = q.rsample_and_log_prob(shape)
    else:
        z = q.rsample(shape) if q.has_rsample else q.sample(shape)
        log_q = q.log_prob(z)
    if not score and z.requires_grad:
        term = q.log_prob(z.detach())
        log_q = log_q - (term - term.detach())
    return z, log_q
