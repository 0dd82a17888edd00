"""Distributions and helpers that torch and zuko lack."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal, register_kl
from torch.utils.checkpoint import checkpoint


def rsample_and_log_prob(q: Distribution, shape=()) -> tuple[Tensor, Tensor]:
    """Reparameterized draws z (*shape, B, D) and log q(z) (*shape, B), in nats.

    A flow knows the density of its own draws in the same pass (zuko's `rsample_and_log_prob`); asking for it afterwards
    would invert the flow, which for an inverse autoregressive flow takes D passes.
    """
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(shape)
    z = q.rsample(shape)
    return z, q.log_prob(z)


class TriangularNormal(MultivariateNormal):
    """N(loc, L L^T) by its Cholesky factor `scale_tril` = L, that knows the density of its own draws.

    z = loc + L eps has log q(z) = log N(eps; 0, I) - log det L. Recovering eps from z would take a triangular solve, which
    in float32 loses all digits from about 30 dimensions on, since random triangular matrices are ill-conditioned.
    """

    def rsample_and_log_prob(self, sample_shape=()) -> tuple[Tensor, Tensor]:
        """Draws z (*sample_shape, *batch, D) and their log-densities (*sample_shape, *batch), in nats."""
        standard = Normal(torch.zeros_like(self.loc), torch.ones_like(self.loc), validate_args=False)
        eps = standard.rsample(sample_shape)
        z = self.loc + torch.einsum("...ij,...j->...i", self.scale_tril, eps)  # unlike matmul, does not repeat L for each draw
        return z, standard.log_prob(eps).sum(-1) - log_diagonal(self).sum(-1)

    def rsample(self, sample_shape=()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]


def log_diagonal(q: MultivariateNormal) -> Tensor:
    """Logarithms of the diagonal of the Cholesky factor: (*batch, D)."""
    return q.scale_tril.diagonal(dim1=-2, dim2=-1).log()


@register_kl(MultivariateNormal, Independent)
def _kl_multivariate_normal_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    """KL(N(m, L L^T) || N(loc, diag(scale^2))) in nats, (*batch,); torch has it only between two of a kind."""
    if not isinstance(p.base_dist, Normal) or len(p.event_shape) != 1:
        raise NotImplementedError
    loc, scale = p.base_dist.loc, p.base_dist.scale
    squares = (q.scale_tril.square().sum(-1) + (q.loc - loc).square()) / scale.square()  # E_q ((z - loc) / scale)^2
    return (squares / 2 - 0.5 + scale.log() - log_diagonal(q)).sum(-1)


class Mixture(MixtureSameFamily):
    """torch's mixture, batch (), for many components and many z: memory is bounded by doing the z in chunks.

    Chunks are recomputed in the backward pass instead of being kept. A batch of usual size is a single chunk, unless the
    component says that it needs more than D floats for the log-density of one z, by an attribute `scratch`. Components that
    are diagonal Gaussians are scored by `diagonal_normal_log_prob`.
    """

    floats = 2**24  # of each intermediate result of a chunk: 64 MiB in float32

    @property
    def _diagonal(self) -> bool:
        components = self.component_distribution
        return isinstance(components, Independent) and isinstance(components.base_dist, Normal) and len(self.event_shape) == 1

    def _chunk(self, drawn: bool = False) -> int:
        """How many z are scored, or drawn, at once."""
        components, event = self.component_distribution, self.event_shape.numel()
        scored = 2 if self._diagonal else getattr(components, "scratch", event)  # a float64 is two floats
        return max(1, self.floats // (components.batch_shape[-1] * (event if drawn else scored)))

    def _log_prob(self, z: Tensor) -> Tensor:
        """A chunk: z (N, D) -> (N,)."""
        if not self._diagonal:
            return super().log_prob(z)
        normal = self.component_distribution.base_dist
        each = diagonal_normal_log_prob(z, normal.loc, normal.scale)  # (N, K)
        return (each + self.mixture_distribution.logits).logsumexp(-1).to(z.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., D) -> (...), in nats."""
        rows = z.reshape(-1, z.shape[-1])
        if len(rows) <= self._chunk():
            return self._log_prob(rows).reshape(z.shape[:-1])
        chunks = rows.split(self._chunk())
        parts = [checkpoint(self._log_prob, part, use_reentrant=False, preserve_rng_state=False) for part in chunks]
        return torch.cat(parts).reshape(z.shape[:-1])

    def sample(self, sample_shape=()) -> Tensor:
        sample, num = super().sample, torch.Size(sample_shape).numel()
        chunk = self._chunk(drawn=True)  # torch draws from every component, then chooses
        if num <= chunk:
            return sample(sample_shape)
        parts = [sample((min(chunk, num - start),)) for start in range(0, num, chunk)]
        return torch.cat(parts).reshape(*sample_shape, *self.event_shape)


def diagonal_normal_log_prob(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z_n; loc_k, diag(scale_k^2)) of each z (N, D) under each loc and scale (K, D): (N, K), in nats.

    By matrix products, since the N K D differences of the plain formula would be written and read several times. The square
    multiplied out loses digits where z is close to a mean and the scale is small, hence float64 (but on MPS, which has none).
    """
    if z.device.type != "mps":
        z, loc, scale = z.double(), loc.double(), scale.double()
    precision = scale.square().reciprocal()
    squares = z.square() @ precision.T - 2 * z @ (loc * precision).T  # sum_d ((z - loc) / scale)^2, less what follows
    constant = (loc.square() * precision + 2 * scale.log() + math.log(2 * math.pi)).sum(-1)
    return -(squares + constant) / 2


def near_identity(transform: nn.Module) -> nn.Module:
    """Shrink the last layer of one of zuko's lazy transforms, in place, so that the transform starts close to z -> z."""
    with torch.no_grad():
        if hasattr(transform, "hyper"):
            transform.hyper[-1].weight.mul_(0.01)
            transform.hyper[-1].bias.zero_()
        else:  # one dimension and no context: plain parameters instead of a network
            for parameter in transform.phi:
                parameter.mul_(0.01)
    return transform


class ContinuousBernoulli(Distribution):
    """The density exp(logit x) / A on [0, 1], A = (exp(logit) - 1) / logit (Loaiza-Ganem and Cunningham 2019), elementwise.

    torch's own goes through probabilities, whose float32 ends at sigmoid(±16): beyond it the normalizer and the mean stand
    still, so the density no longer integrates to 1. From the logits all is exact: here |logit| = a enters as (1 - exp(-a)) / a,
    and a series takes over around 0.
    """

    arg_constraints = {}

    def __init__(self, logits: Tensor):
        self.logits = logits
        self._near_0 = logits.abs() < 0.25
        # The branch that torch.where does not take must be finite too: a NaN times 0 is a NaN in the gradient.
        self._a = torch.where(self._near_0, 1.0, logits.abs())
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, one a pixel, for value in [0, 1]."""
        square = torch.where(self._near_0, self.logits, 0.0) ** 2
        near = self.logits * (value - 0.5) - square * (1 / 24 - square * (1 / 2880 - square / 181440))
        far = self.logits * (value - (self.logits > 0).to(value.dtype)) - torch.log(-torch.expm1(-self._a)) + torch.log(self._a)
        return torch.where(self._near_0, near, far)

    @property
    def mean(self) -> Tensor:
        """In [0, 1]; not sigmoid(logits)."""
        x = torch.where(self._near_0, self.logits, 0.0)
        near = 0.5 + x * (1 / 12 - x**2 * (1 / 720 - x**2 / 30240))
        far = -1 / torch.expm1(-self._a) - 1 / self._a  # for a positive logit
        return torch.where(self._near_0, near, torch.where(self.logits > 0, far, 1 - far))

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        """By the inverse CDF."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        a = logits.abs().clamp(min=1e-6)  # below it is uniform, to every digit
        falling = -torch.log1p(torch.rand_like(logits) * torch.expm1(-a)) / a  # for a negative logit
        return torch.where(logits > 0, 1 - falling, falling).clamp(0, 1)
