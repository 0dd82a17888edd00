"""Shared layers: TensorFlow's padding and flattening, Keras's initialization, checks of sizes."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from cvae.checks import is_int, one_of
from cvae.errors import ConfigError
from cvae.kernels import conv2d_to_one_channel, conv_transpose2d_same, serves_one_channel

Size = tuple[int, int]  # height and width of a map


def divisible(image_shape: Sequence[int], stride: int) -> tuple[int, int, int]:
    """(C, H, W), for networks that need it. Raises ConfigError unless H and W are multiples of `stride`."""
    channels, height, width = image_shape
    if any(n % stride or n < stride for n in (height, width)):
        smaller, larger = (
            [max(1, to_int(n / stride)) * stride for n in (height, width)] for to_int in (math.floor, math.ceil)
        )
        examples = " or ".join(dict.fromkeys(f"{h}x{w}" for h, w in (smaller, larger)))
        allowed = f"[C, H, W] with H and W multiples of {stride} for this network, such as {examples}"
        raise ConfigError("image_shape", list(image_shape), allowed)
    return channels, height, width


def halved(image_shape: Sequence[int], times: int, least: int | None = None) -> list[Size]:
    """The sizes of the maps of images (C, H, W), from theirs down, each half of the one before, rounded up.

    Raises:
        ConfigError: H or W is below `least`, by default 2**times, with which the last size is at least 1.
    """
    least, (height, width) = least or 2**times, image_shape[1:]
    if min(height, width) < least:
        raise ConfigError("image_shape", list(image_shape), f"[C, H, W] with H and W at least {least} for this network")
    return [(-(-height // 2**n), -(-width // 2**n)) for n in range(times + 1)]


def two_filters(filters: int | Sequence[int]) -> tuple[int, int]:
    """`n` -> (n, n); [n, m] -> (n, m). Raises ConfigError unless n and m are positive integers."""
    pair = [filters] * 2 if is_int(filters) else filters
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(is_int(n) and n > 0 for n in pair):
        raise ConfigError("filters", filters, "a positive integer (for both layers) or a list of two, like [32,64]")
    return pair[0], pair[1]


def keras_init(module: nn.Module) -> None:
    """Keras's default initialization: Glorot-uniform kernels (Glorot and Bengio 2010, eq. 16), zero biases."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class FlattenHWC(nn.Module):
    """(B, C, H, W) -> (B, H*W*C), TensorFlow's order; in channels_last memory this moves no data."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class UnflattenHWC(nn.Module):
    """(B, H*W*C) -> (B, C, H, W), the inverse of FlattenHWC; the result is in channels_last memory."""

    def __init__(self, height: int, width: int, channels: int):
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.shape).permute(0, 3, 1, 2)


class FromMap(nn.Sequential):
    """A decoder of z (B, D) that lies on a map: (D / (H' W'), H', W'), flattened; `layers` follow a 1x1 convolution.

    Raises:
        ConfigError: D is not a multiple of H' W'.
    """

    latent_map: tuple[int, int]  # (H', W')

    def __init__(self, latent_dim: int, channels: int, places: Sequence[int], *layers: nn.Module):
        each = of_each_place("the numbers of z", latent_dim, places)
        super().__init__(nn.Unflatten(1, (each, *places)), nn.Conv2d(each, channels, 1), *layers)
        self.latent_map = (places[0], places[1])


def to_map(channels: int, num_features: int, places: Sequence[int]) -> list[nn.Module]:
    """Layers from (B, channels, H', W') to features (B, F) that lie on the map, as z does for `FromMap`.

    Raises:
        ConfigError: F is not a multiple of H' W'.
    """
    return [nn.Conv2d(channels, of_each_place("the posterior's features", num_features, places), 1), nn.Flatten()]


def of_each_place(what: str, count: int, places: Sequence[int]) -> int:
    """The number of `count` values at each position of a map (H', W'). Raises ConfigError unless they divide evenly."""
    height, width = places
    if count % (height * width):
        allowed = (
            f"false where {what}, {count}, are no multiple of the map's places, {height}x{width}. Make "
            f"model.latent_dim a multiple of {height * width}; conditional=true, posterior=full_gaussian, flow and "
            "iaf do not go with it"
        )
        raise ConfigError("latent_map", True, allowed)
    return count // (height * width)


class Shift(nn.Module):
    """x + by."""

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class Conv2dSame(nn.Conv2d):
    """A convolution with TensorFlow's padding="same": (B, C, H, W) -> (B, C', ceil(H/stride), ceil(W/stride)).

    As many zeros surround the image as the last window needs. Where their number is odd, TensorFlow puts the larger
    half at the end; torch's `padding` cannot do that.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        missing = [
            max(k - 1 - (n - 1) % s, 0) for n, k, s in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        start, end = [n // 2 for n in missing], [n - n // 2 for n in missing]
        if start == end:
            if self.stride == (1, 1) and serves_one_channel(x, self.out_channels):
                return conv2d_to_one_channel(x, self.weight, self.bias)
            return F.conv2d(x, self.weight, self.bias, self.stride, start)
        return F.conv2d(F.pad(x, (start[1], end[1], start[0], end[0])), self.weight, self.bias, self.stride)


class ConvTranspose2dSame(nn.ConvTranspose2d):
    """A transposed convolution with TensorFlow's padding="same": (B, C, H, W) -> (B, C', stride*H, stride*W).

    size: (H', W') of the result, where that is smaller: its last rows and columns are left out
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, size: Sequence[int] | None = None
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.size = size and tuple(size)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # no output_size: "same" leaves no choice of it
        if self.stride == (1, 1) and self.kernel_size[0] % 2 and serves_one_channel(x, self.out_channels):
            return conv2d_to_one_channel(x, self.weight, self.bias, transposed=True)
        result = conv_transpose2d_same(x, self.weight, self.bias, self.stride[0])
        if self.size is None or result.shape[2:] == self.size:
            return result
        return result[:, :, : self.size[0], : self.size[1]]


class Recomputed(nn.Sequential):
    """Layers whose inner maps are computed once more in the backward pass, not kept until then (Chen et al. 2016).

    Same results and gradients, for a second forward pass. It is for layers without noise and without buffers. The
    parameters go in as arguments: `functional_call`, which holds weights constant, is over when they are used again.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        names, parameters = zip(*self.named_parameters(), strict=True)

        def layers(x: Tensor, *parameters: Tensor) -> Tensor:
            given = dict(zip(names, parameters, strict=True))
            for name, layer in self._modules.items():
                own = {key.removeprefix(f"{name}."): part for key, part in given.items() if key.startswith(f"{name}.")}
                x = functional_call(layer, own, (x,))
            return x

        return checkpoint(layers, x, *parameters, use_reentrant=False, preserve_rng_state=False)


def layers_of(checkpointing: bool) -> type[nn.Sequential]:
    """How layers are put one after the other, with `model.checkpointing` or without."""
    return Recomputed if one_of("checkpointing", checkpointing, (False, True)) else nn.Sequential
