"""What every posterior is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Distribution


class Posterior(nn.Module, ABC):
    """q(z|x), made of the features that the encoder computes from x.

    A subclass takes `latent_dim` (D) and its own options, and sets `num_features` (F).

    Attributes:
        num_features: F, how many features an image has: the width of the encoder's last layer
    """

    num_features: int

    @abstractmethod
    def forward(self, features: Tensor) -> Distribution:
        """Features (B, F), float32 or float64 -> q(z|x): batch (B,), event (D,)."""
