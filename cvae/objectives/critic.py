"""Critics: networks of an objective that tell draws of two distributions apart.

One optimizer and one backward pass train the model and its critic: what the critic learns from is detached from the
model, and what the model learns from sees the critic `fixed`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from cvae.distributions.precision import full_precision
from cvae.errors import ConfigError


def critic(inputs: int, hidden: int, layers: int) -> nn.Sequential:
    """(N, inputs) -> logits (N, 1), `layers` hidden layers with leaky ReLUs (Kim and Mnih 2018, appendix A)."""
    widths = [inputs, *[hidden] * layers]
    blocks = [[nn.Linear(n, m), nn.LeakyReLU(0.2)] for n, m in itertools.pairwise(widths)]
    return nn.Sequential(*[part for block in blocks for part in block], nn.Linear(hidden, 1))


class ImageCritic(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> its last hidden layer (N, F), and logits (N,).

    `layers` 4x4 convolutions of stride 2 with leaky ReLUs (Radford et al. 2016), without batch normalization, which
    would mix true images with made ones.

    Args:
        image_shape: (C, H, W)
        width: channels of the first layer; each further one doubles them
        layers: how many

    Raises:
        ConfigError: so many layers would leave nothing of the image.
    """

    def __init__(self, image_shape: Sequence[int], width: int, layers: int) -> None:
        super().__init__()
        channels, *size = image_shape
        if min(size) < 2**layers:
            raise ConfigError(
                "layers", layers, f"at most {int(math.log2(min(size)))} for images of {size[0]}x{size[1]}"
            )
        widths = [channels, *(width * 2**level for level in range(layers))]
        blocks = [[nn.Conv2d(n, m, 4, 2, 1), nn.LeakyReLU(0.2)] for n, m in itertools.pairwise(widths)]
        self.hidden = nn.Sequential(*[part for block in blocks for part in block], nn.Flatten())
        self.out = nn.Linear(widths[-1] * math.prod(side // 2**layers for side in size), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(2 * x - 1)
        return full_precision(hidden), full_precision(self.out(hidden)).squeeze(-1)


class PatchCritic(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> logits (N, P) of overlapping patches (Isola et al. 2017, section 3.2.2).

    `layers` 4x4 convolutions of stride 2, one of stride 1 and a last one to the logits, with leaky ReLUs; without batch
    normalization, as `ImageCritic`.

    Args:
        image_shape: (C, H, W)
        width: channels of the first layer; each further one doubles them, up to eight times as many
        layers: how many halve height and width

    Raises:
        ConfigError: so many layers would leave nothing of the image.
    """

    def __init__(self, image_shape: Sequence[int], width: int, layers: int) -> None:
        super().__init__()
        channels, *size = image_shape
        if min(size) < 3 * 2**layers:  # each of the two convolutions of stride 1 takes a place away
            most = int(math.log2(min(size) / 3))
            raise ConfigError("layers", layers, f"at most {most} for images of {size[0]}x{size[1]}")
        widths = [channels, *(width * min(2**level, 8) for level in range(layers + 1))]
        strides = [*[2] * layers, 1]
        blocks = [
            [nn.Conv2d(n, m, 4, stride, 1), nn.LeakyReLU(0.2)]
            for (n, m), stride in zip(itertools.pairwise(widths), strides, strict=True)
        ]
        self.layers = nn.Sequential(*[part for block in blocks for part in block], nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(self.layers(2 * x - 1)).flatten(1)


def logits(critic: nn.Module, z: Tensor) -> Tensor:
    """The critic's logits (N,) of z (N, D)."""
    return full_precision(critic(z)).squeeze(-1)


def frozen(critic: nn.Module, z: Tensor) -> Tensor:
    """`logits`, whose gradient goes to z alone."""
    return full_precision(fixed(critic, z)).squeeze(-1)


def fixed(critic: nn.Module, x: Tensor) -> Any:
    """What the critic gives for x, whose gradient goes to x alone."""
    return functional_call(critic, {name: part.detach() for name, part in critic.named_parameters()}, (x,))
