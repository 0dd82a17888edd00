"""The loop takes the steps that Lightning's own takes, whatever Lightning is told, and its callbacks see the same."""

import csv
import shutil

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from command_line import train_py
from conftest import ROOT
from pytorch_lightning.strategies import DDPStrategy
from same_run import last
from tiny import QUIET, tiny

from cvae.build import config_to_go_on
from cvae.errors import ConfigError, NotFinite, UserError
from cvae.objectives import ELBO, Objective
from cvae.runs.directory import Run
from cvae.training import engine
from cvae.training import module as module_file
from cvae.training import train as train_file
from cvae.training.module import VAEModule
from cvae.training.restored import as_counted_here
from cvae.training.train import assemble, train

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

    def on_train_start(self):
        super().on_train_start()
        self.rates.advance = lambda: None  # Lightning steps the scheduler


@pytest.fixture
def by_lightning(monkeypatch):
    def change():
        monkeypatch.setattr(train_file, "VAEModule", ByLightning)
        monkeypatch.setattr(engine, "OURS", tuple(key for key in engine.OURS if key != "accumulate_grad_batches"))
        monkeypatch.setattr(train_file, "minibatches_of_a_step", lambda *_: 1)
        monkeypatch.setattr(train_file, "accumulation", lambda *_: lambda epoch: 1)

    return change


def outcome(folder, *words):
    """(checkpoint, rows of the curves) of a run."""
    train(tiny(folder, *LONG, *words))
    (curves,) = folder.glob("**/metrics.csv")
    other = dict.fromkeys(("train/gradient_norm", "train/images_per_second"), "")  # our own step's alone; a time
    rows = [row | other for row in csv.DictReader(curves.open())]
    return last(folder), [row for row in rows if any(row[name] for name in row if name != "step")]


COUNTED = {
    "nothing": [],
    "limit_train_batches": ["+trainer.limit_train_batches=4"],
    "a share of the batches": ["+trainer.limit_train_batches=0.5"],
    "overfit_batches": ["+trainer.overfit_batches=2"],
    "max_steps at an epoch's end": ["trainer.max_steps=12"],
    "max_steps within an epoch": ["trainer.max_steps=8", "scheduler=cosine"],
    "max_time": ["trainer.max_time=01:00:00:00"],
    "min_steps": ["+trainer.min_steps=9", STOP],
    "min_epochs": ["+trainer.min_epochs=2", STOP],
    "an end that a callback wants": [STOP],
    "val_check_interval": ["+trainer.val_check_interval=2"],
    "a share of the epoch between evaluations": ["+trainer.val_check_interval=0.5"],
    "evaluations across epochs": ["+trainer.val_check_interval=4", "trainer.check_val_every_n_epoch=null"],
    "check_val_every_n_epoch": ["trainer.check_val_every_n_epoch=2"],
    "log_every_n_steps": ["trainer.log_every_n_steps=4"],
    "accumulated": ["+trainer.accumulate_grad_batches=2"],
    "accumulated, the last group is smaller": ["+trainer.accumulate_grad_batches=4", "scheduler=cosine"],
    "accumulated over more than an epoch": ["+trainer.accumulate_grad_batches=50"],
    "accumulated, limited": ["+trainer.accumulate_grad_batches=3", "+trainer.limit_train_batches=5"],
    "accumulated, max_steps": ["+trainer.accumulate_grad_batches=4", "trainer.max_steps=3"],
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


BEFORE = ROOT / "tests" / "fixtures" / "run_by_lightning"  # of version 0.1.0: last.ckpt of step 16, within an epoch


def require_end(folder, name):
    with np.load(BEFORE / name / "end.npz") as end:
        expected = {key: torch.from_numpy(end[key]) for key in end}
    torch.testing.assert_close(last(folder)["state_dict"], expected, rtol=1e-4, atol=1e-5)
    assert last(folder)["global_step"] == 18 and last(folder)["cvae"]["minibatches"] == 1


def test_a_run_whose_steps_lightning_took_goes_on_at_its_own_step(tmp_path):
    """Its warm-up and its cosine are functions of step and epoch. It ends as it ended in that version."""
    folder = tmp_path / "run"
    shutil.copytree(BEFORE / "accumulated", folder)
    cfg = config_to_go_on(Run(folder))
    cfg.run_dir = str(folder)
    train(cfg, resume=True)
    require_end(folder, "accumulated")


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_too(tmp_path):
    shutil.copytree(BEFORE / "two_processes", tmp_path / "run")
    done = train_py("resume=run", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0 and "after step 16" in done.stdout, done.stdout + done.stderr
    require_end(tmp_path / "run", "two_processes")


def counted(own=0, by_lightning=0, last_batch=False, minibatches=None):
    """What is read of a checkpoint."""
    loop = {
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": {"total": {"completed": by_lightning}}}
        },
        "epoch_loop.manual_optimization.optim_step_progress": {"total": {"ready": own, "completed": own}},
        "epoch_loop.batch_progress": {"is_last_batch": last_batch},
    }
    return {"loops": {"fit_loop": loop}, "cvae": {} if minibatches is None else {"minibatches": minibatches}}


@pytest.mark.parametrize(
    ("given", "now", "then", "steps"),
    [
        ({"own": 7}, 10, 10, 7),  # of version 0.1.0
        ({"own": 7, "minibatches": 10}, 10, 10, 7),
        ({"by_lightning": 5}, 10, 1, 5),
        ({"by_lightning": 5, "last_batch": True}, 10, 10, 5),
        ({"own": 7, "by_lightning": 5, "minibatches": 1}, 10, 1, 7),  # went on before
        ({"own": 7, "minibatches": 1, "last_batch": True}, 10, 10, 7),
        ({"own": 7, "minibatches": 10, "last_batch": True}, 1, 1, 7),
    ],
)
def test_the_counts_of_checkpoints(given, now, then, steps):
    content = counted(**given)
    assert as_counted_here(content, now) == then
    total = content["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]["total"]
    assert total == {"ready": steps, "completed": steps}


@pytest.mark.parametrize(("before", "now"), [(10, 1), (3, 10), ("x" * 50, 10)])
def test_a_place_in_an_epoch_that_is_counted_otherwise(before, now):
    with pytest.raises(
        UserError, match=f"^the checkpoint is within an epoch, in batches of .* minibatches, not {now}$"
    ):
        as_counted_here(counted(own=7, minibatches=before), now)


class Own(DDPStrategy):
    """A user's, whose steps may be others."""


def hook(state, bucket):
    """Would change how gradients are averaged."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp: must be auto or ddp (trainer.devices with a copy"),
        (
            ["trainer.strategy={_target_: test_one_loop.Own}"],
            "trainer.strategy={'_target_': 'test_one_loop.Own'}: must",
        ),
        (
            ["trainer.strategy={_target_: pytorch_lightning.strategies.DDPStrategy, ddp_comm_state: 1}"],
            "trainer.strategy={'_target_': 'pytorch_lightning.strategies.DDPStrategy', 'ddp_comm_state': 1}: must be",
        ),
        (
            ["trainer.strategy={_target_: pytorch_lightning.strategies.DDPStrategy, start_method: spawn}"],
            "trainer.strategy={'_target_': 'pytorch_lightning.strategies.DDPStrategy', 'start_method': 'spawn'}: must "
            "be one that starts processes of their own, as ddp",
        ),
        (["trainer.precision=16-true"], "trainer.precision=16-true: must be one of 32-true, bf16-mixed, 16-mixed"),
        (
            ["~trainer.precision", "trainer.plugins=[{_target_: pytorch_lightning.plugins.HalfPrecision}]"],
            "trainer.plugins=[{'_target_': 'pytorch_lightning.plugins.HalfPrecision'}]: must be without precision",
        ),
        (
            ["+trainer.accumulate_grad_batches=3", f"+{SCHEDULE}"],
            "trainer.accumulate_grad_batches=3: must be 1 with callbacks.own, which sets it by epoch",
        ),
    ],
)
def test_what_does_not_go_with_the_loop_is_refused_before_data_are_read(words, said, tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.data.ImageData.setup", lambda *_: pytest.fail("read"))
    with pytest.raises(ConfigError) as error:
        train(tiny(tmp_path, *words))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_a_strategy_may_have_a_timeout(tmp_path):
    words = ["trainer.strategy={_target_: pytorch_lightning.strategies.DDPStrategy, process_group_backend: gloo}"]
    assert isinstance(assemble(tiny(tmp_path, *words)).trainer.strategy, DDPStrategy)


class Autocast(Objective):
    """Notes whether autocast is on."""

    def __init__(self):
        super().__init__()
        self.seen, self.elbo = [], ELBO()

    def forward(self, vae, x, y=None, step=0):
        self.seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return self.elbo(vae, x, y, step)


def test_low_precision_is_for_the_loss_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module_file, "as_in_first_process", lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    cfg = tiny(tmp_path, *LONG, "trainer.precision=bf16-mixed", "trainer.max_epochs=1")
    parts = assemble(cfg)
    objective = parts.module.objective = Autocast()
    train_file.train_assembled(cfg, parts, False, lambda: None)
    assert {grad: autocast for grad, autocast in objective.seen} == {True: True, False: False}
    assert seen == [False] * 6


@pytest.mark.parametrize(("bad", "step"), [(0, 1), (5, 2), (9, 3), (11, 4), (14, 5), (23, 8)])
def test_the_step_of_accumulated_minibatches_that_is_not_finite(bad, step, tmp_path, monkeypatch):
    """Epochs of two steps: four minibatches, then two."""
    loss, calls = VAEModule.loss, []

    def breaks(self, pixels, y, number):
        calls.append(1)
        mean, terms = loss(self, pixels, y, number)
        return mean, terms._replace(rate=terms.rate * float("nan")) if len(calls) > bad else terms

    monkeypatch.setattr(VAEModule, "loss", breaks)
    many = ["+trainer.accumulate_grad_batches=4", "trainer.max_epochs=4", "trainer.log_every_n_steps=50"]
    with pytest.raises(
        NotFinite, match=f"^training, epoch {(step + 1) // 2}, step {step}, .*: elbo is nan, rate is nan"
    ):
        train(tiny(tmp_path, *LONG, *many))
