"""Latents in hyperbolic space."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import positive_number
from cvae.distributions import ExpMap, Flow
from cvae.posteriors.gaussian import diagonal_normal
from cvae.posteriors.posterior import Posterior


class WrappedNormal(Posterior):
    """q(z|x), a wrapped normal on the Poincaré ball of curvature -c (Mathieu et al. 2019; Nagano et al. 2019).

    A tangent vector v ~ N(0, diag(exp(logvar))) at the point m is carried to the ball by the exponential map there. z
    is the point's logarithm at the origin (see `cvae.distributions.ball`). So the exponential map at the end of the
    encoder and the logarithm at the start of the decoder are the identity, and the wrapped normal of scale 1 around the
    origin (prior=wrapped_normal) is N(0, I). Densities are with respect to z; by the ball's own volume q and p are both
    divided by (sinh(sqrt(c) |z|) / (sqrt(c) |z|))^(D-1), and their quotient is the same.

    Features: m (D), then log-variance (D). The rate has no closed form, and the distribution's `mean` is m, not E[z].

    Args:
        curvature: c, above 0. The smaller, the more it is as posterior=diagonal_gaussian

    Raises:
        ConfigError: `curvature` is not above 0.
    """

    def __init__(self, latent_dim: int, curvature: float = 1.0) -> None:
        super().__init__()
        self.curvature = positive_number("curvature", curvature)
        self.num_features = 2 * latent_dim

    def forward(self, features: Tensor) -> Distribution:
        m, logvar = features.chunk(2, dim=-1)
        return Flow(ExpMap(m, self.curvature).inv, diagonal_normal(torch.zeros_like(m), logvar))
