"""Draws together with their own log-density."""

from torch import Tensor
from torch.distributions import Distribution


def rsample_and_log_prob(q: Distribution, shape=()) -> tuple[Tensor, Tensor]:
    """Reparameterized draws z (*shape, B, D) and log q(z) (*shape, B), in nats.

    A flow knows the density of its own draws in the same pass (zuko's `rsample_and_log_prob`); asking for it afterwards
    would invert the flow, which for an inverse autoregressive flow takes D passes.
    """
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(shape)
    z = q.rsample(shape)
    return z, q.log_prob(z)
