"""A normal distribution by its Cholesky factor."""

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, register_kl


class TriangularNormal(MultivariateNormal):
    """N(loc, L L^T) by its Cholesky factor `scale_tril` = L, that knows the density of its own draws.

    z = loc + L eps has log q(z) = log N(eps; 0, I) - log det L. Recovering eps from z would take a triangular solve, which
    in float32 loses all digits from about 30 dimensions on, since random triangular matrices are ill-conditioned.
    """

    def rsample_and_log_prob(self, sample_shape=()) -> tuple[Tensor, Tensor]:
        """Draws z (*sample_shape, *batch, D) and their log-densities (*sample_shape, *batch), in nats."""
        standard = Normal(torch.zeros_like(self.loc), torch.ones_like(self.loc), validate_args=False)
        eps = standard.rsample(sample_shape)
        z = self.loc + torch.einsum(
            "...ij,...j->...i", self.scale_tril, eps
        )  # unlike matmul, does not repeat L for each draw
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
