"""Critics: networks of an objective that tell draws of two distributions apart.

One optimizer and one backward pass train the model and its critic: what the critic learns from is detached from the
model, and what the model learns from sees the critic `frozen`.
"""

import itertools

from torch import Tensor, nn
from torch.func import functional_call

from cvae.distributions.precision import full_precision


def critic(inputs: int, hidden: int, layers: int) -> nn.Sequential:
    """(N, inputs) -> logits (N, 1), `layers` hidden layers with leaky ReLUs (Kim and Mnih 2018, appendix A)."""
    widths = [inputs, *[hidden] * layers]
    blocks = [[nn.Linear(n, m), nn.LeakyReLU(0.2)] for n, m in itertools.pairwise(widths)]
    return nn.Sequential(*[part for block in blocks for part in block], nn.Linear(hidden, 1))


def logits(critic: nn.Module, z: Tensor) -> Tensor:
    """The critic's logits (N,) of z (N, D)."""
    return full_precision(critic(z)).squeeze(-1)


def frozen(critic: nn.Module, z: Tensor) -> Tensor:
    """`logits`, whose gradient goes to z alone."""
    fixed = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    return full_precision(functional_call(critic, fixed, (z,))).squeeze(-1)
