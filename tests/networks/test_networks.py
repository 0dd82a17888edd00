"""Every network: shapes, sizes that work and sizes that do not, TensorFlow's padding, published parameter counts."""

import inspect
import math

import numpy as np
import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from torch import nn

from cvae import networks
from cvae.build import make
from cvae.errors import ConfigError
from cvae.networks import layers
from cvae.networks.layers import Conv2dSame, ConvTranspose2dSame, keras_init
from cvae.networks.resnet import ResidualBlock, he_init, normed_silu

CONF = ROOT / "conf" / "model"

# name: (smallest size, options that make it small)
NETWORKS = {
    "conv": (7, {"filters": [3, 5], "base_channels": 4}),
    "conv_keras_io": (4, {"filters": [3, 5], "hidden": 6}),
    "conv_tfp": (4, {"filters": [3, 5], "bottleneck": 6}),
    "ladder": (1, {"groups": ["1x1"], "width": 6, "channels": 2}),
    "mlp": (1, {"hidden": [6, 5]}),
    "resnet": (4, {"width": 6, "depth": 1}),
}
WITH_STRIDE = [name for name, (least, _) in NETWORKS.items() if least > 1]


def build(name, image_shape, num_features=7, num_params=2, latent_dim=3, **options):
    """The pair that conf/model/NAME.yaml describes."""
    made = {
        "image_shape": image_shape,
        "latent_dim": latent_dim,
        "num_features": num_features,
        "num_params": num_params,
    }
    return make(OmegaConf.create({"model": {**OmegaConf.load(CONF / f"{name}.yaml"), **options}}), "model", **made)


def small(name, image_shape, **options):
    return build(name, image_shape, **{**NETWORKS[name][1], **options})


def count(module):
    return sum(p.numel() for p in module.parameters())


def reached(encoder, decoder):
    """The parameters that features and params depend on, by name: not those of a ladder that make q below the top."""
    return [(key, p) for part in (encoder, decoder) for key, p in part.named_parameters() if ".q." not in key]


def test_the_table_has_every_network():
    assert set(NETWORKS) == {path.stem for path in CONF.glob("*.yaml")}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_stands_in_its_file(name):
    """With the default of the function."""
    options = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    given = {"image_shape", "latent_dim", "num_features", "num_params"}
    parameters = inspect.signature(getattr(networks, name)).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items() if key not in given}
    as_lists = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    assert as_lists == {key: value for key, value in options.items() if key not in ("_target_", "latent_dim")}


@pytest.mark.parametrize("channels, height, width", [(1, 28, 28), (3, 32, 32), (2, 13, 20), (11, 64, 64)])
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_gradients(name, channels, height, width):
    encoder, decoder = small(name, (channels, height, width))
    x, z = torch.rand(2, channels, height, width), torch.randn(5, 3)
    features, params = encoder(x), decoder(z)
    assert features.shape == (2, 7)
    assert params.shape == (5, 2, height, width)
    (features.square().sum() + params.square().sum()).backward()
    for key, parameter in reached(encoder, decoder):
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_counts(name):
    """Away from the initialization's zeros every parameter has a gradient; and no image of a batch affects another."""
    encoder, decoder = (part.double() for part in small(name, (1, 8, 12)))
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *decoder.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, z = torch.rand(4, 1, 8, 12, dtype=torch.double), torch.randn(4, 3, dtype=torch.double)
    for part, given in ((encoder, x), (decoder, z)):
        together = part(given)
        torch.testing.assert_close(torch.cat([part(row[None]) for row in given]), together)
        together.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for _, p in reached(encoder, decoder))


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_changes_no_value(name):
    encoder, decoder = (part.double() for part in small(name, (2, 8, 12)))
    x, z = torch.rand(3, 2, 8, 12, dtype=torch.double), torch.randn(3, 3, dtype=torch.double)
    features, params = encoder(x), decoder(z)
    encoder, decoder = (part.to(memory_format=torch.channels_last) for part in (encoder, decoder))
    torch.testing.assert_close(encoder(x.contiguous(memory_format=torch.channels_last)), features)
    torch.testing.assert_close(decoder(z), params)


@pytest.mark.parametrize("name", WITH_STRIDE)
@pytest.mark.parametrize("size", [(2, 2), (28, 3), (3, 28), (1, 1)])
def test_impossible_sizes_name_the_smallest_that_works(name, size):
    with pytest.raises(ConfigError) as error:
        small(name, (1, *size))
    assert error.value.key == "data.image_shape" and str(list((1, *size))) in str(error.value)
    assert f"H and W at least {NETWORKS[name][0]} for this network" in error.value.allowed


@pytest.mark.parametrize("name", WITH_STRIDE)
def test_the_smallest_size(name):
    least = NETWORKS[name][0]
    encoder, decoder = small(name, (1, least, least))
    assert encoder(torch.zeros(2, 1, least, least)).shape == (2, 7)
    assert decoder(torch.zeros(2, 3)).shape == (2, 2, least, least)


@pytest.mark.parametrize(
    "name, key, value",
    [("conv", "filters", bad) for bad in (0, [32], [32, 0], "32", 1.5, True)]
    + [("conv_keras_io", "filters", [1, 2, 3]), ("conv_tfp", "filters", -1), ("conv", "base_channels", 0)]
    + [("conv_keras_io", "hidden", 0), ("conv_tfp", "bottleneck", 6.5), ("mlp", "activation", "silu")]
    + [("mlp", "hidden", bad) for bad in (200, "200", [200, 0], [1.5])]
    + [("resnet", key, bad) for key in ("width", "depth", "halvings") for bad in (0, 2.0)],
)
def test_bad_options_are_named(name, key, value):
    with pytest.raises(ConfigError) as error:
        build(name, (1, 28, 28), **{key: value})
    assert error.value.key == f"model.{key}" and error.value.value == value


@pytest.mark.parametrize(
    "name, options, parts, parameters",
    [
        ("conv_keras_io", {}, "encoder", 69_076),  # both as printed by keras.io/examples/generative/vae
        ("conv_keras_io", {}, "decoder", 65_089),
        ("mlp", {"hidden": [64], "activation": "relu"}, "encoder", 784 * 64 + 64 + 64 * 4 + 4),
        ("mlp", {"hidden": []}, "decoder", 2 * 784 + 784),
    ],
)
def test_parameter_counts(name, options, parts, parameters):
    encoder, decoder = build(name, (1, 28, 28), num_features=4, num_params=1, latent_dim=2, **options)
    assert count({"encoder": encoder, "decoder": decoder}[parts]) == parameters


@pytest.mark.parametrize("name", ["conv", "conv_keras_io", "conv_tfp"])
def test_one_number_of_filters_stands_for_both(name):
    one, two = (build(name, (1, 8, 8), filters=filters) for filters in (6, [6, 6]))
    assert [count(part) for part in one] == [count(part) for part in two]


def test_mlp_is_what_it_says():
    """Widths, their order in the decoder, and the activation."""
    encoder, decoder = build("mlp", (1, 4, 4), hidden=[9, 8, 5], activation="relu")
    widths = [[layer.out_features for layer in part if isinstance(layer, nn.Linear)] for part in (encoder, decoder)]
    assert widths == [[9, 8, 5, 7], [5, 8, 9, 4 * 4 * 2]]
    assert [type(layer) for layer in encoder if not hasattr(layer, "weight")] == [layers.FlattenHWC] + [nn.ReLU] * 3
    linear, _ = build("mlp", (1, 4, 4), hidden=[])
    a, b = torch.rand(2, 1, 1, 4, 4)
    torch.testing.assert_close(linear((a + b) / 2), (linear(a) + linear(b)) / 2)


def test_gated_layers_are_a_product():
    """Each hidden layer is W x + b times the sigmoid of V x + c (Dauphin et al. 2017); the last one is linear."""
    encoder, _ = build("mlp", (1, 4, 4), hidden=[9, 8], activation="gated")
    x = torch.rand(3, 1, 4, 4)
    h = x.flatten(1)  # one channel: TensorFlow's order is torch's
    *hidden, last = [layer for layer in encoder if isinstance(layer, nn.Linear)]
    for layer, width in zip(hidden, (9, 8), strict=True):
        (w, v), (b, c) = layer.weight.split(width), layer.bias.split(width)
        h = (h @ w.T + b) * (h @ v.T + c).sigmoid()
    torch.testing.assert_close(encoder(x), last(h))


def on_a_map(latents, num_features, **options):
    return build("resnet", (1, 8, 12), num_features, 2, latents, width=6, depth=1, latent_map=True, **options)


def test_latents_on_a_map_are_of_their_place():
    """z (n, H', W') and the features, flattened: far from a place nothing depends on what lies there."""
    encoder, decoder = on_a_map(18, 12)
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *decoder.parameters()]:
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert decoder.latent_map == (2, 3)
    x = torch.rand(1, 1, 8, 12, requires_grad=True)
    features = encoder(x)
    assert features.shape == (1, 12)
    by_place = features.unflatten(1, (2, 2, 3))
    kernel = encoder[-2].weight[:, :, 0, 0]
    expected = torch.einsum("fc,nchw->nfhw", kernel, encoder[:-2](x)) + encoder[-2].bias[:, None, None]
    torch.testing.assert_close(by_place, expected)
    z = torch.randn(1, 18)
    inside = torch.einsum("fc,nchw->nfhw", decoder[1].weight[:, :, 0, 0], z.view(1, 3, 2, 3))
    torch.testing.assert_close(decoder[1](decoder[0](z)), inside + decoder[1].bias[:, None, None])
    assert decoder(z).shape == (1, 2, 8, 12)


@pytest.mark.parametrize(("latents", "num_features", "what"), [(17, 12, "numbers of z, 17"), (18, 11, "features, 11")])
def test_a_map_has_as_many_latents_at_each_place(latents, num_features, what):
    message = rf"^model.latent_map=True: must be false where the .*{what}, are no multiple of the map's places, 2x3"
    with pytest.raises(ConfigError, match=message):
        on_a_map(latents, num_features)
    with pytest.raises(ConfigError, match="^model.latent_map=yes: must be one of False, True$"):
        build("resnet", (1, 8, 8), latent_map="yes")


# layer, how many inputs one output sums over, how many outputs one input reaches
LAYERS = [
    (nn.Linear(500, 300), 500, 300),
    (nn.Conv2d(40, 60, 3), 360, 540),
    (nn.Conv2d(40, 60, (2, 3)), 240, 360),
    (Conv2dSame(40, 60, 4, stride=2), 640, 960 / 4),
    (nn.ConvTranspose2d(40, 60, 3), 360, 540),
    (ConvTranspose2dSame(40, 60, 3, stride=1), 360, 540),
    (ConvTranspose2dSame(40, 60, 4, stride=2), 640 / 4, 960),
    (ConvTranspose2dSame(60, 40, 6, stride=3), 60 * 36 / 9, 40 * 36),
]
each_layer = pytest.mark.parametrize("layer, fan_in, fan_out", LAYERS, ids=lambda value: str(value))


def start(layer, init):
    nn.init.ones_(layer.bias)
    init(layer)
    assert not layer.bias.any()
    return layer.weight.detach().flatten()


@each_layer
def test_he_init(layer, fan_in, fan_out):
    """N(0, 2 / fan-in): the standard deviation, and the fourth moment of a normal variable, 3."""
    weights = start(layer, he_init)
    noise = len(weights) ** -0.5
    assert abs(weights.mean()) < 5 * noise * weights.std()
    assert weights.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=5 * noise)
    assert (weights / weights.std()).pow(4).mean().item() == pytest.approx(3, abs=60 * noise)


@each_layer
def test_he_init_keeps_the_variance_behind_a_relu(layer, fan_in, fan_out):
    """The mean square of the output is 1 where the input is the ReLU of standard normal numbers."""
    start(layer, he_init)
    channels = getattr(layer, "in_channels", None)
    x = torch.randn(8, channels, 24, 24) if channels else torch.randn(200, layer.in_features)
    out = layer(x.relu()).detach()
    inner = out[..., 4:-4, 4:-4] if channels else out  # where no window reaches the border
    assert inner.square().mean().item() == pytest.approx(1, rel=0.15)


@each_layer
def test_keras_init(layer, fan_in, fan_out):
    """Uniform within sqrt(6 / (fan-in + fan-out)); Keras leaves the stride out of its fans."""
    stride = math.prod(getattr(layer, "stride", (1,)))
    outputs = fan_out * (stride if isinstance(layer, nn.Conv2d) else 1)
    inputs = fan_in * (stride if isinstance(layer, nn.ConvTranspose2d) else 1)
    limit = (6 / (inputs + outputs)) ** 0.5
    weights = start(layer, keras_init)
    assert 0.99 * limit < weights.abs().max() <= limit
    assert weights.std().item() == pytest.approx(limit / 3**0.5, rel=5 * len(weights) ** -0.5)


def test_other_layers_keep_their_weights():
    for init in (he_init, keras_init):
        norm = nn.GroupNorm(2, 4)
        init(norm)
        assert norm.weight.eq(1).all() and norm.bias.eq(0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_starts_as_its_network_says(name):
    """He's normal weights in the residual networks, Glorot's uniform ones in the others; no biases."""
    for part in build(name, (1, 28, 28), num_features=8, num_params=2):
        zero = {block.residual[-1] for block in blocks_of(part)}
        groups = getattr(part, "groups", [])  # of a ladder
        zero |= {group.p[-1] for group in groups} | {group.q[-1] for group in groups}
        for layer in part.modules():
            if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                continue
            assert not layer.bias.any()
            weights, receptive = layer.weight.detach(), layer.weight[0, 0].numel()
            first, second = weights.shape[0] * receptive, weights.shape[1] * receptive
            if layer in zero:
                assert not weights.any()
            elif name in ("resnet", "ladder"):
                scale = len(groups) ** -0.5 if layer in {group.put for group in groups} else 1
                fan_in = first / 4 if isinstance(layer, nn.ConvTranspose2d) else second
                assert weights.std().item() == pytest.approx(
                    scale * (2 / fan_in) ** 0.5, rel=5 * weights.numel() ** -0.5
                )
            else:
                limit = (6 / (first + second)) ** 0.5
                assert 0.9 * limit < weights.abs().max() <= limit


@pytest.mark.parametrize("channels, groups", [(3, 1), (6, 2), (8, 8), (12, 4), (16, 8), (64, 8)])
def test_normalization_of_the_residual_network(channels, groups):
    """Over the channels of a group and space, for each image by itself; then x sigmoid(x)."""
    layer = normed_silu(channels).double()
    norm = layer[0]
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
    x = 3 + 2 * torch.randn(2, channels, 3, 4, dtype=torch.float64)
    grouped = x.reshape(2, groups, -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    normed = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    normed = normed * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(layer(x), normed * normed.sigmoid())


def test_residual_block_by_hand():
    """x + conv(silu(norm(conv(silu(norm(x)))))), each with its own weights."""
    block = ResidualBlock(4).double()
    first, conv, second, last = block.residual
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(block(x), x + last(second(conv(first(x)))))
    assert [type(part) for part in block.residual] == [nn.Sequential, Conv2dSame, nn.Sequential, Conv2dSame]
    assert (conv.kernel_size, last.kernel_size, conv.stride) == ((3, 3), (3, 3), (1, 1))


def blocks_of(module):
    return [layer for layer in module.modules() if isinstance(layer, ResidualBlock)]


def test_resnet_scales():
    """`depth` blocks at each of `halvings` sizes in both halves; twice the channels at half the size."""
    for depth, halvings in ((1, 1), (2, 3)):
        for part in small("resnet", (1, 16, 16), width=4, depth=depth, halvings=halvings):
            channels = [block.residual[1].in_channels for block in blocks_of(part)]
            assert sorted(channels) == sorted([4 * 2**level for level in range(halvings)] * depth)


def test_resnet_blocks_begin_as_the_identity():
    for part in small("resnet", (1, 8, 8), width=16):
        for block in blocks_of(part):
            x = torch.randn(2, block.residual[1].in_channels, 4, 4)
            assert torch.equal(block(x), x)
            block.residual[-1].weight.data.normal_()
            assert not torch.allclose(block(x), x)


def test_resnet_starts_in_range():
    """At the default size, outputs of a new network are neither dead nor saturated, whatever the depth."""
    for depth in (1, 8):
        encoder, decoder = build("resnet", (1, 28, 28), width=16, depth=depth)
        for out in (encoder(torch.rand(8, 1, 28, 28)), decoder(torch.randn(8, 3))):
            assert 0.2 < out.std() < 3


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_same_convolution_is_tensorflows(kernel, stride, size):
    """By definition: output i sums weight[k] * x[i * stride + k - start], `start` the smaller half of the padding."""
    layer = layers.Conv2dSame(1, 1, kernel, stride).double()
    x = torch.randn(size, size, dtype=torch.double)
    out_size = -(-size // stride)
    start = max((out_size - 1) * stride + kernel - size, 0) // 2
    padded = np.zeros((size + 2 * kernel, size + 2 * kernel))
    padded[start : start + size, start : start + size] = x
    expected = np.empty((out_size, out_size))
    for i, j in np.ndindex(out_size, out_size):
        window = padded[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
        expected[i, j] = (window * layer.weight[0, 0].detach().numpy()).sum() + layer.bias.item()
    np.testing.assert_allclose(layer(x[None, None])[0, 0].detach(), expected)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (4, 2), (5, 1), (5, 2), (5, 3), (7, 2), (2, 2), (1, 1)])
@pytest.mark.parametrize("height, width", [(4, 5), (3, 1)])
def test_same_transposed_convolution_is_the_adjoint(kernel, stride, height, width):
    """TensorFlow defines it as the convolution's gradient: <conv(x), y> = <x, transposed(y)> with the same weights."""
    conv, transposed = layers.Conv2dSame(3, 2, kernel, stride), layers.ConvTranspose2dSame(2, 3, kernel, stride)
    transposed.weight = conv.weight
    for layer in (conv, transposed):
        nn.init.zeros_(layer.bias)
        layer.double()
    x = torch.randn(1, 3, stride * height, stride * width, dtype=torch.double)
    y = torch.randn(1, 2, height, width, dtype=torch.double)
    assert transposed(y).shape == x.shape
    torch.testing.assert_close((conv(x) * y).sum(), (x * transposed(y)).sum())


@pytest.mark.parametrize("kernel, stride", [(3, 2), (4, 2), (5, 2), (5, 3), (2, 1)])
def test_same_convolution_pads_height_and_width_each_for_itself(kernel, stride):
    """A separable kernel: rows, then columns, as one-dimensional images."""
    layer, x = layers.Conv2dSame(1, 1, kernel, stride).double(), torch.randn(1, 1, 8, 9, dtype=torch.double)
    rows, columns = torch.randn(2, kernel, dtype=torch.double)
    nn.init.zeros_(layer.bias)

    def along_the_last(x, weights):
        length = x.shape[-1]
        missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        padded = nn.functional.pad(x, (missing // 2, missing - missing // 2))
        return padded.unfold(-1, kernel, stride) @ weights

    with torch.no_grad():
        layer.weight.copy_(rows[:, None] * columns)
    expected = along_the_last(along_the_last(x, columns).mT, rows).mT
    torch.testing.assert_close(layer(x), expected)


def test_flattening_is_in_tensorflows_order():
    """Height, then width, then channel; and the way back."""
    x = torch.arange(24.0).reshape(1, 2, 3, 4)  # x[0, c, h, w] = 12 c + 4 h + w
    flat = layers.FlattenHWC()(x)
    assert flat[0, :4].tolist() == [0, 12, 1, 13] and flat[0, 8].item() == 4
    back = layers.UnflattenHWC(3, 4, 2)(flat)
    assert torch.equal(back, x) and back.is_contiguous(memory_format=torch.channels_last)


def test_same_convolution_of_one_image_that_is_larger_than_the_kernel_needs():
    """With a stride above the kernel nothing is missing; TensorFlow then pads nothing, and drops the end."""
    layer = layers.Conv2dSame(1, 1, 1, stride=3)
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(layer(x), x[..., ::3, ::3] * layer.weight + layer.bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_in_half_precision_are_normalized_in_full(dtype):
    norm, x = normed_silu(16)[0], (5 + torch.randn(2, 16, 3, 4)).to(dtype)
    result = norm(x)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.nn.functional.group_norm(x.float(), 8, norm.weight, norm.bias))


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((28, 28), (7, 7)), ((64, 64), (8, 8)), ((32, 64), (8, 16)), ((8, 8), (4, 4)), ((16, 16), (8, 8)),
        ((12, 20), (6, 10)), ((36, 30), (9, 8)), ((33, 17), (9, 5)),
    ],
)  # fmt: skip
def test_halvings_that_fit_the_size(shape, maps):
    """Until the shorter side is at most 8; once at least."""
    encoder, _ = networks.resnet((1, *shape), 2, 4, 1, width=8, depth=1, halvings=None)
    assert encoder[:-2](torch.zeros(1, 1, *shape)).shape[2:] == maps
