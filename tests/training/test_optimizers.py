"""The files of conf/optimizer and conf/scheduler: torch's classes, with the values that stand there."""

import itertools
import json

import pytest
import torch
from conftest import ROOT, config
from omegaconf import OmegaConf
from tiny import QUIET, tiny, trained

import cvae
from cvae.build import make
from cvae.cli.resume import resume
from cvae.runs.checkpoint import read_checkpoint
from cvae.runs.directory import Run
from cvae.training.options import check
from cvae.training.rates import schedule
from cvae.training.train import train

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


NOT_LISTED = {"_target_": "torch.optim.Rprop", "_partial_": True, "lr": 0.01, "etas": [0.5, 1.2]}


PAIRS = zip(sorted(OPTIMIZERS), itertools.cycle(SCHEDULERS))


@pytest.mark.parametrize(("optimizer", "scheduler"), [*PAIRS, ("rprop", "constant")])
def test_a_run_with_each_trains_goes_on_and_loads(optimizer, scheduler, tmp_path):
    """Also with a list (betas, etas) among the values, which optimizers keep in their state.

    Each optimizer and each scheduler, whose states are saved and put back one by one.
    """
    listed = optimizer if optimizer in OPTIMIZERS else "sgd"
    words = [f"optimizer={listed}", f"scheduler={scheduler}", *QUIET, "data.source.train_size=4"]
    cfg = tiny(tmp_path, *words, "trainer.max_epochs=1")
    if listed != optimizer:
        cfg.optimizer = NOT_LISTED
    train(cfg)
    run = Run(tmp_path)
    resume(run, ["trainer.max_epochs=2"], ROOT / "conf")
    assert run.state() == "finished" and json.loads(run.metrics.read_text())["steps"] == 2
    for name in ("last", "best", "previous"):
        assert cvae.load(tmp_path, name).sample(1).shape == (1, 1, 8, 8)
    groups = read_checkpoint(run.checkpoint("last"))["optimizer_states"][0]["param_groups"]
    assert type(groups[0].get("betas", [])) in (list, tuple)


@pytest.mark.parametrize("name", ["radam", "adamax", "nadam"])
def test_a_run_of_before_whose_betas_are_omegaconfs_opens_and_goes_on(name, tmp_path):
    trained(tmp_path, f"optimizer={name}", *QUIET, "trainer.max_epochs=1", "optimizer.betas=[0.8,0.95]")
    run = Run(tmp_path)
    for file in run.checkpoints.iterdir():
        content = torch.load(file, weights_only=True)
        betas = OmegaConf.create([0.8, 0.95], flags={"allow_objects": True})
        content["optimizer_states"][0]["param_groups"][0]["betas"] = betas
        torch.save(content, file)
        with pytest.raises(Exception, match=r"omegaconf\.listconfig"):
            torch.load(file, weights_only=True)
    assert cvae.load(tmp_path).sample(1).shape == (1, 1, 8, 8)
    assert read_checkpoint(file)["optimizer_states"][0]["param_groups"][0]["betas"] == [0.8, 0.95]
    resume(run, ["trainer.max_epochs=2"], ROOT / "conf")
    again = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert list(again["betas"]) == [0.8, 0.95] and type(again["betas"]) in (list, tuple)


def learning_rates(*words):
    """Those of the first five epochs, starting with 0.5."""
    _, optimizer = optimizer_of("optimizer=sgd", "optimizer.lr=0.5")
    scheduler, found = schedule(config(*words))[0](optimizer), []
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
