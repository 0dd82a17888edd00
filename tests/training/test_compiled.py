"""trainer.compile=true with each posterior and objective: torch.compile follows a step, which has the same values."""

import pytest
import torch
from conftest import config
from test_waits import parts
from vgg import vgg_words

from cvae.build import build_vae, make
from cvae.errors import ConfigError
from cvae.training.compatible import require_objective
from cvae.training.engine import training_terms

ONE_PROGRAM = [
    *[(f"objective={name}",) for name in (
        "elbo", "aae", "vae_gan", "factor_vae", "dip_vae", "capacity", "miwae", "piwae", "ciwae", "renyi"
    )],
    ("posterior=wrapped_normal", "prior=wrapped_normal"),
    ("posterior=power_spherical", "prior=uniform_sphere"),
    ("posterior=vq", "posterior.quantizers=3", "prior=uniform"),
    ("posterior=deterministic", "objective=wae"),
    ("posterior=deterministic", "prior=none", "objective=rae"),
    ("posterior=deterministic", "objective=aae"),
    ("model=resnet", "model.attention=[7]"),
    ("model=ladder", "model.attention=[7,14]"),
]  # fmt: skip
SEVERAL = [("posterior=flow",), ("posterior=iaf",)]  # torch.compile leaves zuko's masked networks out


@pytest.mark.slow
@pytest.mark.parametrize("choices", [*ONE_PROGRAM, *SEVERAL], ids=lambda choices: " ".join(choices[:2]))
def test_a_compiled_step_has_the_same_values(choices):
    """One program of the step where `fullgraph` says so; without a compiler, whose rounding would differ."""
    vae, objective, x, y = parts(*choices)
    x, start = torch.rand_like(x), [{k: v.clone() for k, v in part.state_dict().items()} for part in (vae, objective)]
    parameters, found = [*vae.parameters(), *objective.parameters()], []
    torch._dynamo.reset()
    compiled = torch.compile(training_terms, fullgraph=choices in ONE_PROGRAM, backend="eager", dynamic=False)
    for run in (training_terms, compiled):
        vae.load_state_dict(start[0]), objective.load_state_dict(start[1])
        torch.manual_seed(1)
        terms = run(objective, vae.train(), x, y, torch.tensor(3))
        gradients = torch.autograd.grad(terms.loss.mean(), parameters, allow_unused=True)
        learned = [value.clone() for value in vae.state_dict().values()]  # codebooks
        found.append([*terms[:1], terms.distortion, *terms.parts.values(), *gradients, *learned])
    torch.testing.assert_close(found[1], found[0])


def test_what_takes_gradients_inside_a_step_is_refused():
    cfg = config("data=synthetic", "data.image_shape=[1,16,16]", "model=mlp", "objective=perceptual_gan", *vgg_words())
    vae, objective = build_vae(cfg), make(cfg, "objective")
    require_objective(cfg, vae, objective)
    cfg.trainer.compile = True
    with pytest.raises(ConfigError, match="^trainer.compile=True: must be false with objective=.*PerceptualGAN, which"):
        require_objective(cfg, vae, objective)
