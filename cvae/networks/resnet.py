"""Residual networks."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvae.checks import is_int, one_of, positive_int
from cvae.errors import ConfigError
from cvae.networks.layers import (
    Conv2dSame,
    ConvTranspose2dSame,
    FlattenHWC,
    FromMap,
    Size,
    UnflattenHWC,
    halved,
    layers_of,
    to_map,
)


def resnet(
    image_shape: Sequence[int],
    latent_dim: int,
    num_features: int,
    num_params: int,
    width: int = 64,
    depth: int = 2,
    halvings: int | None = 2,
    latent_map: bool = False,
    attention: Sequence[int] = (),
    checkpointing: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Residual networks in the style of Kingma et al. 2016.

    That is "Improved Variational Inference with Inverse Autoregressive Flow". Encoder: `halvings` times a 4x4
    convolution of stride 2 and `depth` residual blocks, then a dense layer from the whole small map to the features.
    The decoder mirrors it, with transposed convolutions; a 3x3 convolution at the full size makes the parameters. With
    two halvings 28x28 becomes 7x7, and 32x32 becomes 8x8; larger images need a third or a fourth. Half of an
    odd size is rounded up.

    With `latent_map` the latents lie on the small map, as many at each place (van den Oord et al. 2017): a 1x1
    convolution takes the place of each dense layer.

    Args:
        width: channels at half the image's size; each further halving doubles them
        depth: residual blocks (two 3x3 convolutions each) at each size, in encoder and decoder
        halvings: how often height and width are halved; None: until the shorter one is at most 8
        latent_map: whether the latents lie on the small map
        attention: heights of the maps with a self-attention after each residual block, in encoder and decoder
        checkpointing: whether the inside of residual blocks is computed again in the backward pass, which saves memory

    Raises:
        ConfigError: an option is not as above, H or W is below 2**halvings, or with `latent_map` the places
            of the small map do not have equally many latents.
    """
    if halvings is None:
        halvings = halvings_of(*image_shape[1:])
    for key, value in {"width": width, "depth": depth, "halvings": halvings}.items():
        positive_int(key, value)
    channels, sizes = image_shape[0], halved(image_shape, halvings)
    widths = [width * 2**level for level in range(halvings)]  # from the large maps to the small
    places = sizes[-1]
    small = *places, widths[-1]
    attended = sizes_with_attention(attention, sizes[1:])

    def blocks(n: int, size: Size) -> list[nn.Module]:
        return residual_blocks(depth, n, checkpointing=checkpointing, attention=size in attended)

    down, up = [], []
    # Each pixel lies under equally many windows, as the kernel is twice the stride.
    for (before, after), size in zip(pairwise([channels, *widths]), sizes[1:], strict=True):
        down += [Conv2dSame(before, after, 4, stride=2), *blocks(after, size)]
    for (before, after), (size, large) in zip(
        pairwise([*reversed(widths), width]), pairwise(reversed(sizes)), strict=True
    ):
        up += [*blocks(before, size), ConvTranspose2dSame(before, after, 4, stride=2, size=large)]

    down += [normed_silu(widths[-1])]
    up += [normed_silu(width), Conv2dSame(width, num_params, 3)]
    if one_of("latent_map", latent_map, (False, True)):
        encoder = nn.Sequential(*down, *to_map(widths[-1], num_features, places))
        decoder: nn.Module = FromMap(latent_dim, widths[-1], places, *up)
    else:
        encoder = nn.Sequential(*down, FlattenHWC(), nn.Linear(math.prod(small), num_features))
        decoder = nn.Sequential(nn.Linear(latent_dim, math.prod(small)), UnflattenHWC(*small), *up)
    return encoder.apply(he_init), decoder.apply(he_init)


def halvings_of(height: int, width: int) -> int:
    """How often an image can be halved until its shorter side is at most 8: 28 -> 2, 64 -> 3; at least 1."""
    return max(1, (-(-min(height, width) // 8) - 1).bit_length())


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), (B, C, H, W) -> the same (He et al. 2016, "Identity Mappings …").

    `he_init` sets the second convolution to zero. So a new block is the identity: networks of any depth start alike.
    """

    def __init__(self, channels: int, kernel: int = 3, checkpointing: bool = False):
        super().__init__()
        self.residual = layers_of(checkpointing)(
            normed_silu(channels, kernel),
            Conv2dSame(channels, channels, kernel),
            normed_silu(channels, kernel),
            Conv2dSame(channels, channels, kernel),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class SelfAttention(nn.Module):
    """x + conv(attention(norm(x))) over all places of a map, (B, C, H, W) -> the same, as in Ho et al. 2020.

    That is "Denoising Diffusion Probabilistic Models"; Esser et al. 2021 use it in autoencoders. Queries, keys and
    values are 1x1 convolutions, with one head of all channels. `he_init` sets the last convolution to zero, so that a
    new network is the one without it.
    """

    def __init__(self, channels: int, checkpointing: bool = False):
        super().__init__()
        self.residual = layers_of(checkpointing)(
            GroupNorm(math.gcd(8, channels), channels),
            nn.Conv2d(channels, 3 * channels, 1),
            Attend(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class Attend(nn.Module):
    """softmax(Q K^T / sqrt(C)) V (Vaswani et al. 2017, eq. 1): (B, 3 C, H, W), Q, K and V -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.flatten(2).mT.unsqueeze(1).chunk(3, -1)  # (B, 1, H W, C), a head of all channels
        return F.scaled_dot_product_attention(q, k, v).squeeze(1).mT.unflatten(2, x.shape[2:])


def residual_blocks(
    depth: int, channels: int, kernel: int = 3, checkpointing: bool = False, attention: bool = False
) -> list[nn.Module]:
    """`depth` residual blocks of maps (B, channels, H, W), each with a self-attention behind it if there is to be one.

    checkpointing: whether their inside is computed again in the backward pass
    """
    blocks: list[nn.Module] = []
    for _ in range(depth):
        blocks.append(ResidualBlock(channels, kernel, checkpointing))
        blocks += [SelfAttention(channels, checkpointing)] if attention else []
    return blocks


def sizes_with_attention(heights: Sequence[int], sizes: Sequence[Size]) -> list[Size]:
    """Those of the maps' sizes whose heights are listed. Raises ConfigError for anything else than a list of these."""
    of_height = {size[0]: size for size in sizes}
    listed = isinstance(heights, Sequence) and not isinstance(heights, str)
    if not listed or not all(is_int(height) and height in of_height for height in heights):
        given, there = list(heights) if listed else heights, ", ".join(map(str, sorted(of_height))) or "none"
        raise ConfigError("attention", given, f"a list of heights of maps with blocks. There are: {there}")
    return [of_height[height] for height in heights]


def normed_silu(channels: int, kernel: int = 3) -> nn.Sequential:
    """GroupNorm of 8 groups (fewer if 8 does not divide `channels`), then SiLU; no image affects another.

    With 1x1 kernels it is one group: maps are then of one pixel, and a group of few channels has too few numbers.
    """
    return nn.Sequential(GroupNorm(math.gcd(8, channels) if kernel > 1 else 1, channels), nn.SiLU())


class GroupNorm(nn.GroupNorm):
    """torch's, but a map in half precision becomes float32 first, as autocast does on a GPU.

    On a CPU it does not, and there torch's bfloat16 kernel takes three times as long as the one for float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)


def he_init(module: nn.Module) -> None:
    """Kernels from N(0, 2 / fan-in) (He et al. 2015, eq. 10); zero biases; zeros at the end of what is added to x."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in(module)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (ResidualBlock, SelfAttention)):  # `apply` visits a block after its layers
        for parameter in module.residual[-1].parameters():
            nn.init.zeros_(parameter)


def fan_in(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> float:
    """How many inputs one output sums over.

    For a transposed convolution that is in_channels * kernel^2 / stride^2 on average: each input reaches kernel^2
    pixels of an output with stride^2 times as many. (torch's `kaiming_normal_` takes out_channels * kernel^2 there.)
    """
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
    return layer.weight[0].numel()
