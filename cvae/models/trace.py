"""Trace, the contract between models, objectives and evaluation."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions import rsample_and_log_prob


class Latent(NamedTuple):
    """One group of latents: K draws for each of B images, with their log-densities in nats.

    Attributes:
        z: (K, B, D), the draw that p, the decoder and the groups below read. A hook on it does not touch the gradient
            of log_q
        log_q: (K, B), log q(z|x) given the groups above
        log_p: (K, B), log p(z) given the groups above
        q: event (D,); batch (B,), or (K, B) where it depends on the draws above
        p: event (D,); batch (), or (K, B) where it depends on the draws above
    """

    z: Tensor
    log_q: Tensor
    log_p: Tensor
    q: Distribution
    p: Distribution


class Trace(NamedTuple):
    """What a model returns for a batch, and all that objectives and evaluation know of it.

    The joint densities are the sums over the groups: log q(z|x) = sum of log_q, log p(z) = sum of log_p.

    Attributes:
        latents: the groups of latents, the top one first
        px: p(x|z), batch (K, B), event (C, H, W)
        penalties: (B,) each, added to the loss alone, such as a codebook's commitment
    """

    latents: tuple[Latent, ...]
    px: Distribution
    penalties: Mapping[str, Tensor]


def draw_latent(q: Distribution, p: Distribution, shape: tuple[int, ...] = (), score: bool = True) -> Latent:
    """Draws of q, batch (..., B), with their log-densities under q and p; score: as `rsample_and_log_prob` has it."""
    z, log_q = rsample_and_log_prob(q, shape, score)
    z = z.view_as(z)  # a tensor of its own, so that hooks on it do not reach log_q
    return Latent(z, log_q, p.log_prob(z), q, p)
