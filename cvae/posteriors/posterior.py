"""The contract of posteriors: what a model asks of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributions import Distribution


class Posterior(nn.Module, ABC):
    """q(z|x), made of the features that the encoder computes from x.

    A subclass takes `latent_dim` and its own options, and sets `num_features` (F). z has D = latent_dim dimensions.

    A posterior of codes (`cvae.posteriors.codes`) has `latent_dim` codes instead, and z is the vector that the decoder
    reads in their place. It overrides what is below.

    Attributes:
        num_features: F, how many features an image has: the width of the encoder's last layer
        num_codes: how many values a code takes, None for continuous latents
        width: how many numbers of z a latent has: D = latent_dim * width * quantizers
        quantizers: how many codes a latent has, 1 but for residual ones; the decoder reads the sum of their vectors
        deterministic: whether z is a function of x, without a density: there are no bounds, and no figures of them
        sphere: whether z lies on the unit sphere of R^D
        curvature: c where z stands for a point of the Poincaré ball of curvature -c (`cvae.distributions.ball`), else 0
        relaxed: whether draws in training are no draws of q(z|x): figures of these are no bounds
    """

    num_features: int
    num_codes: int | None = None
    width: int = 1
    quantizers: int = 1
    relaxed: bool = False
    deterministic: bool = False
    sphere: bool = False
    curvature: float = 0.0

    @abstractmethod
    def forward(self, features: Tensor) -> Distribution:
        """Features (B, F), float32 or float64 -> q(z|x): batch (B,), event (D,)."""

    def p_z(self, p: Distribution) -> Distribution:
        """p(z), event (D,), from what the prior gives, which for codes is a distribution of their numbers."""
        return p

    def read(self, z: Tensor) -> Tensor:
        """The value that a prior scores for z (..., D): z itself, or the numbers of its codes (..., latent_dim)."""
        return z

    def decoder_input(self, z: Tensor) -> Tensor:
        """What the decoder reads of z (..., D): (..., latent_dim * width)."""
        return z

    def penalties(self, q: Distribution) -> Mapping[str, Tensor]:
        """Terms (B,) that are added to the loss alone, and are no part of the bound."""
        return {}
