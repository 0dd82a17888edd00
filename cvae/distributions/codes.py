"""Distributions of codes: M discrete latents of C values each, which a decoder reads as one vector z (D)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, constraints, register_kl
from torch.types import _size


class CodeVectors(constraints.Constraint):
    """The finitely many vectors that stand for codes."""

    is_discrete = True
    event_dim = 1


def is_discrete(distribution: Distribution) -> bool:
    """Whether its draws are codes: log_prob is then the log of a mass, of at most 0."""
    try:
        support = distribution.support
    except (AttributeError, NotImplementedError):  # torch's and zuko's continuous ones do not all have one
        return False
    return support is not None and support.is_discrete


class Codes(Distribution):
    """The distribution of the vectors z (D) that codes (M,) are written as; each vector has the mass of its codes.

    Args:
        codes: the distribution of codes, batch (), event (M,), integers from 0 to C - 1
        write: codes (..., M) -> z (..., D)
        read: z (..., D) -> codes (..., M), the inverse of `write`
        dims: D
        num_codes: C
    """

    arg_constraints = {}
    support = CodeVectors()

    def __init__(
        self,
        codes: Distribution,
        write: Callable[[Tensor], Tensor],
        read: Callable[[Tensor], Tensor],
        dims: int,
        num_codes: int,
    ) -> None:
        super().__init__(event_shape=torch.Size([dims]), validate_args=False)
        self.codes, self.write, self.read, self.num_codes = codes, write, read, num_codes

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., D) -> (...), in nats. It has no gradient with respect to z."""
        return self.codes.log_prob(self.read(z))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws z (*sample_shape, D)."""
        return self.write(self.codes.sample(sample_shape))


class OneHots(Distribution):
    """M independent categorical variables of C classes as one-hot vectors: batch (B,), event (C M,).

    z is (C, M) flattened. `rsample` draws by the Gumbel-softmax trick (Jang et al. 2017; Maddison et al. 2017), with
    g ~ Gumbel(0, 1):

        soft = softmax((logits + g) / temperature), hard = the one-hot vector of its largest entry

    relaxed=False gives hard, with the gradient of soft (straight-through); relaxed=True gives soft, which is no code.
    log_prob is linear in z. So it is the log-mass of a one-hot z; at a soft one it is no density, and a figure that is
    made of it is no bound.

    Args:
        logits: (B, C, M)
        temperature: above 0
        relaxed: whether rsample draws soft vectors
    """

    arg_constraints = {}
    support = CodeVectors()
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float | Tensor = 1.0, relaxed: bool = False) -> None:
        self.logits, self.temperature, self.relaxed = logits.log_softmax(-2), temperature, relaxed
        super().__init__(logits.shape[:1], logits[0].flatten().shape, validate_args=False)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """(*sample_shape, B, C M)"""
        shape = torch.Size((*sample_shape, *self.logits.shape))
        gumbel = -torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device).exponential_().log()
        soft = ((self.logits + gumbel) / self.temperature).softmax(-2)
        if self.relaxed:
            return soft.flatten(-2)
        hard = torch.zeros_like(soft).scatter(-2, soft.argmax(-2, keepdim=True), 1.0)
        return (hard + (soft - soft.detach())).flatten(-2)  # soft - soft is 0, so that z is one-hot to the last digit

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Codes, never relaxed: (*sample_shape, B, C M)."""
        return OneHots(self.logits).rsample(sample_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., B, C M) -> (..., B), in nats."""
        return (z.unflatten(-1, self.logits.shape[-2:]) * self.logits).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        """The probabilities: (B, C M)."""
        return self.logits.exp().flatten(-2)


@register_kl(OneHots, Codes)
def _kl_one_hots(q: OneHots, p: Codes) -> Tensor:
    """In nats (B,): sum over the M variables and their C classes of q (log q - log p)."""
    each = p.codes.base_dist if isinstance(p.codes, Independent) else None
    if not isinstance(each, Categorical):  # each code depends on others: the sum over all is too long
        raise NotImplementedError
    return (q.logits.exp() * (q.logits - each.logits.mT)).sum((-2, -1))


class Point(Distribution):
    """All mass on one vector of codes: batch (B,), event (D,), log_prob 0 there, minus infinity elsewhere.

    `rsample` gives `near` the gradient of the draw (straight-through: Bengio et al. 2013; van den Oord et al. 2017).

    Since q(z|x) covers one code alone, an ELBO of it, log p(x|z) + log p(z), is a bound on log p(x) that importance
    samples don't tighten: all of them are the same.

    Args:
        z: (B, D), the vectors of the codes
        near: (B, D), what was rounded to z

    Attributes:
        is_point: importance weights of it say nothing of how far log p(x) is
    """

    arg_constraints = {}
    is_point = True
    support = CodeVectors()
    has_rsample = True

    def __init__(self, z: Tensor, near: Tensor) -> None:
        self.z, self.near = z.detach(), near
        super().__init__(z.shape[:1], z.shape[1:], validate_args=False)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """(*sample_shape, B, D)"""
        z = self.z + (self.near - self.near.detach())  # 0, so that z is the code's vector to the last digit
        return z.expand(*sample_shape, *z.shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., B, D) -> (..., B), in nats."""
        other = (z != self.z).any(-1)
        return torch.zeros_like(other, dtype=self.z.dtype).masked_fill(other, -torch.inf)

    @property
    def mean(self) -> Tensor:
        return self.z


@register_kl(Point, Codes)
def _kl_point(q: Point, p: Codes) -> Tensor:
    """-log p(z) in nats (B,): what the code costs."""
    return -p.log_prob(q.z)
