"""Self-attention on small maps: its values, where it lies, how it starts, and that without it nothing changes."""

from itertools import chain

import pytest
import torch
from conftest import config
from tiny import QUIET, tiny
from torch import nn

from cvae import networks
from cvae.build import build_vae
from cvae.errors import ConfigError
from cvae.networks.ladder import BottomUp, TopDown
from cvae.networks.resnet import Attend, ResidualBlock, SelfAttention, he_init
from cvae.runs.directory import Run
from cvae.training.train import train

WORDS = ["data=synthetic", "data.image_shape=[1,33,17]", "model.latent_dim=3", "model.width=8", "model.depth=1"]
NETWORKS = {  # of images of 33x17, whose halves are 17x9, 9x5 and 5x3
    "resnet": ["model=resnet", "model.halvings=3"],
    "ladder": ["model=ladder", "model.groups=[1x1,5x2,9x1]", "model.channels=2"],
}


def away_from_zero(*modules):
    with torch.no_grad():
        for parameter in (parameter for module in modules for parameter in module.parameters()):
            parameter.add_(0.2 * torch.randn_like(parameter))


def plain_attention(layer, x):
    """By definition, place by place, in numbers of one image."""
    norm, qkv, _, out = layer.residual
    channels, places = x.shape[1], x[0, 0].numel()
    result = torch.empty_like(x).flatten(2)
    for number, image in enumerate(x):
        normed = nn.functional.group_norm(image[None], norm.num_groups, norm.weight, norm.bias, norm.eps)[0].flatten(1)
        q, k, v = (qkv.weight.flatten(1) @ normed + qkv.bias[:, None]).split(channels)
        for place in range(places):
            scores = torch.stack([q[:, place] @ k[:, other] for other in range(places)]) / channels**0.5
            weights = scores.exp() / scores.exp().sum()
            seen = sum(weights[other] * v[:, other] for other in range(places))
            result[number, :, place] = image.flatten(1)[:, place] + out.weight.flatten(1) @ seen + out.bias
    return result.unflatten(2, x.shape[2:])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(12, 4), (3, 1), (16, 8)])
def test_the_values_are_those_of_the_definition(channels, groups, checkpointing):
    layer = SelfAttention(channels, checkpointing).double()
    away_from_zero(layer)
    assert layer.residual[0].num_groups == groups
    x = torch.randn(2, channels, 3, 4, dtype=torch.double, requires_grad=True)
    wanted = plain_attention(layer, x)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), wanted)
    grad = torch.randn_like(wanted)
    given = (x, *layer.parameters())
    ours, plain = (torch.autograd.grad(result, given, grad) for result in (layer(x), wanted))
    torch.testing.assert_close(ours, plain)


def test_in_bfloat16_it_is_almost_the_same():
    layer, x = SelfAttention(16), torch.randn(2, 16, 5, 3)
    away_from_zero(layer)
    wanted = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.05)


def test_it_begins_as_the_identity_with_hes_weights():
    layer, x = SelfAttention(64).apply(he_init), torch.randn(2, 64, 4, 5)
    assert torch.equal(layer(x), x) and not layer.residual[1].bias.any()
    assert layer.residual[1].weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_new_network_is_the_one_without_it(network):
    """The same function, to the last bit, if the other weights are the same."""
    plain, attentive = (
        build_vae(config(*WORDS, *NETWORKS[network], f"model.attention={heights}")) for heights in ("[]", "[5,9]")
    )
    inside = {id(p) for part in attentive.modules() if isinstance(part, SelfAttention) for p in part.parameters()}
    others = [p for p in attentive.parameters() if id(p) not in inside]
    assert inside and len(others) == len(list(plain.parameters()))
    away_from_zero(plain)
    with torch.no_grad():
        for own, given in zip(others, plain.parameters(), strict=True):
            own.copy_(given)
    x, z = torch.rand(2, 1, 33, 17).round(), torch.randn(2, 3)
    assert torch.equal(plain.encoder(x), attentive.encoder(x)) and torch.equal(plain.decoder(z), attentive.decoder(z))
    away_from_zero(*(part for part in attentive.modules() if isinstance(part, SelfAttention)))
    assert not torch.allclose(plain.encoder(x), attentive.encoder(x))
    assert not torch.allclose(plain.decoder(z), attentive.decoder(z))


def kinds(module, x):
    """(class, height and width of the map) of each block and attention, in the order of their calls."""
    found = []
    for part in module.modules():
        if isinstance(part, (ResidualBlock, SelfAttention)):
            part.register_forward_hook(lambda part, _, out: found.append((type(part).__name__, tuple(out.shape[2:]))))
    module(x)
    return found


def block(*size):
    return [("ResidualBlock", size)]


def both(*size):
    return [("ResidualBlock", size), ("SelfAttention", size)]


def test_it_follows_each_block_of_the_maps_that_are_named():
    encoder, decoder = networks.resnet((1, 33, 17), 2, 4, 1, width=8, depth=2, halvings=3, attention=[5, 17])
    expected = [both(17, 9) * 2, block(9, 5) * 2, both(5, 3) * 2]
    assert kinds(encoder, torch.rand(1, 1, 33, 17)) == list(chain(*expected))
    assert kinds(decoder, torch.rand(1, 2)) == list(chain(*expected[::-1]))


def test_in_a_ladder_it_follows_the_blocks_of_the_encoder_and_of_the_groups():
    made = networks.ladder((1, 33, 17), 2, 4, 1, groups=["1x1", "5x2", "9x1", "33x1"], depth=2, attention=[5, 17, 33])
    assert [type(part) for part in made] == [BottomUp, TopDown]
    encoder, decoder = made
    seen = [both(33, 17) * 2, both(17, 9) * 2, block(9, 5) * 2, both(5, 3) * 2, block(1, 1) * 2]
    assert kinds(encoder, torch.rand(1, 1, 33, 17)) == list(chain(*seen))
    made = [block(1, 1) * 2, both(5, 3) * 4, block(9, 5) * 2, both(33, 17) * 2]
    assert kinds(decoder, torch.rand(1, 2)) == list(chain(*made))


def test_without_it_parameters_have_the_names_that_old_checkpoints_have():
    made = [*networks.resnet((1, 8, 8), 2, 4, 1, width=8, depth=1, halvings=1)]
    made += networks.ladder((1, 8, 8), 2, 4, 1, groups=["4x1"])
    parts = [f"residual.{part}.{kind}" for part in ("0.0", "1", "2.0", "3") for kind in ("weight", "bias")]
    weights = lambda *names: {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    inside = lambda name: {f"{name}.{part}" for part in parts}
    head = {part.removeprefix("residual.") for part in parts}
    assert [set(part.state_dict()) for part in made] == [
        weights("0", "2.0", "4") | inside("1"),
        weights("0", "3", "4.0", "5") | inside("2"),
        weights("parts.0.0", "features.0.0", "features.2") | inside("parts.0.1"),
        weights("start.0", "stages.0.groups.0.put", "end.0.0", "end.1", "end.2.0", "end.3")
        | inside("stages.0.groups.0.blocks.0")
        | {f"stages.0.groups.0.{way}.{part}" for way in "pq" for part in head},
    ]


BAD = [7, "5", [4], [33], [5.0], [True], ["5"], [5, 6], None, {5: 1}]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_height_that_no_map_has_is_named_with_those_that_there_are(network, value):
    options = {"resnet": {"halvings": 3}, "ladder": {"groups": ["1x1", "5x2", "9x1"]}}[network]
    with pytest.raises(ConfigError) as error:
        getattr(networks, network)((1, 33, 17), 3, 4, 1, attention=value, **options)
    assert error.value.key == "attention" and error.value.value == value
    assert error.value.allowed == "a list of heights of maps with blocks. There are: 5, 9, 17"


def test_dense_groups_have_no_maps():
    with pytest.raises(ConfigError, match=r"^attention=\[1\]: must be a list of heights .* There are: none$"):
        networks.ladder((1, 8, 8), 3, 4, 1, groups=["1x2"], attention=[1])


@pytest.mark.parametrize("network", NETWORKS)
def test_torch_compile_makes_one_program_of_it(network):
    vae = build_vae(config(*WORDS, *NETWORKS[network], "model.attention=[5]"))
    away_from_zero(vae)
    for part, given in ((vae.encoder, torch.rand(2, 1, 33, 17)), (vae.decoder, torch.randn(2, 3))):
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(part, backend="aot_eager", fullgraph=True)(given), part(given))


def test_a_program_of_it_takes_batches_of_any_size():
    layer = Attend()
    program = torch.export.export(layer, (torch.randn(2, 12, 3, 5),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for size in (1, 7):
        x = torch.randn(size, 12, 3, 5)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("words", [[], ["model.checkpointing=true", "trainer.precision=bf16-mixed"]])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_trains_it(network, words, tmp_path):
    words = [*WORDS[1:], *NETWORKS[network], *words, *QUIET, "trainer.max_epochs=1"]
    train(tiny(tmp_path, *words, "model.attention=[5]"))
    run = Run(tmp_path)
    assert run.state() == "finished"
    with pytest.raises(ConfigError, match=r"^model.attention=\[8\]: must be a list of heights .* There are: 5, 9, 17$"):
        train(tiny(tmp_path / "wrong", *words, "model.attention=[8]"))
