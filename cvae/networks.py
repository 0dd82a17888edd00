"""Encoders x (B, C, H, W) -> features (B, F) and decoders z (B, D) -> parameters (B, P, H, W), always as a pair.

A network is a function of (image_shape, latent_dim, num_features, num_params) and its own options that returns the two
modules. How many features the posterior reads and how many parameter maps the likelihood reads is theirs to say.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cvae.errors import ConfigError, is_int


def conv(image_shape, latent_dim: int, num_features: int, num_params: int, filters=(32, 64), base_channels: int = 32):
    """The two small ConvNets of TensorFlow's tutorial "Convolutional Variational Autoencoder".

    Encoder: two 3x3 convolutions of stride 2 without padding, then a dense layer to the features. Decoder: a dense layer
    to (H/4, W/4, base_channels), two 3x3 transposed convolutions of stride 2, one of stride 1 to the parameters.

    Args:
        filters: channels of the two convolutions, mirrored in the decoder; one number stands for both.
        base_channels: channels of the map that the decoder's dense layer makes (the tutorial's 32).

    Raises:
        ConfigError: `filters` is neither a positive integer nor two of them, or the image is no multiple of 4.
    """
    channels, height, width = image_shape
    first, second = two_filters(filters)
    if height % 4 or width % 4 or min(height, width) < 8:
        raise ConfigError("image_shape", list(image_shape), "[C, H, W] with H and W multiples of 4 and at least 8")
    valid = lambda size: ((size - 3) // 2 + 1 - 3) // 2 + 1  # two unpadded 3x3 convolutions of stride 2

    encoder = nn.Sequential(
        nn.Conv2d(channels, first, 3, stride=2), nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2), nn.ReLU(),
        FlattenHWC(),
        nn.Linear(valid(height) * valid(width) * second, num_features),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent_dim, height // 4 * (width // 4) * base_channels), nn.ReLU(),
        UnflattenHWC(height // 4, width // 4, base_channels),
        ConvTranspose2dSame(base_channels, second, 3, stride=2), nn.ReLU(),
        ConvTranspose2dSame(second, first, 3, stride=2), nn.ReLU(),
        ConvTranspose2dSame(first, num_params, 3, stride=1),
    )  # fmt: skip
    return encoder.apply(keras_init), decoder.apply(keras_init)


def two_filters(filters) -> tuple[int, int]:
    """`n` -> (n, n); [n, m] -> (n, m); else ConfigError."""
    pair = [filters] * 2 if is_int(filters) else filters
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(is_int(n) and n > 0 for n in pair):
        raise ConfigError("filters", filters, "a positive integer (for both layers) or a list of two, like [32,64]")
    return pair[0], pair[1]


def keras_init(module: nn.Module) -> None:
    """Keras's default initialization: Glorot-uniform kernels (Glorot and Bengio 2010, eq. 16), zero biases."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class FlattenHWC(nn.Module):
    """(B, C, H, W) -> (B, H*W*C), TensorFlow's order; with channels_last memory it moves no data."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class UnflattenHWC(nn.Module):
    """(B, H*W*C) -> (B, C, H, W), the inverse of FlattenHWC; the result is in channels_last memory."""

    def __init__(self, height: int, width: int, channels: int):
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.shape).permute(0, 3, 1, 2)


class ConvTranspose2dSame(nn.ConvTranspose2d):
    """A transposed convolution with TensorFlow's padding="same": (B, C, H, W) -> (B, C', stride*H, stride*W).

    The full result has kernel - stride rows too many. TensorFlow crops the smaller half of them at the start; torch's
    `padding` with `output_padding` crops the smaller half at the end. Where the two differ (an odd number), one row of
    zeros in front of the small input shifts the result into place, which is cheaper than cropping the large output.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        extra = kernel_size - stride
        self.shift = extra % 2
        padding = extra // 2 + self.shift * stride
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding=self.shift)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.shift, 0, self.shift, 0)) if self.shift else x)
