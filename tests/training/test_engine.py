"""Several minibatches to a step of Lightning's loop: the same results, and only where nobody has to see each one."""

import csv
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from tiny import QUIET, tiny

from cvae.training import engine
from cvae.training.progress import EpochLines, ProgressBar
from cvae.training.train import assemble, train

SAME = {
    "plain": [],
    "drawn images": ["data.binarization=stochastic"],
    "bfloat16": ["trainer.precision=bf16-mixed"],
    "schedules by step and by epoch": ["scheduler=cosine", "objective/beta=linear"],
    "whole minibatches": ["data.source.train_size=8"],
    "an epoch without evaluation": ["+trainer.check_val_every_n_epoch=2"],
}


def outcome(folder, minibatches, monkeypatch, *overrides):
    """(checkpoint, rows of the curves) of a run with so many minibatches to a step of Lightning's loop."""
    monkeypatch.setattr(engine, "MINIBATCHES", minibatches)
    cfg = tiny(folder, "~callbacks.pictures", "~callbacks.progress", "logger=csv", *overrides)
    train(cfg)
    (curves,) = folder.glob("**/metrics.csv")
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True), list(csv.DictReader(curves.open()))


@pytest.mark.parametrize("name", SAME)
def test_the_same_weights_curves_and_counts_as_step_by_step(name, tmp_path, monkeypatch):
    overrides = [*SAME[name], "trainer.max_epochs=3"]
    one, rows = outcome(tmp_path / "one", 1, monkeypatch, *overrides)
    for minibatches in (2, 10):
        several, others = outcome(tmp_path / str(minibatches), minibatches, monkeypatch, *overrides)
        torch.testing.assert_close(several["state_dict"], one["state_dict"], rtol=0, atol=0)
        torch.testing.assert_close(several["optimizer_states"], one["optimizer_states"], rtol=0, atol=0)
        assert several["lr_schedulers"][0]["last_epoch"] == 3
        assert several["global_step"] == one["global_step"] == (6 if name == "whole minibatches" else 9)
        assert others == rows


def test_the_weights_that_autocast_keeps_are_forgotten_after_each_step():
    layer, x = torch.nn.Linear(4, 1), torch.randn(8, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    results = []

    def loss():
        results.append(layer(x).detach())
        return layer(x).square().sum()

    with torch.autocast("cpu", torch.bfloat16):
        engine.take_step(loss, optimizer)
        engine.take_step(loss, optimizer)
    assert not torch.equal(*results)


def test_a_step_begins_without_the_gradients_of_the_one_before():
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for _ in range(2):
        engine.take_step(lambda: (2 * weight).sum(), optimizer)
    assert weight.item() == 1 - 2 - 2


class Watching(L.Callback):
    def on_after_backward(self, trainer, module):
        pass


@pytest.mark.parametrize(
    ("callback", "watches"),
    [
        (Watching(), True),
        (ModelCheckpoint(), False),
        (ModelCheckpoint(every_n_train_steps=3), True),
        (ProgressBar(), False),
        (EpochLines(), False),
        (LearningRateMonitor(), True),
    ],
)
def test_callbacks_that_watch_minibatches(callback, watches):
    assert engine.watches_minibatches(callback) is watches


@pytest.mark.parametrize("hook", engine.WATCHING)
def test_every_hook_of_a_minibatch_is_known(hook):
    assert hasattr(L.Callback, hook)
    assert engine.watches_minibatches(type("One", (L.Callback,), {hook: lambda *_: None})())


@pytest.mark.parametrize(
    ("overrides", "minibatches"),
    [
        ([], 10),
        (["trainer.precision=bf16-mixed", "+trainer.limit_val_batches=1", "+trainer.deterministic=true"], 10),
        (["+trainer.gradient_clip_val=1"], 1),
        (["+trainer.accumulate_grad_batches=2"], 1),
        (["+trainer.limit_train_batches=2"], 1),
        (["+trainer.max_steps=3"], 1),
        (["+trainer.val_check_interval=2"], 1),
        (["+callbacks.lr={_target_: pytorch_lightning.callbacks.LearningRateMonitor}"], 1),
    ],
)
def test_what_makes_lightning_see_each_minibatch(overrides, minibatches, tmp_path):
    data, module, _, _ = assemble(tiny(tmp_path, *overrides))
    assert data.minibatches == minibatches
    assert module.automatic_optimization is (minibatches == 1)
    data.setup()
    assert len(data.train_dataloader()) == (1 if minibatches == 10 else 3)


def test_several_devices_and_scaled_gradients_are_lightnings(monkeypatch):
    single = SimpleNamespace(spec=engine.SingleDeviceStrategy)
    monkeypatch.setattr(engine, "SingleDeviceStrategy", SimpleNamespace)
    for strategy, precision, minibatches in ((single, "32-true", 10), (single, "16-mixed", 1), (None, "32-true", 1)):
        trainer = SimpleNamespace(strategy=strategy, precision=precision, callbacks=[])
        assert engine.minibatches_of_a_step(trainer, ["precision"]) == minibatches


def test_clipped_gradients_train_as_before(tmp_path):
    cfg = tiny(tmp_path, *QUIET, "+trainer.gradient_clip_val=1e-12", "trainer.max_epochs=1", "optimizer.eps=1")
    before = assemble(tiny(tmp_path / "other", *QUIET))[1].state_dict()
    train(cfg)
    after = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)  # nothing is left of the gradients
