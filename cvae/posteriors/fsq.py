"""Finite scalar quantization."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import is_int
from cvae.distributions import Point
from cvae.errors import ConfigError
from cvae.posteriors.codes import CodePosterior

STRETCH = 1.001  # past the outermost levels, as cvae has always had it; the authors' 1 - 0.001 ends short of them


class FSQ(CodePosterior):
    """Finite scalar quantization (Mentzer et al. 2023): a code is a few numbers, each rounded to one of its levels.

    The levels of a number are evenly spaced from -1 to 1, and 1.001 tanh(feature) goes to the nearest. There is nothing
    to learn, and no codebook. Gradients go straight through the rounding.

    Where the number of levels is even, the paper shifts them by half a step, so that one of them is 0. Here they are
    symmetric around 0: z = 0, at which a decoder of ReLUs without biases is dead, is then no code. Where this has 1.001
    tanh, the authors' notebook (appendix A.1) has (1 - 0.001) tanh: features reach each level either way.

    Args:
        levels: of each number of a code, at least one of them best even; a code has as many values as their product.
            The paper recommends [8,6,5] for 240 and [8,5,5,5] for 1,000

    Raises:
        ConfigError: `levels` is not a list of integers of at least 2, or their product is above 65536.
    """

    reach: Tensor  # (width,), half of the steps between the levels
    radix: Tensor  # (width,), by how much a code changes with a level

    def __init__(self, latent_dim: int, levels: Sequence[int] = (8, 6, 5)) -> None:
        listed = isinstance(levels, Sequence) and not isinstance(levels, str)
        if not listed or not levels or not all(is_int(n) and n > 1 for n in levels) or math.prod(levels) > 2**16:
            allowed = "a list of integers of at least 2, like [8,6,5], their product at most 65536"
            raise ConfigError("levels", levels, allowed)
        super().__init__(latent_dim, width=len(levels))
        self.num_codes = math.prod(levels)
        radix = [math.prod(levels[number + 1 :]) for number in range(len(levels))]
        vectors = torch.cartesian_prod(*[torch.arange(n) / ((n - 1) / 2) - 1 for n in levels])
        self.register_buffer("reach", torch.tensor([(n - 1) / 2 for n in levels]), persistent=False)
        self.register_buffer("radix", torch.tensor(radix), persistent=False)
        self.register_buffer("vectors", vectors.view(-1, len(levels)), persistent=False)

    def forward(self, features: Tensor) -> Distribution:
        near = STRETCH * features.tanh()
        return Point(self.write(self.read(near)), near)

    def read(self, z: Tensor) -> Tensor:
        """The codes (..., M) of the nearest levels."""
        levels = ((self.columns(z.detach()) + 1) * self.reach).round().long()  # (..., M, width)
        # The stretch leads past the last of a thousand levels, and what is not finite to none.
        return (levels.clamp(min=0).minimum((2 * self.reach).long()) * self.radix).sum(-1)
