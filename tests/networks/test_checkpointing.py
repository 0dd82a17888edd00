"""Maps that are computed again in the backward pass: the same gradients to the last bit, and less memory."""

import pytest
import torch
from conftest import config
from same_run import last
from tiny import QUIET, tiny

from cvae.build import build_vae, make
from cvae.errors import ConfigError
from cvae.networks.layers import Recomputed
from cvae.training.engine import training_terms
from cvae.training.train import train

BASE = ["data=synthetic", "data.image_shape=[1,16,16]", "model.latent_dim=3"]
NETWORKS = {
    "resnet": ["model=resnet", "model.width=8", "model.depth=2"],
    "resnet with a map": [
        "model=resnet", "model.width=8", "model.depth=1", "model.latent_map=true", "model.latent_dim=16"
    ],
    "resnet with attention": ["model=resnet", "model.width=8", "model.depth=1", "model.attention=[4]"],
    "ladder": ["model=ladder", "model.groups=[1x1,4x2,8x1]", "model.width=8", "model.attention=[8]"],
}  # fmt: skip
OBJECTIVES = {
    "elbo": [],
    "iwae, its weights held constant": ["objective=iwae", "objective.samples=2", "objective.gradient=dreg"],
}


def gradients(*words, precision=None):
    """(terms, gradients) of a training step."""
    cfg = config(*BASE, *words)
    torch.manual_seed(0)
    vae, objective = build_vae(cfg).train(), make(cfg, "objective")
    with torch.no_grad():
        for parameter in vae.parameters():  # the last layers of blocks begin as zeros
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    x = torch.rand(4, 1, 16, 16).round()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is not None):
        terms = training_terms(objective, vae, x, None, 3)
    terms.loss.mean().backward()
    return terms, {name: parameter.grad for name, parameter in vae.named_parameters()}


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradients_are_the_same_to_the_last_bit(network, objective, precision):
    words = [*NETWORKS[network], *OBJECTIVES[objective]]
    if network == "ladder":
        words = [word.replace("dreg", "stl") for word in words]
    (one, kept), (two, again) = (
        gradients(*words, f"model.checkpointing={way}", precision=precision) for way in ("false", "true")
    )
    torch.testing.assert_close(one.loss, two.loss, rtol=0, atol=0)
    assert kept.keys() == again.keys() and all(part is not None for part in kept.values())
    torch.testing.assert_close(kept, again, rtol=0, atol=0)


def kept_bytes(layers, x):
    """What the backward pass of these layers finds in memory."""
    found = {}

    def pack(tensor):
        found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layers(x).sum().backward()
    return sum(found.values())


def test_fewer_maps_are_kept_and_the_layers_run_twice():
    def layers(kind):
        return kind(*(part for _ in range(3) for part in (torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.SiLU())))

    x, counts = torch.randn(2, 4, 16, 16, requires_grad=True), []
    assert kept_bytes(layers(Recomputed), x) < 0.5 * kept_bytes(layers(torch.nn.Sequential), x)
    for made in (layers(torch.nn.Sequential), layers(Recomputed), layers(Recomputed).eval()):
        calls = []
        for layer in made:
            layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        out, before = made(x), len(calls)
        out.sum().backward()
        counts.append((before, len(calls)))
    assert counts == [(6, 6), (6, 11), (6, 6)]  # of the last layer the map before it is enough


def test_a_training_is_the_same_and_says_so_of_a_wrong_value(tmp_path):
    words = [*QUIET, "model=ladder", "model.latent_dim=2", "model.groups=[4x1]", "model.width=4"]
    for way in ("true", "false"):
        train(tiny(tmp_path / way, *words, f"model.checkpointing={way}", "trainer.max_epochs=1"))
    torch.testing.assert_close(
        last(tmp_path / "true")["state_dict"], last(tmp_path / "false")["state_dict"], rtol=0, atol=0
    )
    with pytest.raises(ConfigError, match="^model.checkpointing=1: must be one of False, True"):
        train(tiny(tmp_path / "wrong", *words, "model.checkpointing=1"))
    with pytest.raises(ConfigError, match="^model.checkpointing=True: must be false with trainer.compile=true"):
        train(tiny(tmp_path / "compiled", *words, "model.checkpointing=true", "trainer.compile=true"))
