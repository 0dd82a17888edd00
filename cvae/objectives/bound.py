"""What an objective says of a batch."""

from typing import NamedTuple

from torch import Tensor
from torch.distributions import Distribution, Independent


class Bound(NamedTuple):
    """What an objective says of each image of a batch; every field is a tensor (B,), in nats."""

    elbo: Tensor  # a lower bound on log p(x), higher is better
    rate: Tensor  # KL(q(z|x) || p(z)), or its Monte Carlo estimate
    distortion: Tensor  # -E_q log p(x|z), or its Monte Carlo estimate
    loss: Tensor  # what the optimizer minimizes


def factorizes(distribution: Distribution) -> bool:
    """Whether it is written as a product over the dimensions of z: Independent, of densities of one number each."""
    return isinstance(distribution, Independent) and distribution.base_dist.event_shape == ()
