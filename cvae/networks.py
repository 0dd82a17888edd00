"""Encoders x (B, C, H, W) -> features (B, F) and decoders z (B, D) -> parameters (B, P, H, W), always as a pair.

A network is a function of (image_shape, latent_dim, num_features, num_params) and its own options that returns the two
modules. How many features the posterior reads and how many parameter maps the likelihood reads is theirs to say.

Every network raises ConfigError for an option that is not allowed, and for an image whose height or width is no multiple of
the network's total stride; the message names sizes that work.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from cvae.errors import ConfigError, is_int, one_of, positive_int


def conv(image_shape, latent_dim: int, num_features: int, num_params: int, filters=(32, 64), base_channels: int = 32):
    """The two small ConvNets of TensorFlow's tutorial "Convolutional Variational Autoencoder".

    Encoder: two 3x3 convolutions of stride 2 without padding, then a dense layer to the features. Decoder: a dense layer
    to (H/4, W/4, base_channels), two 3x3 transposed convolutions of stride 2, one of stride 1 to the parameters.

    Args:
        filters: channels of the two convolutions, mirrored in the decoder; one number stands for both.
        base_channels: channels of the map that the decoder's dense layer makes (the tutorial's 32).

    Raises:
        ConfigError: `filters` is neither a positive integer nor two of them, `base_channels` is no positive integer, or H or
            W is no multiple of 4 of at least 8.
    """
    channels, height, width = divisible(image_shape, 4, least=8)
    first, second = two_filters(filters)
    positive_int("base_channels", base_channels)
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


def conv_keras_io(image_shape, latent_dim: int, num_features: int, num_params: int, filters=(32, 64), hidden: int = 16):
    """The ConvNets of the keras.io example "Variational AutoEncoder" (keras.io/examples/generative/vae).

    Encoder: two 3x3 convolutions of stride 2, a dense layer of `hidden` units, a dense layer to the features (the example's
    two, for mean and log-variance, side by side). Decoder: a dense layer to (H/4, W/4, filters[1]), two 3x3 transposed
    convolutions of stride 2, one of stride 1 to the parameters. All padding is "same".

    Args:
        filters: channels of the two convolutions, mirrored in the decoder; one number stands for both.
        hidden: units of the encoder's dense layer.

    Raises:
        ConfigError: an option is not as above, or H or W is no multiple of 4.
    """
    channels, height, width = divisible(image_shape, 4)
    first, second = two_filters(filters)
    small = height // 4, width // 4

    encoder = nn.Sequential(
        Conv2dSame(channels, first, 3, stride=2), nn.ReLU(),
        Conv2dSame(first, second, 3, stride=2), nn.ReLU(),
        FlattenHWC(),
        nn.Linear(math.prod(small) * second, positive_int("hidden", hidden)), nn.ReLU(),
        nn.Linear(hidden, num_features),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent_dim, math.prod(small) * second), nn.ReLU(),
        UnflattenHWC(*small, second),
        ConvTranspose2dSame(second, second, 3, stride=2), nn.ReLU(),
        ConvTranspose2dSame(second, first, 3, stride=2), nn.ReLU(),
        ConvTranspose2dSame(first, num_params, 3, stride=1),
    )  # fmt: skip
    return encoder.apply(keras_init), decoder.apply(keras_init)


def conv_tfp(image_shape, latent_dim: int, num_features: int, num_params: int, filters=(32, 64), bottleneck: int = 64):
    """The ConvNets of TensorFlow Probability's tutorial "Probabilistic Layers: Variational Auto Encoder".

    Encoder: the pixels, shifted to [-0.5, 0.5]; four 5x5 convolutions of strides 1, 2, 1, 2; one that spans the whole
    (H/4, W/4) map (7x7 in the tutorial); a dense layer to the features. Decoder: a transposed convolution that spans the
    whole map, five 5x5 ones of strides 1, 2, 1, 2, 1, and a 5x5 convolution to the parameters.

    Args:
        filters: channels of the convolutions at the full and at half the size, mirrored in the decoder; one number stands
            for both.
        bottleneck: channels of the convolution that spans the map (the tutorial's 4 * encoded_size).

    Raises:
        ConfigError: an option is not as above, or H or W is no multiple of 4.
    """
    channels, height, width = divisible(image_shape, 4)
    first, second = two_filters(filters)
    small, slope = (height // 4, width // 4), 0.2  # tf.nn.leaky_relu's slope

    encoder = nn.Sequential(
        Shift(-0.5),
        Conv2dSame(channels, first, 5, stride=1), nn.LeakyReLU(slope),
        Conv2dSame(first, first, 5, stride=2), nn.LeakyReLU(slope),
        Conv2dSame(first, second, 5, stride=1), nn.LeakyReLU(slope),
        Conv2dSame(second, second, 5, stride=2), nn.LeakyReLU(slope),
        nn.Conv2d(second, positive_int("bottleneck", bottleneck), small), nn.LeakyReLU(slope),
        FlattenHWC(),
        nn.Linear(bottleneck, num_features),
    )  # fmt: skip
    decoder = nn.Sequential(
        UnflattenHWC(1, 1, latent_dim),
        nn.ConvTranspose2d(latent_dim, second, small), nn.LeakyReLU(slope),
        ConvTranspose2dSame(second, second, 5, stride=1), nn.LeakyReLU(slope),
        ConvTranspose2dSame(second, second, 5, stride=2), nn.LeakyReLU(slope),
        ConvTranspose2dSame(second, first, 5, stride=1), nn.LeakyReLU(slope),
        ConvTranspose2dSame(first, first, 5, stride=2), nn.LeakyReLU(slope),
        ConvTranspose2dSame(first, first, 5, stride=1), nn.LeakyReLU(slope),
        Conv2dSame(first, num_params, 5, stride=1),
    )  # fmt: skip
    return encoder.apply(keras_init), decoder.apply(keras_init)


def mlp(image_shape, latent_dim: int, num_features: int, num_params: int, hidden=(200, 200), activation: str = "tanh"):
    """Dense layers; the defaults are those of one stochastic layer in Burda et al. 2016 ("Importance Weighted Autoencoders").

    Args:
        hidden: widths of the encoder's hidden layers, in reverse order those of the decoder; [] makes both linear.
        activation: "relu" or "tanh", after each hidden layer.

    Raises:
        ConfigError: `hidden` is no list of positive integers, or `activation` is neither of the two.
    """
    channels, height, width = image_shape
    if not isinstance(hidden, Sequence) or isinstance(hidden, str) or not all(is_int(n) and n > 0 for n in hidden):
        raise ConfigError("hidden", hidden, "a list of positive integers, like [200,200]; [] for a linear network")
    nonlinear = {"relu": nn.ReLU, "tanh": nn.Tanh}[one_of("activation", activation, ("relu", "tanh"))]

    def layers(*widths):
        for wide, narrow in zip(widths[:-2], widths[1:-1], strict=True):
            yield from (nn.Linear(wide, narrow), nonlinear())
        yield nn.Linear(*widths[-2:])

    encoder = nn.Sequential(FlattenHWC(), *layers(channels * height * width, *hidden, num_features))
    decoder = nn.Sequential(
        *layers(latent_dim, *reversed(hidden), height * width * num_params), UnflattenHWC(height, width, num_params)
    )
    return encoder.apply(keras_init), decoder.apply(keras_init)


def resnet(
    image_shape, latent_dim: int, num_features: int, num_params: int, width: int = 64, depth: int = 2, halvings: int = 2
):
    """Residual networks in the style of Kingma et al. 2016 ("Improved Variational Inference with Inverse Autoregressive Flow").

    Encoder: `halvings` times a 4x4 convolution of stride 2 and `depth` residual blocks, then a dense layer from the whole
    small map to the features. The decoder mirrors it, with transposed convolutions; a 3x3 convolution at the full size makes
    the parameters. 28x28 becomes 7x7, 32x32 becomes 8x8; larger images want a third or fourth halving.

    Args:
        width: channels at half the image's size, doubled by each further halving.
        depth: residual blocks (two 3x3 convolutions each) at each size, in encoder and decoder.
        halvings: how often height and width are halved.

    Raises:
        ConfigError: an option is no positive integer, or H or W is no multiple of 2**halvings.
    """
    for key, value in {"width": width, "depth": depth, "halvings": halvings}.items():
        positive_int(key, value)
    channels, height, image_width = divisible(image_shape, 2**halvings)
    widths = [width * 2**level for level in range(halvings)]  # from the large maps to the small
    small = height // 2**halvings, image_width // 2**halvings, widths[-1]

    def blocks(n):
        return [ResidualBlock(n) for _ in range(depth)]

    down, up = [], []
    for before, after in pairwise([channels, *widths]):  # a kernel of twice the stride reaches each pixel equally often
        down += [Conv2dSame(before, after, 4, stride=2), *blocks(after)]
    for before, after in pairwise([*reversed(widths), width]):
        up += [*blocks(before), ConvTranspose2dSame(before, after, 4, stride=2)]

    encoder = nn.Sequential(*down, normed_silu(widths[-1]), FlattenHWC(), nn.Linear(math.prod(small), num_features))
    decoder = nn.Sequential(
        nn.Linear(latent_dim, math.prod(small)), UnflattenHWC(*small), *up, normed_silu(width), Conv2dSame(width, num_params, 3)
    )
    return encoder.apply(he_init), decoder.apply(he_init)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), (B, C, H, W) -> the same (He et al. 2016, "Identity Mappings …").

    `he_init` sets the second convolution to zero: a new block is the identity, so that any depth starts out alike.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.residual = nn.Sequential(
            normed_silu(channels), Conv2dSame(channels, channels, 3), normed_silu(channels), Conv2dSame(channels, channels, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def normed_silu(channels: int) -> nn.Sequential:
    """GroupNorm of up to 8 groups, which unlike BatchNorm lets no image depend on others, then SiLU."""
    return nn.Sequential(nn.GroupNorm(math.gcd(8, channels), channels), nn.SiLU())


def he_init(module: nn.Module) -> None:
    """He-normal kernels (He et al. 2015, eq. 10), zero biases; zero also the last kernel of each residual block."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):  # `apply` comes here after its layers
        nn.init.zeros_(module.residual[-1].weight)


def divisible(image_shape, stride: int, least: int | None = None) -> tuple[int, int, int]:
    """(C, H, W), or ConfigError, naming sizes that work, unless H and W are multiples of `stride` and at least `least`."""
    channels, *size = image_shape
    least = least or stride
    if any(n % stride or n < least for n in size):
        smaller, larger = ([max(least, to_int(n / stride) * stride) for n in size] for to_int in (math.floor, math.ceil))
        examples = " or ".join(dict.fromkeys(f"{h}x{w}" for h, w in (smaller, larger)))
        allowed = f"[C, H, W] with H and W multiples of {stride} and at least {least} for this network, such as {examples}"
        raise ConfigError("image_shape", list(image_shape), allowed)
    return channels, *size


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


class Shift(nn.Module):
    """x + by."""

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class Conv2dSame(nn.Conv2d):
    """A convolution with TensorFlow's padding="same": (B, C, H, W) -> (B, C', ceil(H/stride), ceil(W/stride)).

    The zeros around the image are as many as the last window needs; where their number is odd, TensorFlow puts the larger
    half at the end, which torch's `padding` cannot.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        missing = [max(k - 1 - (n - 1) % s, 0) for n, k, s in zip(x.shape[2:], self.kernel_size, self.stride)]
        start, end = [n // 2 for n in missing], [n - n // 2 for n in missing]
        if start != end:
            x, start = F.pad(x, (start[1], end[1], start[0], end[0])), 0
        return F.conv2d(x, self.weight, self.bias, self.stride, start)


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
