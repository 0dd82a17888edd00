"""The contract of likelihoods: what a model asks of them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Distribution


class Likelihood(nn.Module, ABC):
    """p(x|z) over images x in [0, 1], made of the maps of parameters that the decoder computes from z.

    A subclass takes `image_shape` (C, H, W) and its own options, and sets three attributes.

    Attributes:
        num_params: P, how many maps it reads: the channels of the decoder's last layer
        describes: the kinds of images that log_prob scores: "binary" (0 and 1) or "levels" (256 grey levels,
            x = level / 255)
        is_mass: whether log_prob is the log of a probability mass over such images. Only then do bits per dim mean
            something; for a density, or a cross-entropy, they would depend on the unit of the pixels.
    """

    num_params: int
    describes: tuple[str, ...]
    is_mass: bool

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """Params (..., P, H, W), float32 or float64 -> p(x|z): batch (...), event (C, H, W), log_prob in nats."""
