"""The small ConvNets of three tutorials: TensorFlow's, keras.io's and TensorFlow Probability's.

The ReLUs write in place: no layer before them needs its output again, and a step writes less memory.
"""

import math
from collections.abc import Sequence

from torch import nn

from cvae.checks import positive_int
from cvae.networks.layers import (
    Conv2dSame,
    ConvTranspose2dSame,
    FlattenHWC,
    Shift,
    UnflattenHWC,
    halved,
    keras_init,
    two_filters,
)


def conv(
    image_shape: Sequence[int],
    latent_dim: int,
    num_features: int,
    num_params: int,
    filters: int | Sequence[int] = (32, 64),
    base_channels: int = 32,
) -> tuple[nn.Module, nn.Module]:
    """The two small ConvNets of TensorFlow's tutorial "Convolutional Variational Autoencoder".

    Encoder: two 3x3 convolutions of stride 2 without padding, then a dense layer to the features. Decoder: a dense
    layer to (H/4, W/4, base_channels), two 3x3 transposed convolutions of stride 2, and one of stride 1 to the
    parameters.

    Args:
        filters: channels of the two convolutions, mirrored in the decoder; one number stands for both.
        base_channels: channels of the map that the decoder's dense layer makes (the tutorial's 32).

    Raises:
        ConfigError: an option is not as above, or H or W is below 7.
    """
    channels, height, width = image_shape
    full, half, quarter = halved(image_shape, 2, least=7)
    first, second = two_filters(filters)
    positive_int("base_channels", base_channels)
    small = math.prod(((n - 3) // 2 + 1 - 3) // 2 + 1 for n in (height, width))  # after two unpadded convolutions

    encoder = nn.Sequential(
        nn.Conv2d(channels, first, 3, stride=2), nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, stride=2), nn.ReLU(inplace=True),
        FlattenHWC(),
        nn.Linear(small * second, num_features),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent_dim, math.prod(quarter) * base_channels), nn.ReLU(inplace=True),
        UnflattenHWC(*quarter, base_channels),
        ConvTranspose2dSame(base_channels, second, 3, stride=2, size=half), nn.ReLU(inplace=True),
        ConvTranspose2dSame(second, first, 3, stride=2, size=full), nn.ReLU(inplace=True),
        ConvTranspose2dSame(first, num_params, 3, stride=1),
    )  # fmt: skip
    return encoder.apply(keras_init), decoder.apply(keras_init)


def conv_keras_io(
    image_shape: Sequence[int],
    latent_dim: int,
    num_features: int,
    num_params: int,
    filters: int | Sequence[int] = (32, 64),
    hidden: int = 16,
) -> tuple[nn.Module, nn.Module]:
    """The ConvNets of the keras.io example "Variational AutoEncoder" (keras.io/examples/generative/vae).

    Encoder: two 3x3 convolutions of stride 2, a dense layer of `hidden` units, and a dense layer to the features (the
    example's two layers, for mean and log-variance, side by side). Decoder: a dense layer to (H/4, W/4, filters[1]),
    two 3x3 transposed convolutions of stride 2, and one of stride 1 to the parameters. All padding is "same".

    Args:
        filters: channels of the two convolutions, mirrored in the decoder; one number stands for both.
        hidden: units of the encoder's dense layer.

    Raises:
        ConfigError: an option is not as above, or H or W is below 4.
    """
    channels, (full, half, small) = image_shape[0], halved(image_shape, 2)
    first, second = two_filters(filters)

    encoder = nn.Sequential(
        Conv2dSame(channels, first, 3, stride=2), nn.ReLU(inplace=True),
        Conv2dSame(first, second, 3, stride=2), nn.ReLU(inplace=True),
        FlattenHWC(),
        nn.Linear(math.prod(small) * second, positive_int("hidden", hidden)), nn.ReLU(inplace=True),
        nn.Linear(hidden, num_features),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent_dim, math.prod(small) * second), nn.ReLU(inplace=True),
        UnflattenHWC(*small, second),
        ConvTranspose2dSame(second, second, 3, stride=2, size=half), nn.ReLU(inplace=True),
        ConvTranspose2dSame(second, first, 3, stride=2, size=full), nn.ReLU(inplace=True),
        ConvTranspose2dSame(first, num_params, 3, stride=1),
    )  # fmt: skip
    return encoder.apply(keras_init), decoder.apply(keras_init)


def conv_tfp(
    image_shape: Sequence[int],
    latent_dim: int,
    num_features: int,
    num_params: int,
    filters: int | Sequence[int] = (32, 64),
    bottleneck: int = 64,
) -> tuple[nn.Module, nn.Module]:
    """The ConvNets of TensorFlow Probability's tutorial "Probabilistic Layers: Variational Auto Encoder".

    Encoder: the pixels, shifted to [-0.5, 0.5]; four 5x5 convolutions of strides 1, 2, 1, 2; a convolution that spans
    the whole (H/4, W/4) map (7x7 in the tutorial); a dense layer to the features. Decoder: a transposed convolution
    that spans the whole map, five 5x5 ones of strides 1, 2, 1, 2, 1, and a 5x5 convolution to the parameters.

    Args:
        filters: channels of the convolutions at the full and at half the size, mirrored in the decoder; one number
            stands for both.
        bottleneck: channels of the convolution that spans the map (the tutorial's 4 * encoded_size).

    Raises:
        ConfigError: an option is not as above, or H or W is below 4.
    """
    channels, (full, half, small) = image_shape[0], halved(image_shape, 2)
    first, second = two_filters(filters)
    slope = 0.2  # tf.nn.leaky_relu's slope

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
        ConvTranspose2dSame(second, second, 5, stride=2, size=half), nn.LeakyReLU(slope),
        ConvTranspose2dSame(second, first, 5, stride=1), nn.LeakyReLU(slope),
        ConvTranspose2dSame(first, first, 5, stride=2, size=full), nn.LeakyReLU(slope),
        ConvTranspose2dSame(first, first, 5, stride=1), nn.LeakyReLU(slope),
        Conv2dSame(first, num_params, 5, stride=1),
    )  # fmt: skip
    return encoder.apply(keras_init), decoder.apply(keras_init)
