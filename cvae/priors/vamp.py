"""The VampPrior."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from cvae.checks import positive_int, positive_number
from cvae.distributions import Mixture
from cvae.errors import ConfigError
from cvae.priors.prior import Prior


class VampPrior(Prior):
    """p(z) = 1/K sum_k q(z|u_k) over learned pseudo-inputs u_k in [0, 1] (Tomczak and Welling 2018, eq. 9).

    q is the model's own encoder and posterior, so this prior trains them too. As in the authors' code, the
    pseudo-inputs are drawn from a normal distribution at the start and clamped to [0, 1] where they are read. With
    labels, they hold the label planes too. Each call encodes all of them: if you need p(z) several times with the same
    weights, keep the distribution. Every posterior fits; IAF is slow here, since each z goes back through the flow of
    each component.

    Args:
        image_shape: (C', H, W) of what the encoder reads
        components: K
        pseudo_mean: mean of the normal distribution that their pixels are drawn from at the start
        pseudo_std: its standard deviation

    Raises:
        ConfigError: `components` is not a positive integer, `pseudo_mean` not from 0 to 1, or `pseudo_std` not above 0.
    """

    logits: Tensor  # (K,)

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int],
        components: int = 500,
        pseudo_mean: float = 0.05,
        pseudo_std: float = 0.01,
    ):
        super().__init__()
        shape = (positive_int("components", components), *image_shape)
        if not isinstance(pseudo_mean, (int, float)) or not 0 <= pseudo_mean <= 1:
            raise ConfigError("pseudo_mean", pseudo_mean, "a number from 0 to 1")
        self.pseudo_inputs = nn.Parameter(pseudo_mean + positive_number("pseudo_std", pseudo_std) * torch.randn(shape))
        self.register_buffer("logits", torch.zeros(components), persistent=False)  # equal weights 1/K

    def forward(self, infer: Callable[[Tensor], Distribution]) -> Distribution:
        q = infer(self.pseudo_inputs.clamp(0, 1))  # batch (K,), event (D,)
        return Mixture(Categorical(logits=self.logits, validate_args=False), q, validate_args=False)
