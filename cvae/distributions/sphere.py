"""Distributions on the unit sphere of R^D."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, register_kl
from torch.types import _size


class PowerSpherical(Distribution):
    """p(z) = (1 + loc . z)^concentration / N on the unit sphere, batch (B,), event (D,) (De Cao and Aziz 2020, eq. 6).

    The density is with respect to the sphere's own area. It is unimodal around `loc`; concentration 0 is uniform. Draws
    are reparameterized and need no rejection: the first coordinate is made of a beta variable, the others of a uniform
    direction, and a reflection takes the first axis to loc (algorithm 1).

    Args:
        loc: (B, D) of length 1, D at least 2
        concentration: (B,), at least 0
    """

    arg_constraints = {}
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor) -> None:
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)
        self.loc, self.concentration = loc, concentration
        half = (loc.shape[-1] - 1) / 2
        self.alpha, self.beta = half + concentration, torch.full_like(concentration, half)

    @property
    def log_normalizer(self) -> Tensor:
        """log N (B,)"""
        return (
            (self.alpha + self.beta) * math.log(2) + self.beta * math.log(math.pi)
            + self.alpha.lgamma() - (self.alpha + self.beta).lgamma()
        )  # fmt: skip

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """(*sample_shape, B, D)"""
        # Both parts of the beta variable: their product keeps its digits where one is nearly 0.
        parts = Dirichlet(torch.stack([self.alpha, self.beta], -1), validate_args=False).rsample(sample_shape)
        first = 2 * parts[..., :1] - 1
        noise = torch.randn(*parts.shape[:-1], self.loc.shape[-1] - 1, dtype=parts.dtype, device=parts.device)
        others = (4 * parts.prod(-1, keepdim=True)).clamp(min=1e-20).sqrt() * F.normalize(noise, dim=-1)
        drawn = torch.cat([first, others], -1)
        axis = F.one_hot(torch.zeros((), dtype=torch.long, device=drawn.device), self.loc.shape[-1]).to(self.loc)
        mirror = F.normalize(axis - self.loc, dim=-1)
        return drawn - 2 * (drawn * mirror).sum(-1, keepdim=True) * mirror

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., B, D) of length 1 -> (..., B), in nats."""
        cosine = (self.loc * z).sum(-1).clamp(min=-1 + 1e-6)  # at the antipode the density is 0
        return self.concentration * torch.log1p(cosine) - self.log_normalizer

    @property
    def mean(self) -> Tensor:
        """E[z], inside the sphere: (B, D)."""
        return self.loc * ((self.alpha - self.beta) / (self.alpha + self.beta)).unsqueeze(-1)

    def entropy(self) -> Tensor:
        """In nats (B,) (eq. 14)."""
        inner = math.log(2) + self.alpha.digamma() - (self.alpha + self.beta).digamma()
        return self.log_normalizer - self.concentration * inner


class UniformSphere(Distribution):
    """The uniform distribution on the unit sphere, batch (), event (D,); its density is 1 / area."""

    arg_constraints = {}

    def __init__(self, like: Tensor) -> None:
        """like: (D,), whose type and device the draws have."""
        super().__init__(event_shape=like.shape, validate_args=False)
        self.like = like
        half = len(like) / 2
        self.log_area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., D) -> (...), in nats."""
        return torch.full_like(z[..., 0], -self.log_area)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws z (*sample_shape, D)."""
        shape = (*sample_shape, *self.event_shape)
        return F.normalize(torch.randn(shape, dtype=self.like.dtype, device=self.like.device), dim=-1)


@register_kl(PowerSpherical, UniformSphere)
def _kl_uniform(q: PowerSpherical, p: UniformSphere) -> Tensor:
    """In nats (B,)."""
    return p.log_area - q.entropy()
