"""The small ConvNets layer by layer: what each reads and writes, its kernel, stride and padding, in their order."""

import pytest
import torch
from torch import nn

from cvae import networks
from cvae.networks.layers import Conv2dSame, ConvTranspose2dSame, FlattenHWC, Shift, UnflattenHWC

# For images (2, 8, 12), 3 latents, 7 features and 4 parameters a pixel; filters 5 and 6.
TABLES = {
    "conv": (
        {"base_channels": 9},
        [
            ("Conv2d", 2, 5, (3, 3), (2, 2)), "ReLU", ("Conv2d", 5, 6, (3, 3), (2, 2)), "ReLU",
            "FlattenHWC", ("Linear", 1 * 2 * 6, 7),
        ],
        [
            ("Linear", 3, 2 * 3 * 9), "ReLU", ("UnflattenHWC", (2, 3, 9)),
            ("ConvTranspose2dSame", 9, 6, (3, 3), (2, 2)), "ReLU",
            ("ConvTranspose2dSame", 6, 5, (3, 3), (2, 2)), "ReLU", ("ConvTranspose2dSame", 5, 4, (3, 3), (1, 1)),
        ],
    ),
    "conv_keras_io": (
        {"hidden": 9},
        [
            ("Conv2dSame", 2, 5, (3, 3), (2, 2)), "ReLU", ("Conv2dSame", 5, 6, (3, 3), (2, 2)), "ReLU",
            "FlattenHWC", ("Linear", 2 * 3 * 6, 9), "ReLU", ("Linear", 9, 7),
        ],
        [
            ("Linear", 3, 2 * 3 * 6), "ReLU", ("UnflattenHWC", (2, 3, 6)),
            ("ConvTranspose2dSame", 6, 6, (3, 3), (2, 2)), "ReLU",
            ("ConvTranspose2dSame", 6, 5, (3, 3), (2, 2)), "ReLU", ("ConvTranspose2dSame", 5, 4, (3, 3), (1, 1)),
        ],
    ),
    "conv_tfp": (
        {"bottleneck": 9},
        [
            ("Shift", -0.5), ("Conv2dSame", 2, 5, (5, 5), (1, 1)), ("LeakyReLU", 0.2),
            ("Conv2dSame", 5, 5, (5, 5), (2, 2)), ("LeakyReLU", 0.2),
            ("Conv2dSame", 5, 6, (5, 5), (1, 1)), ("LeakyReLU", 0.2),
            ("Conv2dSame", 6, 6, (5, 5), (2, 2)), ("LeakyReLU", 0.2),
            ("Conv2d", 6, 9, (2, 3), (1, 1)), ("LeakyReLU", 0.2), "FlattenHWC", ("Linear", 9, 7),
        ],
        [
            ("UnflattenHWC", (1, 1, 3)), ("ConvTranspose2d", 3, 6, (2, 3), (1, 1)), ("LeakyReLU", 0.2),
            ("ConvTranspose2dSame", 6, 6, (5, 5), (1, 1)), ("LeakyReLU", 0.2),
            ("ConvTranspose2dSame", 6, 6, (5, 5), (2, 2)), ("LeakyReLU", 0.2),
            ("ConvTranspose2dSame", 6, 5, (5, 5), (1, 1)), ("LeakyReLU", 0.2),
            ("ConvTranspose2dSame", 5, 5, (5, 5), (2, 2)), ("LeakyReLU", 0.2),
            ("ConvTranspose2dSame", 5, 5, (5, 5), (1, 1)), ("LeakyReLU", 0.2),
            ("Conv2dSame", 5, 4, (5, 5), (1, 1)),
        ],
    ),
}  # fmt: skip


def described(layer):
    name = type(layer).__name__
    if isinstance(layer, nn.Linear):
        return name, layer.in_features, layer.out_features
    if isinstance(layer, (Conv2dSame, ConvTranspose2dSame, nn.Conv2d, nn.ConvTranspose2d)):
        return name, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
    values = {UnflattenHWC: "shape", Shift: "by", nn.LeakyReLU: "negative_slope"}
    assert type(layer) in (*values, nn.ReLU, FlattenHWC)
    return (name, getattr(layer, values[type(layer)])) if type(layer) in values else name


@pytest.mark.parametrize("name", TABLES)
def test_layers(name):
    options, *expected = TABLES[name]
    parts = getattr(networks, name)((2, 8, 12), 3, 7, 4, filters=[5, 6], **options)
    assert [[described(layer) for layer in part] for part in parts] == expected
    for part in parts:
        for layer in part:
            if type(layer) in (nn.Conv2d, nn.ConvTranspose2d):
                assert layer.padding == (0, 0)
            if type(layer) is nn.ReLU:
                assert layer.inplace
            if hasattr(layer, "bias"):
                assert not layer.bias.any() and layer.weight.any()  # Keras's initialization


@pytest.mark.parametrize(
    ("name", "sizes"), [("conv", (32, 64, 32)), ("conv_keras_io", (32, 64, 16)), ("conv_tfp", (32, 64, 64))]
)
def test_the_tutorials_own_sizes(name, sizes):
    encoder, decoder = getattr(networks, name)((1, 28, 28), 2, 4, 1)
    first, second, other = sizes
    channels = [layer.out_channels for layer in encoder if hasattr(layer, "out_channels")]
    assert channels == {"conv_tfp": [first, first, second, second, other]}.get(name, [first, second])
    if name == "conv_keras_io":
        assert [layer.out_features for layer in encoder if hasattr(layer, "out_features")] == [other, 4]
    if name == "conv":
        assert decoder[0].out_features == 7 * 7 * other
    assert encoder(torch.zeros(1, 1, 28, 28)).shape == (1, 4) and decoder(torch.zeros(1, 2)).shape == (1, 1, 28, 28)
