"""A training step does not wait for a GPU and leaves nothing to Python's garbage collector: else it is no CUDA graph.

No GPU is needed to see that. The step is taken by tensors that are on a device of their own ("meta") and have no
values, and what would read one, or copy one from main memory, is refused.
"""

import contextlib
import gc
import itertools

import pytest
import torch
from conftest import config
from test_pairs import GREY, LIKELIHOODS, OF_CODES, ON_BALL, ON_SPHERE, SMALL, members
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cvae.build import build_vae, make
from cvae.training.engine import Compiled, training_terms

aten = torch.ops.aten
READS = {  # operators by which a GPU is waited for, on it or where they are called
    aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten._is_all_true, aten._is_any_true,
    aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.bincount, aten.repeat_interleave,
    aten.normal, aten.binomial, aten.lift_fresh, aten.lift, aten._pin_memory, aten.is_pinned,
}  # fmt: skip


class Waiting(AssertionError):
    """What would wait."""


class NoWaiting(TorchDispatchMode):
    """Refuses operators that wait for a GPU, and tensors in main memory. The GPU is called "meta" here."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {part.device.type for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)}
        made = {torch.device(kwargs["device"] or "cpu").type} if "device" in kwargs and not given else set()
        once = operator.overloadpacket == aten.multinomial and args[1] == 1  # looks whether all are probabilities
        if operator.overloadpacket in READS or once or (given | made) - {"meta"}:
            raise Waiting(f"{operator} of tensors on {sorted(given | made)}")
        if operator.overloadpacket in (aten._sample_dirichlet, aten._dirichlet_grad):  # "meta" does not have them
            return torch.empty_like(args[0])
        return operator(*args, **kwargs)


def words_of(*choices):
    """The words of a small model with these choices; benchmarks/gpu.py trains them, too."""
    small = [option for choice in choices for option in SMALL.get(choice, [])]
    if "model=ladder" in choices:
        small += ["model.groups=[1x1,7x2]"]
    return ["data=synthetic", "data.source.train_size=6", "model.latent_dim=3", *choices, *small]


def parts(*choices):
    """(vae, objective, x, y) of a small model with these choices."""
    cfg = config(*words_of(*choices))
    vae, objective = build_vae(cfg), make(cfg, "objective")
    objective.prepare(6)
    x = torch.zeros(6, *cfg.data.image_shape)
    return vae, objective, x, torch.zeros(6, dtype=torch.long) if vae.num_classes else None


def of_numbers(group):
    """The members that go with any other of numbers: not those of codes, of a sphere or of a ball alone."""
    alone = ON_SPHERE | ON_BALL
    return [name for name in members(group) if name not in OF_CODES[group] and f"{group}={name}" not in alone]


PRIORS = [name for name in of_numbers("prior") if name != "none"]
CHOICES = [
    *[(f"model={name}", "conditional=true") for name in members("model")],
    *[(f"likelihood={name}", *LIKELIHOODS[name]) for name in LIKELIHOODS],
    *[("likelihood=gaussian", *GREY, f"likelihood.scale={scale}") for scale in ("0.1", "global", "pixel")],
    *[(f"objective={one}", f"prior={other}") for one, other in itertools.product(members("objective"), PRIORS)],
    *[(f"posterior={name}", "prior=vamp") for name in of_numbers("posterior")],
    ("posterior=wrapped_normal", "prior=wrapped_normal"),
    *[("posterior=power_spherical", "prior=uniform_sphere", f"objective={name}") for name in ("elbo", "iwae")],
    *[(f"posterior={one}", f"prior={other}") for one, other in itertools.product(*OF_CODES.values())],
    ("posterior=vq", "posterior.quantizers=3", "prior=uniform"),
    *[("objective=iwae", f"objective.gradient={way}", "posterior=iaf") for way in ("stl", "dreg")],
    *[(f"objective/beta={name}",) for name in members("objective/beta")],
    ("posterior=categorical", "prior=uniform", "posterior/temperature=linear"),
    *[("posterior=deterministic", "prior=none", f"objective={name}") for name in ("autoencoder", "rae")],
    ("posterior=deterministic", "objective=wae"),
    ("model=ladder", "objective.free_bits=0.5"),
    ("model=resnet", "model.attention=[7]"),
    ("model=ladder", "model.attention=[7,14]"),
    ("objective.kl=closed_form", "objective.free_bits=0.5"),
    ("objective=infovae", "objective.kernel=imq"),
    ("objective=beta_tcvae", "objective.sampling=stratified"),
]


@pytest.mark.parametrize("choices", CHOICES, ids=" ".join)
def test_a_step_waits_for_no_device(choices, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which "meta" does not have
    vae, objective, x, y = parts(*choices)
    vae, objective, x, y = (part if part is None else part.to("meta") for part in (vae, objective, x, y))
    step = torch.full((), 3, device="meta")
    with NoWaiting():
        training_terms(objective, vae, x, y, step).loss.mean().backward()
    assert all(parameter.device.type == "meta" for parameter in vae.parameters())


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: torch.tensor(3, device=x.device),
        lambda x: torch.zeros(()).to(x.device),
        lambda x: x + torch.zeros(()),
        lambda x: bool(x.isfinite().all()),
        lambda x: x[x > 0],
        lambda x: torch.normal(x, x),
        lambda x: torch.distributions.Normal(x, 1.0, validate_args=False),
    ],
)
def test_what_waits_is_seen(waits):
    x = torch.zeros(3, device="meta")
    with pytest.raises((Waiting, RuntimeError)), NoWaiting():
        waits(x)


def test_a_compiled_step_is_given_its_number_without_waiting(monkeypatch):
    """And a number that is a tensor already, as a CUDA graph's is, is not copied."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda terms, **_: lambda *args: given.append(args[-1]))
    compiled = Compiled(training_terms)
    number = torch.full((), 7, device="meta")
    with NoWaiting():
        compiled(None, None, torch.zeros(3, device="meta"), None, 5)
        compiled(None, None, torch.zeros(3, device="meta"), None, number)
    assert given[0].device.type == "meta" and given[0].dtype == torch.int64 and given[1] is number


@pytest.mark.parametrize(
    "choices",
    [
        ("posterior=iaf",),
        ("posterior=iaf", "prior=vamp"),
        ("posterior=iaf", "objective=iwae", "objective.gradient=stl"),
        ("prior=flow", "objective=infovae"),
        ("prior=flow", "objective=infovae", "model.latent_dim=1"),
        ("posterior=full_gaussian", "prior=mixture"),
        ("posterior=vq", "prior=autoregressive"),
        ("model=ladder",),
    ],
    ids=" ".join,
)
def test_a_step_leaves_no_garbage(choices):
    """In a circle of references the graph of a step would live on beside that of the next one."""
    vae, objective, x, y = parts(*choices)
    gc.collect()
    gc.disable()
    try:
        training_terms(objective, vae, x, y, 0).loss.mean().backward()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [part for part in gc.garbage if isinstance(part, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
