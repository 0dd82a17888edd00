"""Which epoch each checkpoint is of, and that a checkpoint is whole."""

import builtins
import contextlib
import errno
import io
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
from conftest import ROOT
from tiny import QUIET, tiny, trained

import cvae
from cvae.build import build_data, build_vae, make
from cvae.cli.resume import resume
from cvae.errors import ConfigError, NotFinite, UserError
from cvae.objectives import Objective, Terms
from cvae.runs.directory import Run
from cvae.runs.trust import require_parts
from cvae.training import engine
from cvae.training.checkpoints import Checkpoints, WholeCheckpoints, last_good
from cvae.training.module import VAEModule
from cvae.training.rates import schedule
from cvae.training.signals import signals
from cvae.version import VERSION

BOUNDS = [1.0, 3.0, 2.0]  # after each epoch of three steps, at evaluation
ELBOS = [-1.0, -2.0, -0.5]


class Told(Objective):
    """Its bound and ELBO are what the lists above say: the best epoch is neither the first nor the last."""

    def forward(self, vae, x, y=None, step=0):
        ones = torch.ones(len(x))
        epoch = step // 3 if torch.is_grad_enabled() else step // 3 - 1
        loss = ones * vae.decoder[0].weight.sum()
        return Terms(loss, BOUNDS[epoch] * ones, 0 * ones, -ELBOS[epoch] * ones, {})


def fitted(folder, *overrides, **of_trainer):
    cfg = tiny(folder, *QUIET, *overrides)
    module = VAEModule(build_vae(cfg), Told(), make(cfg, "optimizer"), schedule(cfg)[0])
    callbacks = list(make(cfg, "callbacks").values())
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, plugins=[WholeCheckpoints()], **of_trainer,
    )  # fmt: skip
    trainer.fit(module, datamodule=build_data(cfg))
    return {path.name: torch.load(path, weights_only=True) for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize(("monitor", "steps"), [([], 6), (["callbacks.checkpoint.monitor=train_epoch/elbo"], 9)])
def test_best_is_the_epoch_with_the_highest_figure(tmp_path, monitor, steps):
    """By default the bound at evaluation, not the ELBO; or that of the training images."""
    saved = fitted(tmp_path, *monitor)
    assert sorted(saved) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert saved["best.ckpt"]["global_step"] == steps


def test_best_has_the_weights_that_were_evaluated(tmp_path):
    """After 2, 5 and 8 steps, the last the best, and not those of the end of its epoch; no epoch's end has a figure."""
    keep = ["callbacks.checkpoint.keep_every=1", "callbacks.checkpoint.keep_best=1"]
    saved = fitted(tmp_path, *keep, val_check_interval=2)
    assert saved["best.ckpt"]["global_step"] == 8
    assert [saved[f"epoch={number}.ckpt"]["global_step"] for number in (1, 2, 3)] == [3, 6, 9]


def test_the_evaluation_before_a_training_is_none_to_choose_by(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    trainer = SimpleNamespace(global_step=0, sanity_checking=True, is_last_batch=False)
    checkpoints.on_validation_end(trainer, SimpleNamespace(figures={"selection/bound": 1.0}))
    assert checkpoints.best is None


def test_of_two_epochs_with_the_same_figure_the_first_is_best(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(signals, "received", 0)  # another test may have left one
    trainer = SimpleNamespace(
        global_step=3, world_size=1, is_global_zero=True, is_last_batch=True, callbacks=[],
        save_checkpoint=lambda file: saved.append(file.name),
    )  # fmt: skip
    module = SimpleNamespace(figures={"selection/bound": 1.0}, require_finite_weights=lambda: None)
    checkpoints = Checkpoints(str(tmp_path))
    for _ in range(2):
        checkpoints.on_train_epoch_end(trainer, module)
    assert saved == ["best.ckpt", "last.ckpt", "last.ckpt"]


def test_last_is_the_last_epoch_also_where_another_was_best(tmp_path):
    saved = fitted(tmp_path)
    assert saved["last.ckpt"]["global_step"] == 9 and saved["previous.ckpt"]["global_step"] == 6
    assert saved["last.ckpt"]["cvae"]["format"] == 1 and saved["last.ckpt"]["cvae"]["version"] == VERSION


def test_last_is_written_after_each_epoch(tmp_path, monkeypatch):
    """Also after one that is not evaluated."""
    saved, save = [], WholeCheckpoints.save_checkpoint

    def noted(self, checkpoint, path, *rest, **more):
        saved.append((path.name if hasattr(path, "name") else os.path.basename(path), checkpoint["global_step"]))
        save(self, checkpoint, path, *rest, **more)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", noted)
    trained(tmp_path, *QUIET, "trainer.check_val_every_n_epoch=2")
    assert [step for name, step in saved if name == "last.ckpt"] == [3, 6]


@pytest.mark.parametrize(
    ("minibatches", "every", "steps"),
    [(1, 2, [2, 4, 5, 6, 8, 10]), (2, 2, [2, 4, 5, 7, 9, 10]), (2, 3, [4, 5, 7, 9, 10]), (1, 100, [5, 10])],
)
def test_last_is_written_within_an_epoch_too(tmp_path, monkeypatch, minibatches, every, steps):
    """Once so many steps are made, whatever the batches of Lightning's loop: here epochs of five steps."""
    saved, save = [], Checkpoints.save_last

    def noted(self, trainer):
        saved.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr(engine, "MINIBATCHES", minibatches)
    monkeypatch.setattr(Checkpoints, "save_last", noted)
    trained(tmp_path, *QUIET, "data.source.train_size=20", f"callbacks.checkpoint.every_n_steps={every}")
    assert saved == steps
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 10


def test_it_is_not_written_between_the_batches_of_a_step_nor_before_an_evaluation(tmp_path, monkeypatch):
    """Lightning cannot go on exactly from there."""
    saved = []
    monkeypatch.setattr(engine, "MINIBATCHES", 1)
    monkeypatch.setattr(Checkpoints, "save_last", lambda self, trainer: saved.append(trainer.global_step))
    many = [*QUIET, "data.source.train_size=24", "callbacks.checkpoint.every_n_steps=1", "trainer.max_epochs=1"]
    trained(tmp_path / "a", *many, "+trainer.accumulate_grad_batches=2")
    assert saved == [1, 1, 2, 2, 3][::2]
    saved.clear()
    trained(tmp_path / "b", *many, "+trainer.val_check_interval=3")
    assert saved == [1, 2, 4, 5, 6]
    saved.clear()
    trained(tmp_path / "c", *many, "+trainer.val_check_interval=0.5", "+trainer.accumulate_grad_batches=3")
    assert saved == [2]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "null"])
def test_every_n_steps_is_a_positive_integer(tmp_path, value):
    with pytest.raises(ValueError, match="callbacks.checkpoint.every_n_steps=.*: must be a positive integer"):
        make(tiny(tmp_path, f"callbacks.checkpoint.every_n_steps={value}"), "callbacks")


@pytest.mark.parametrize("monitor", ["test/elbo", "train_epoch/rate", "null"])
def test_nothing_else_is_monitored(tmp_path, monitor):
    with pytest.raises(
        ValueError, match=r"callbacks.checkpoint.monitor=.*: must be one of selection/bound, train_epoch/elbo"
    ):
        make(tiny(tmp_path, f"callbacks.checkpoint.monitor={monitor}"), "callbacks")


def test_a_full_disk_leaves_the_checkpoint_of_the_epoch_before(tmp_path, monkeypatch):
    file = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"a": torch.ones(2)}, str(file))

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        WholeCheckpoints().save_checkpoint({"a": torch.zeros(2)}, file)
    assert torch.equal(torch.load(file, weights_only=True)["a"], torch.ones(2))
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]


def write(file, step=0, form=1):
    WholeCheckpoints().save_checkpoint({"global_step": step, "cvae": {"format": form, "processes": []}}, file)


def test_the_one_before_is_kept_and_no_kill_leaves_neither(tmp_path, monkeypatch):
    """Whichever of the two renames is the last thing that a process does."""
    run = Run(tmp_path)
    last, before = run.checkpoints / "last.ckpt", run.checkpoints / "previous.ckpt"
    assert last_good(run) is None
    for step in (1, 2, 3):
        write(last, step)
    write(run.checkpoints / "best.ckpt", 1)
    assert last_good(run)[0] == last and last_good(run)[1]["global_step"] == 3
    assert torch.load(before, weights_only=True)["global_step"] == 2
    replace, renames = os.replace, []

    def killed(source, target):
        if not renames:
            raise KeyboardInterrupt
        replace(source, target)
        renames.pop()

    monkeypatch.setattr(os, "replace", killed)
    for allowed, step in ((0, 3), (1, 3), (2, 4)):
        renames[:] = range(allowed)
        with contextlib.suppress(KeyboardInterrupt):
            write(last, 4)
        assert last_good(run)[1]["global_step"] == step


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, caplog):
    run = Run(tmp_path)
    last, before = run.checkpoints / "last.ckpt", run.checkpoints / "previous.ckpt"
    write(last, 1)
    write(last, 2)
    last.write_bytes(last.read_bytes()[:-200])
    file, content = last_good(run)
    assert file == before and content["global_step"] == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{last} is damaged or no checkpoint: ")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt.damaged", "previous.ckpt"]
    before.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint can be read"):
        last_good(run)
    assert before.exists()


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    run = Run(tmp_path)
    for content in ({"cvae": {"format": 0}}, {}):
        WholeCheckpoints().save_checkpoint(content, run.checkpoints / "last.ckpt")
        with pytest.raises(UserError, match="last.ckpt is of an earlier version of cvae"):
            last_good(run)


def test_nothing_is_unpickled(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"a": tmp_path}, file)
    with pytest.raises(UserError, match=r"it has a pathlib\.PosixPath; checkpoints have numbers, texts and tensors"):
        WholeCheckpoints().load_checkpoint(file, weights_only=False)


@pytest.fixture
def breaks(monkeypatch):
    """Weights that are not finite after step 6: epochs have three."""
    step = VAEModule.optimize

    def breaks(self, levels, y, number):
        sums = step(self, levels, y, number)
        if number == 5:
            next(self.parameters()).data[0] = math.nan
        return sums

    monkeypatch.setattr(VAEModule, "optimize", breaks)


def test_weights_that_are_not_finite_replace_no_good_ones(tmp_path, breaks):
    """last.ckpt is of the first epoch, best.ckpt as well."""
    with pytest.raises(NotFinite) as error:
        trained(tmp_path, *QUIET)
    assert str(error.value) == (
        "training, epoch 2, step 6, learning rate 0.01: a gradient is nan. Often a smaller optimizer.lr helps. "
        f"The last checkpoint, {tmp_path}/checkpoints/last.ckpt, is of step 3"
    )
    for name in ("last", "best"):
        saved = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["global_step"] == 3 and all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize("ours", [[], ["~callbacks.checkpoint"]])
@pytest.mark.parametrize("when", ["save_on_train_epoch_end: true", "every_n_train_steps: 1"])
def test_a_callback_of_the_users_saves_no_weights_that_are_not_finite(when, ours, tmp_path, breaks):
    """In an epoch without an evaluation, before which they would be seen."""
    own = f"{{_target_: {LIGHTNINGS}.ModelCheckpoint, save_top_k: -1, filename: '{{step}}', {when}}}"
    words = [*ours, f"+callbacks.own={own}", "trainer.check_val_every_n_epoch=5", "trainer.max_epochs=5"]
    with pytest.raises(NotFinite, match="^training, epoch 2, step 6, .*: a gradient is nan"):
        trained(tmp_path, *QUIET, *words)
    kept = {file.name: torch.load(file, weights_only=True) for file in tmp_path.glob("checkpoints/step=*")}
    assert set(kept) == {f"step={step}.ckpt" for step in ([3] if "epoch" in when else range(1, 6))}
    assert all(value.isfinite().all() for content in kept.values() for value in content["state_dict"].values())


def test_load_reads_last_by_default_and_best_by_name(tmp_path):
    trained(tmp_path, *QUIET)
    (tmp_path / ".hydra").mkdir(exist_ok=True)
    for name, factor in (("last", 2.0), ("best", 3.0)):
        file = tmp_path / "checkpoints" / f"{name}.ckpt"
        content = torch.load(file, weights_only=True)
        content["state_dict"]["vae.decoder.0.weight"] = torch.full_like(
            content["state_dict"]["vae.decoder.0.weight"], factor
        )
        torch.save(content, file)
    assert cvae.load(tmp_path).decoder[0].weight[0, 0] == cvae.load(tmp_path, "last").decoder[0].weight[0, 0] == 2
    assert cvae.load(str(tmp_path), checkpoint="best.ckpt").decoder[0].weight[0, 0] == 3


def test_the_best_figure_and_the_step_of_the_last_checkpoint_go_on(tmp_path):
    first, second = Checkpoints(str(tmp_path)), Checkpoints(str(tmp_path))
    first.best, first.step = -3.5, 7
    second.load_state_dict(first.state_dict())
    assert (second.best, second.step) == (-3.5, 7)


class Keeps(L.Callback):
    """Its state is what no checkpoint may hold, from some epoch on."""

    def __init__(self, since=0):
        self.since, self.epochs = since, 0

    def on_train_epoch_start(self, trainer, module):
        self.epochs += 1

    def state_dict(self):
        return {"a": Path("x") if self.epochs > self.since else 1}


def test_a_run_does_not_finish_with_a_checkpoint_that_does_not_open(tmp_path):
    """The first is opened before it has its name; the last at the end."""
    keeps = ["+callbacks.keeps._target_=test_checkpoints.Keeps"]
    run = Run(tmp_path / "first")
    with pytest.raises(UserError, match=r"could not be opened again, so it is not saved: .* it has a pathlib"):
        trained(run.path, *QUIET, *keeps)
    assert run.state() == "failed" and list(run.checkpoints.iterdir()) == []
    run = Run(tmp_path / "last")
    with pytest.raises(UserError, match=r"last.ckpt is damaged or no checkpoint: it has a pathlib"):
        trained(run.path, *QUIET, *keeps, "+callbacks.keeps.since=1")
    assert run.state() == "failed" and not run.metrics.exists()
    assert torch.load(run.checkpoints / "previous.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("broken", ["no permission", "EIO", "EIO within", "stale", "another format", "other values"])
def test_a_checkpoint_that_cannot_be_read_for_another_reason_than_its_content_is_left_as_it_is(
    tmp_path, monkeypatch, broken
):
    """And the one before it does not take its place: the next save would."""
    errors = {"no permission": errno.EACCES, "EIO": errno.EIO, "EIO within": errno.EIO, "stale": errno.ESTALE}
    run = Run(tmp_path)
    last, before = run.checkpoints / "last.ckpt", run.checkpoints / "previous.ckpt"
    write(last, 1)
    write(last, 2)
    if broken == "another format":
        torch.save({"cvae": {"format": 9}}, last)
    if broken == "other values":
        torch.save({"a": tmp_path, "cvae": {"format": 1}}, last)
    content, real = last.read_bytes(), builtins.open

    class Breaks(io.FileIO):
        def read(self, *size):
            if self.tell() < len(content) // 2:
                raise OSError(errors[broken], os.strerror(errors[broken]))
            return super().read(*size)

    def opened(file, *args, **more):
        if file != last:
            return real(file, *args, **more)
        if broken != "EIO within":
            raise OSError(errors[broken], os.strerror(errors[broken]), str(file))
        return Breaks(file)

    if broken in errors:
        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(io, "open", opened)
    with pytest.raises(OSError if broken in errors else UserError):
        last_good(run)
    monkeypatch.undo()
    assert last.read_bytes() == content and torch.load(before, weights_only=True)["global_step"] == 1
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt", "previous.ckpt"]


LIGHTNINGS = "pytorch_lightning.callbacks"
ADDED = [
    f"+callbacks.more._target_={LIGHTNINGS}.ModelCheckpoint", "+callbacks.more.monitor=test/elbo",
    "+callbacks.more.mode=max", "+callbacks.more.save_top_k=1",
    f"+callbacks.stop._target_={LIGHTNINGS}.EarlyStopping", "+callbacks.stop.monitor=test/elbo",
    "+callbacks.stop.mode=max", f"+callbacks.mean._target_={LIGHTNINGS}.EMAWeightAveraging",
    f"+callbacks.rate._target_={LIGHTNINGS}.LearningRateMonitor", "logger=csv",
]  # fmt: skip


def test_lightnings_callbacks_write_into_the_run_and_it_goes_on_without_trust(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run, quiet = Run(tmp_path / "run"), [word for word in QUIET if "tensorboard" not in word]
    trained(run.path, *quiet, *ADDED, "trainer.max_epochs=1")
    assert sorted(file.name for file in run.checkpoints.iterdir()) == ["best.ckpt", "epoch=0-step=3.ckpt", "last.ckpt"]
    resume(run, ["trainer.max_epochs=2"], ROOT / "conf")
    assert run.state() == "finished" and list(Path.cwd().iterdir()) == []
    assert all(file.suffix == ".ckpt" for file in run.checkpoints.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["save_last=true"], "callbacks.more.save_last=True: must be false: callbacks.checkpoint writes last.ckpt"),
        (["filename=best"], "callbacks.more.filename=best: must be another name"),
        (["filename=previous", "dirpath=RUN/checkpoints"], "callbacks.more.filename=previous: must be another name"),
    ],
)
def test_no_file_of_ours_is_written_by_another(tmp_path, words, message):
    words = [f"+callbacks.more.{word}".replace("RUN", str(tmp_path)) for word in words]
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path, *QUIET, *ADDED[:1], *words)
    trained(tmp_path, *QUIET, *ADDED[:1], *words, "~callbacks.checkpoint", "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("name", "keys", "refused"),
    [
        ("ModelCheckpoint", {"dirpath": "/tmp"}, "dirpath='/tmp': what a saved config makes writes into"),
        ("ModelCheckpoint", {"dirpath": "elsewhere"}, "dirpath='elsewhere'"),
        ("ModelCheckpoint", {"dirpath": "${run_dir}/../x"}, "dirpath="),
        ("ModelCheckpoint", {"filename": "../x"}, "filename='../x'"),
        ("ModelCheckpoint", {"filename": "{epoch:1000000000}"}, "filename="),
        ("ModelCheckpoint", {"filename": "{epoch.__class__}"}, "filename="),
        ("ModelCheckpoint", {"filename": "e={epoch:02d}", "dirpath": "${run_dir}/checkpoints"}, ""),
        ("LambdaCallback", {}, "LambdaCallback'"),
        ("OnExceptionCheckpoint", {"dirpath": "${run_dir}"}, "OnExceptionCheckpoint'"),
        ("WeightAveraging", {"avg_fn": {"_target_": "subprocess.run"}}, "WeightAveraging'"),
        ("EMAWeightAveraging", {"avg_fn": {"_target_": "subprocess.run"}}, "avg_fn._target_='subprocess.run'"),
        ("EarlyStopping", {"monitor": "a/b"}, ""),
    ],
)
def test_which_of_lightnings_callbacks_a_saved_config_may_have(name, keys, refused):
    content = {"run_dir": "/a", "callbacks": {"x": {"_target_": f"{LIGHTNINGS}.{name}", **keys}}}
    if not refused:
        require_parts(content, "callbacks")
        return
    with pytest.raises(UserError, match=re.escape(refused)):
        require_parts(content, "callbacks")
