"""The loop takes the steps that Lightning's own takes, whatever Lightning is told, and its callbacks see the same."""

import csv
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
from same_run import last
from tiny import QUIET, tiny

from cvae.training import train as train_file
from cvae.training.module import VAEModule
from cvae.training.train import train

LONG = [*QUIET[:2], "data.source.train_size=22", "trainer.max_epochs=3", "logger=csv"]  # 6 minibatches an epoch
SCHEDULE = (
    "callbacks.own={_target_: pytorch_lightning.callbacks.GradientAccumulationScheduler, scheduling: {1: 2, 2: 4}}"
)
STOP = (
    "+callbacks.own={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: train_epoch/rate, "
    "stopping_threshold: 1e9}"
)


class ByLightning(VAEModule):
    """The same module, whose steps Lightning takes."""

    automatic_optimization = True

    def training_step(self, batch, batch_idx):
        self.begins = batch_idx % self.trainer.accumulate_grad_batches == 0
        self.before_step(batch_idx)
        loss, terms = self.loss(*batch, self.global_step)
        self.window.add(terms)
        return loss

    def configure_gradient_clipping(self, optimizer, *_, **__):
        if self.clip:
            self.clip(optimizer)

    def lr_schedulers(self):
        return SimpleNamespace(step=lambda: None)  # Lightning steps the real one


@pytest.fixture
def by_lightning(monkeypatch):
    def change():
        monkeypatch.setattr(train_file, "VAEModule", ByLightning)
        monkeypatch.setattr(
            train_file, "OURS", tuple(key for key in train_file.OURS if key != "accumulate_grad_batches")
        )
        monkeypatch.setattr(train_file, "minibatches_of_a_step", lambda *_: 1)
        monkeypatch.setattr(train_file, "accumulation", lambda *_: lambda epoch: 1)

    return change


def outcome(folder, *words):
    """(checkpoint, rows of the curves) of a run."""
    train(tiny(folder, *LONG, *words))
    (curves,) = folder.glob("**/metrics.csv")
    return last(folder), list(csv.DictReader(curves.open()))


COUNTED = {
    "nothing": [],
    "limit_train_batches": ["+trainer.limit_train_batches=4"],
    "a share of the batches": ["+trainer.limit_train_batches=0.5"],
    "overfit_batches": ["+trainer.overfit_batches=2"],
    "max_steps at an epoch's end": ["+trainer.max_steps=12"],
    "max_steps within an epoch": ["+trainer.max_steps=8", "scheduler=cosine"],
    "max_time": ["+trainer.max_time=01:00:00:00"],
    "min_steps": ["+trainer.min_steps=9", STOP],
    "min_epochs": ["+trainer.min_epochs=2", STOP],
    "an end that a callback wants": [STOP],
    "val_check_interval": ["+trainer.val_check_interval=2"],
    "a share of the epoch between evaluations": ["+trainer.val_check_interval=0.5"],
    "evaluations across epochs": ["+trainer.val_check_interval=4", "+trainer.check_val_every_n_epoch=null"],
    "check_val_every_n_epoch": ["+trainer.check_val_every_n_epoch=2"],
    "log_every_n_steps": ["trainer.log_every_n_steps=4"],
    "accumulated": ["+trainer.accumulate_grad_batches=2"],
    "accumulated, the last group is smaller": ["+trainer.accumulate_grad_batches=4", "scheduler=cosine"],
    "accumulated over more than an epoch": ["+trainer.accumulate_grad_batches=50"],
    "accumulated, limited": ["+trainer.accumulate_grad_batches=3", "+trainer.limit_train_batches=5"],
    "accumulated, max_steps": ["+trainer.accumulate_grad_batches=4", "+trainer.max_steps=3"],
    "accumulated, clipped, bfloat16": [
        "+trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=3", "trainer.precision=bf16-mixed"
    ],
    "accumulated, evaluated between": ["+trainer.accumulate_grad_batches=4", "+trainer.val_check_interval=3"],
    "accumulated by epoch": [f"+{SCHEDULE}"],
    "schedules by step and by epoch": ["scheduler=cosine", "objective/beta=linear"],
    "drawn images, clipped by value": [
        "data.binarization=stochastic", "trainer.gradient_clip_val=0.1", "+trainer.gradient_clip_algorithm=value"
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_the_same_steps_evaluations_and_curves_as_by_lightnings_loop(name, by_lightning, tmp_path, monkeypatch):
    words, evaluated = COUNTED[name], []
    measure = VAEModule.on_validation_epoch_end

    def noted(self):
        evaluated.append(self.global_step)
        measure(self)

    monkeypatch.setattr(VAEModule, "on_validation_epoch_end", noted)
    monkeypatch.setattr(ByLightning, "on_validation_epoch_end", noted)
    ours, rows = outcome(tmp_path / "ours", *words)
    seen, evaluated[:] = list(evaluated), []
    by_lightning()
    theirs, others = outcome(tmp_path / "theirs", *words)
    assert theirs["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]["total"]["ready"] == 0
    assert ours["global_step"] == theirs["global_step"] > 0 and ours["epoch"] == theirs["epoch"]
    assert seen == evaluated and evaluated
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert rows == others


class Watching(L.Callback):
    """Notes what each hook of a step sees."""

    seen: list

    def note(self, trainer, hook, *values):
        self.seen.append((hook, trainer.global_step, *values))

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.note(trainer, "start", batch_idx, len(batch[0]))

    def on_before_zero_grad(self, trainer, module, optimizer):
        weights = [p.detach().clone() for p in module.parameters()]
        self.note(trainer, "zero", type(optimizer), weights, [p.grad is None for p in module.parameters()])

    def on_before_backward(self, trainer, module, loss):
        self.note(trainer, "loss", loss.detach().clone(), loss.requires_grad, torch.is_autocast_enabled("cpu"))

    def on_after_backward(self, trainer, module):
        self.note(trainer, "backward", [p.grad.clone() for p in module.parameters()])

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.note(trainer, "optimizer", type(optimizer), [p.grad.clone() for p in module.parameters()])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.note(trainer, "end", batch_idx, outputs)
        self.note(trainer, "counted", trainer.fit_loop.epoch_loop._batches_that_stepped)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["+trainer.accumulate_grad_batches=4", "trainer.gradient_clip_val=3"],
        ["trainer.precision=bf16-mixed", f"+{SCHEDULE.replace('own', 'more')}"],
        ["+trainer.accumulate_grad_batches=2", "+trainer.val_check_interval=3"],
    ],
)
def test_callbacks_see_what_they_see_in_lightnings_loop(words, by_lightning, tmp_path):
    watching = "+callbacks.own._target_=test_one_loop.Watching"
    Watching.seen = ours = []
    train(tiny(tmp_path / "ours", *LONG, watching, *words))
    by_lightning()
    Watching.seen = theirs = []
    train(tiny(tmp_path / "theirs", *LONG, watching, *words))
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    assert {entry[0] for entry in ours} == {"start", "zero", "loss", "backward", "optimizer", "end", "counted"}
    for (hook, _, *values), (_, _, *others) in zip(ours, theirs, strict=True):
        classes = [[value for value in some if isinstance(value, type)] for some in (values, others)]
        assert classes[0] == classes[1] and (len(classes[0]) == 1) is (hook in ("zero", "optimizer"))
        torch.testing.assert_close(
            *([value for value in some if not isinstance(value, type)] for some in (values, others)),
            rtol=1e-6 if hook == "end" else 0,
            atol=0,
        )
