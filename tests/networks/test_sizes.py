"""Images of any height and width: maps of odd sizes, and that the likelihood is of the image's pixels alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import config
from test_networks import NETWORKS, small
from tiny import tiny
from torch import nn

from cvae.build import build_vae
from cvae.errors import ConfigError
from cvae.networks.layers import Conv2dSame, ConvTranspose2dSame, divisible, halved
from cvae.networks.resnet import halvings_of
from cvae.runs.directory import Run
from cvae.training.train import train

SIZES = [(28, 28), (30, 50), (33, 17), (8, 8), (64, 48), (7, 13)]
SMALL = {  # words that make each kind of model small
    "conv": ["model.filters=4", "model.base_channels=4"],
    "conv_keras_io": ["model.filters=4"],
    "conv_tfp": ["model.filters=4", "model.bottleneck=6"],
    "ladder": ["model.width=8", "model.channels=2", "posterior=diagonal_gaussian"],
    "mlp": ["model.hidden=[6]"],
    "resnet": ["model.width=8", "model.depth=1", "model.halvings=null"],
}


def test_each_size_is_half_of_the_one_before_rounded_up():
    assert halved((1, 33, 17), 3) == [(33, 17), (17, 9), (9, 5), (5, 3)]
    assert halved((3, 28, 64), 2) == [(28, 64), (14, 32), (7, 16)]
    assert halved((1, 4, 5), 2) == [(4, 5), (2, 3), (1, 2)]
    with pytest.raises(ConfigError, match=r"^image_shape=\[1, 9, 3\]: must be .* H and W at least 4 for this network$"):
        halved((1, 9, 3), 2)


@pytest.mark.parametrize("size", [(30, 28), (28, 27), (2, 4), (0, 4)])
def test_sizes_that_must_be_multiples_name_some_that_are(size):
    assert divisible((3, 8, 12), 4) == (3, 8, 12)
    with pytest.raises(ConfigError, match="H and W multiples of 4 for this network, such as ") as error:
        divisible((1, *size), 4)
    for example in error.value.allowed.split("such as ")[1].split(" or "):
        assert divisible((1, *map(int, example.split("x"))), 4)


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("size", [(7, 10), (8, 9), (7, 9), (8, 10)])
def test_a_transposed_convolution_of_a_size_leaves_the_last_rows_and_columns_out(kernel, size):
    """By value, with its gradients; and it undoes what a convolution does to that size."""
    cut, whole = (ConvTranspose2dSame(3, 2, kernel, 2, size=of).double() for of in (size, None))
    whole.load_state_dict(cut.state_dict())
    x = torch.randn(2, 3, 4, 5, dtype=torch.double)
    assert Conv2dSame(2, 3, kernel, 2).double()(cut(x)).shape == x.shape
    expected = whole(x)[:, :, : size[0], : size[1]]
    torch.testing.assert_close(cut(x), expected, rtol=0, atol=0)
    grad = torch.randn_like(expected)
    for layer, result in ((cut, cut(x)), (whole, expected)):
        result.backward(grad)
        assert layer.weight.grad is not None
    torch.testing.assert_close(cut.weight.grad, whole.weight.grad)
    torch.testing.assert_close(cut.bias.grad, whole.bias.grad)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SMALL)
def test_log_p_is_of_the_pixels_of_the_image_alone(name, size):
    """By value: the cross-entropies of height * width pixels; none is of what odd sizes are rounded up to."""
    shape = f"data.image_shape=[1,{size[0]},{size[1]}]"
    vae = build_vae(config("data=synthetic", shape, f"model={name}", "model.latent_dim=3", *SMALL[name]))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x = torch.rand(2, 1, *size).round()
    trace = vae(x, samples=2)
    assert trace.px.mean.shape == (2, 2, 1, *size) and vae.encode(x).mean.shape == (2, 3)
    logits = torch.special.logit(trace.px.mean.double())
    entropies = F.binary_cross_entropy_with_logits(logits, x.double().expand_as(logits), reduction="none")
    assert entropies[0, 0].numel() == math.prod(size)
    torch.testing.assert_close(trace.px.log_prob(x), -entropies.sum((2, 3, 4)).float(), rtol=1e-4, atol=1e-3)
    assert vae.sample(3).shape == vae.reconstruct(torch.rand(3, 1, *size)).shape == (3, 1, *size)


def test_codes_on_a_map_of_an_odd_size():
    words = ["posterior=vq", "prior=uniform", "likelihood=bernoulli", "model=resnet", "model.latent_map=true"]
    words += ["model.width=8", "model.depth=1", "model.latent_dim=90", "data=synthetic", "data.image_shape=[1,33,17]"]
    vae = build_vae(config(*words))
    assert vae.latent_map == (9, 5)
    x = torch.rand(2, 1, 33, 17)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(2).shape == x.shape


@pytest.mark.parametrize("size", [(33, 17), (30, 50), (7, 13)])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "conv"])
def test_every_pixel_is_seen_and_made(name, size):
    """The tutorial's own encoder leaves out the last row of an even size, as TensorFlow's unpadded convolutions do."""
    options = {"ladder": {"groups": None}, "mlp": {"hidden": []}, "conv_keras_io": {"filters": 24, "hidden": 24}}
    encoder, decoder = (part.double() for part in small(name, (1, *size), **options.get(name, {})))
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *decoder.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.rand(1, 1, *size, dtype=torch.double, requires_grad=True)
    weights = torch.randn(7, dtype=torch.double)
    (encoder(x) @ weights).sum().backward()
    assert (x.grad != 0).all()
    one, other = decoder(torch.randn(2, 3, dtype=torch.double))
    assert (one != other).all()


@pytest.mark.parametrize(("size", "halvings"), [(8, 1), (9, 1), (16, 1), (17, 2), (28, 2), (32, 2), (33, 3), (64, 3)])
def test_halvings_until_the_shorter_side_is_at_most_8(size, halvings):
    assert halvings_of(size, 99) == halvings_of(99, size) == halvings
    assert halved((1, size, size), halvings)[-1][0] <= 8


def test_maps_of_the_decoder_are_those_of_the_encoder():
    encoder, decoder = small("resnet", (1, 33, 17), halvings=3)
    made = [layer.size for layer in decoder if isinstance(layer, ConvTranspose2dSame)]
    assert made == [(9, 5), (17, 9), (33, 17)]
    x, seen = torch.rand(1, 1, 33, 17), []
    for layer in encoder:
        seen += [tuple(x.shape[2:])] if isinstance(layer, Conv2dSame) else []
        x = layer(x)
    assert seen == made[::-1] and isinstance(encoder[-1], nn.Linear)


def test_a_run_on_images_of_an_odd_size(tmp_path):
    words = ["model=conv", "model.filters=4", "model.latent_dim=2", "trainer.max_epochs=1", "~logger.tensorboard"]
    train(tiny(tmp_path, *words, "data.image_shape=[1,33,17]"))
    run = Run(tmp_path)
    assert run.state() == "finished" and run.manifold().is_file() and run.image("sample", 1).is_file()
