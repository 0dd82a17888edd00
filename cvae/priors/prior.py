"""The contract of priors: what a model asks of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.distributions import Distribution


class Prior(nn.Module, ABC):
    """p(z), fixed or learned.

    A subclass takes `latent_dim` (D), `image_shape` (C', H, W) of what the encoder reads, and its own options. C'
    counts the label planes of a conditional model too.

    A prior of codes takes `num_codes` (C) too, and gives the distribution of the codes' numbers: event (latent_dim,),
    integers from 0 to C - 1. The posterior knows the vectors z that they stand for.

    Attributes:
        of_codes: whether it is a prior of codes
        sphere: whether it is one of latents on the unit sphere
        ball: whether it is one of points of the Poincaré ball alone
    """

    of_codes: bool = False
    sphere: bool = False
    ball: bool = False

    @abstractmethod
    def forward(self, infer: Callable[[Tensor], Distribution]) -> Distribution:
        """p(z): batch (), event (D,).

        Args:
            infer: the model's own encoder and posterior, images (K, C', H, W) -> q(z|x) with batch (K,) and event
                (D,). Only VampPrior needs it; every other prior ignores it, and takes None too.
        """
