"""A normal distribution given by its Cholesky factor."""

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, register_kl
from torch.types import _size

from cvae.distributions.precision import double


class TriangularNormal(MultivariateNormal):
    """N(loc, L L^T), given by its Cholesky factor L = `scale_tril`, that knows the density of its own draws.

    z = loc + L eps has log q(z) = log N(eps; 0, I) - log det L. The way back from z to eps is a triangular solve, which
    in float32 loses all digits from about 30 dimensions on, since random triangular matrices are ill-conditioned.
    """

    def rsample_and_log_prob(self, sample_shape: _size = (), score: bool = True) -> tuple[Tensor, Tensor]:
        """Draws z (*sample_shape, *batch, D) and their log-densities (*sample_shape, *batch), in nats.

        score=False leaves out the score, as in `cvae.distributions.rsample_and_log_prob`.
        """
        standard = Normal(torch.zeros_like(self.loc), torch.ones_like(self.loc), validate_args=False)
        eps = standard.rsample(sample_shape)
        with torch.autocast(eps.device.type, enabled=False):  # in bfloat16 z would not be the draw that log_q scores
            # Unlike matmul, einsum does not repeat L for each draw.
            z = self.loc + torch.einsum("...ij,...j->...i", self.scale_tril, eps)
        log_q = standard.log_prob(eps).sum(-1) - log_diagonal(self).sum(-1)
        return z, log_q if score else self._without_score(z, eps, log_q)

    def _without_score(self, z: Tensor, eps: Tensor, log_q: Tensor) -> Tensor:
        """The value of log_q, with the gradient through z alone: d log q(z) / dz = -L^-T eps.

        The general way subtracts the score from the total derivative, and the score at z needs the triangular solve for
        eps. Here eps is known, and the one solve that remains is done in float64.
        """
        noise = double(eps.detach()).reshape(-1, *self.loc.shape).movedim(0, -1)  # (*batch, D, draws)
        factor = double(self.scale_tril.detach()).mT
        pull = torch.linalg.solve_triangular(factor, noise, upper=True).movedim(-1, 0).reshape(eps.shape)
        # It has z's gradient. It is in float64, since pull may overflow float32, and 0 * inf is NaN.
        zero = double(z - z.detach())
        return log_q.detach() - (pull * zero).sum(-1).to(log_q.dtype)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]


def log_diagonal(q: MultivariateNormal) -> Tensor:
    """Logarithms of the diagonal of the Cholesky factor: (*batch, D)."""
    return q.scale_tril.diagonal(dim1=-2, dim2=-1).log()


@register_kl(MultivariateNormal, Independent)
def _kl_multivariate_normal_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    """KL(N(m, L L^T) || N(loc, diag(scale^2))) in nats, (*batch,); torch has it only between two of the same class."""
    if not isinstance(p.base_dist, Normal) or len(p.event_shape) != 1:
        raise NotImplementedError
    loc, scale = p.base_dist.loc, p.base_dist.scale
    squares = (q.scale_tril.square().sum(-1) + (q.loc - loc).square()) / scale.square()  # E_q ((z - loc) / scale)^2
    return (squares / 2 - 0.5 + scale.log() - log_diagonal(q)).sum(-1)
