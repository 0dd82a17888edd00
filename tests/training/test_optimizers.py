"""The files of conf/optimizer and conf/scheduler: torch's classes, with the values that stand there."""

import pytest
import torch
from conftest import ROOT, config
from omegaconf import OmegaConf
from tiny import QUIET, trained

from cvae.build import make
from cvae.training.options import check

OPTIMIZERS = {path.stem: OmegaConf.load(path) for path in (ROOT / "conf" / "optimizer").glob("*.yaml")}
SCHEDULERS = {path.stem: OmegaConf.load(path) for path in (ROOT / "conf" / "scheduler").glob("*.yaml")}


def optimizer_of(*words):
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    return weight, make(config(*words), "optimizer")([weight])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_called_as_torch_calls_it(name):
    target = OPTIMIZERS[name]._target_
    assert target.startswith("torch.optim.") and target.rpartition(".")[2].lower() == name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_value_of_an_optimizer_arrives(name):
    """But for the learning rate, which is the experiment's where it has one."""
    _, optimizer = optimizer_of(f"optimizer={name}", "optimizer.lr=0.0125")
    values = {key: value for key, value in OPTIMIZERS[name].items() if not key.startswith("_")} | {"lr": 0.0125}
    for key, value in values.items():
        found = optimizer.defaults[key]
        assert list(found) == list(value) if key == "betas" else found == value, key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_downhill(name):
    weight, optimizer = optimizer_of(f"optimizer={name}", "optimizer.lr=0.01")
    before = weight.square().sum().item()
    for _ in range(5):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert 0 < weight.square().sum() < before


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"adam"}))
def test_a_run_with_each_optimizer(name, tmp_path):
    _, elbo = trained(tmp_path, f"optimizer={name}", *QUIET, "~callbacks.checkpoint", "trainer.max_epochs=1")
    assert elbo < 0


def learning_rates(*words):
    """Those of the first five epochs, starting with 0.5."""
    _, optimizer = optimizer_of("optimizer=sgd", "optimizer.lr=0.5")
    scheduler, found = make(config(*words), "scheduler")(optimizer), []
    for _ in range(5):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), scheduler.step()
    return found


def test_the_schedulers_by_value():
    assert learning_rates() == [0.5] * 5
    assert learning_rates("scheduler=exponential", "scheduler.gamma=0.5") == [0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert learning_rates("scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.5") == [
        0.5, 0.5, 0.25, 0.25, 0.125
    ]  # fmt: skip
    cosine = learning_rates("scheduler=cosine", "scheduler.T_max=4", "scheduler.eta_min=0.1")
    assert cosine == pytest.approx([0.5, 0.44142, 0.3, 0.15858, 0.1], abs=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rules_take_every_scheduler(name):
    check(config(f"scheduler={name}"))
