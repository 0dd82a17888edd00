"""Trainings that end early, and checkpoints that are kept."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from same_run import last
from tiny import QUIET, tiny

import cvae
from cvae.cli.resume import resume
from cvae.errors import ConfigError, UserError
from cvae.runs.checkpoint import read_checkpoint
from cvae.runs.directory import Run
from cvae.runs.modelled import remarks
from cvae.training.checkpoints import Checkpoints
from cvae.training.early_stopping import EarlyStopping
from cvae.training.module import VAEModule
from cvae.training.signals import Stopped, signals
from cvae.training.train import train

BOUNDS = [-9.0, -7.0, -8.0, -7.0, -7.5, -6.0, -6.5, -6.5, -6.5, -6.5]  # of the epochs
FOUND = {1: -9.0, 2: -7.0, 3: -8.0, 4: -7.0, 5: -7.5, 6: -6.0, 7: -6.5}


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    """Have the evaluations of the epochs give BOUNDS."""
    measure = VAEModule.on_validation_epoch_end

    def told(self):
        measure(self)
        if not self.trainer.testing:
            self.keep({"selection/bound": BOUNDS[self.current_epoch]})

    monkeypatch.setattr(VAEModule, "on_validation_epoch_end", told)


@pytest.fixture
def handlers():
    """The log's own, put back afterwards."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    yield
    for handler in set(root.handlers) - set(before):
        handler.close()
    root.handlers[:] = before


def fit(folder, *words, resume=False):
    cfg = tiny(folder, *QUIET, "data.source.train_size=4", "trainer.max_epochs=10", *words)
    folder.mkdir(exist_ok=True)
    Run(folder).save_config(cfg)
    train(cfg, resume)
    return json.loads((folder / "metrics.json").read_text())


def patience(number):
    return f"callbacks.early_stopping.patience={number}"


@pytest.mark.parametrize(("number", "epochs"), [(1, 3), (3, 5), (4, 10), ("null", 10)])
def test_it_ends_after_so_many_evaluations_without_a_better_one(number, epochs, tmp_path, caplog):
    """The epochs are 2 and 6 that are better than all before; one as good as them is not."""
    caplog.set_level(logging.INFO, "cvae")
    metrics = fit(tmp_path, patience(number))
    assert metrics["epochs"] == metrics["steps"] == last(tmp_path)["global_step"] == epochs
    said = [record.getMessage() for record in caplog.records if "ends early" in record.getMessage()]
    if number in (1, 3):
        reason = f"no evaluation was better than that of epoch 2, -7.00, in {number} since then ({patience(number)})"
        assert metrics["stopped_early"] == reason and said == [
            f"The training ends early: {reason}. A larger one would go on"
        ]
    elif number == 4:
        assert metrics["stopped_early"].startswith("no evaluation was better than that of epoch 6, -6.00, in 4 since")
    else:
        assert "stopped_early" not in metrics and not said
    assert last(tmp_path, "best.ckpt")["global_step"] == (2 if epochs < 6 else 6)


def test_evaluations_are_counted_not_epochs(tmp_path):
    metrics = fit(tmp_path, patience(1), "trainer.check_val_every_n_epoch=2")
    assert metrics["epochs"] == 4  # evaluated after 2 and 4, which are alike


def test_a_run_that_ended_early_goes_on_only_with_more_patience(tmp_path, capsys, handlers):
    """And then as one that had it from the beginning."""
    fit(tmp_path / "a", patience(1))
    run, conf = Run(tmp_path / "a"), ROOT / "conf"
    for words in ([], [patience(1)], ["trainer.max_epochs=12"]):
        before = (tmp_path / "a" / "metrics.json").read_text()
        resume(run, words, conf)
        assert (tmp_path / "a" / "metrics.json").read_text() == before
    assert capsys.readouterr().out.count("/a has ended early: no evaluation was better than that of epoch 2") == 3
    assert fit(tmp_path / "a", patience(1), resume=True)["epochs"] == 3  # nor where a sweep resumes it
    resume(run, [patience(3)], conf)
    fit(tmp_path / "b", patience(3))
    one, two = last(tmp_path / "a"), last(tmp_path / "b")
    assert one["global_step"] == two["global_step"] == 5
    torch.testing.assert_close(one["state_dict"], two["state_dict"], rtol=0, atol=0)
    resume(run, [patience("null")], conf)
    assert last(tmp_path / "a")["global_step"] == 10


def test_killed_between_its_last_checkpoint_and_its_end_it_does_not_train_on(tmp_path, monkeypatch):
    """Also where another callback had ended it."""
    stop = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: selection/bound, mode: max, patience: 1}"
    for name, words in (("ours", [patience(1)]), ("lightnings", [f"+callbacks.stop={stop}"])):
        with monkeypatch.context() as patch:
            patch.setattr("cvae.training.train.results", lambda parts: (_ for _ in ()).throw(Stopped(15)))
            with pytest.raises(Stopped):
                fit(tmp_path / name, *words)
        assert last(tmp_path / name)["global_step"] == 3 and last(tmp_path / name)["cvae"]["should_stop"]
        metrics = fit(tmp_path / name, *words, resume=True)
        assert metrics["epochs"] == 3 and ("stopped_early" in metrics) is (name == "ours")


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("epoch=*"))


@pytest.mark.parametrize(("words", "files"), [
    (["keep_best=2"], ["epoch=6_bound=-6.00.ckpt", "epoch=7_bound=-6.50.ckpt"]),
    (["keep_every=3"], ["epoch=3_bound=-8.00.ckpt", "epoch=6_bound=-6.00.ckpt"]),
    (["keep_every=2", "keep_best=1"], [f"epoch={n}_bound={FOUND[n]:.2f}.ckpt" for n in (2, 4, 6)]),
    ([], []),
])  # fmt: skip
def test_files_that_are_kept(words, files, tmp_path, call):
    fit(tmp_path, *(f"callbacks.checkpoint.{word}" for word in words), "trainer.max_epochs=7")
    assert kept(tmp_path) == files
    for name in files:
        epoch = int(name[6])
        assert read_checkpoint(Run(tmp_path).checkpoint(name))["global_step"] == epoch
        weights = read_checkpoint(Run(tmp_path).checkpoint(name))["state_dict"]
        assert torch.equal(
            cvae.load(tmp_path, name.removesuffix(".ckpt")).encoder[1].weight, weights["vae.encoder.1.weight"]
        )
    if files:
        code, text = call("evaluate", tmp_path, "--checkpoint", files[-1], "--samples", "2")
        assert code == 0, text
        assert ("was chosen by the test images" in text) is ("keep_best=2" in words or "keep_best=1" in words)


def test_files_are_deleted_once_no_checkpoint_lists_them(tmp_path, monkeypatch):
    """A kill right after last.ckpt was saved leaves one too many, until the run goes on."""
    words = ["callbacks.checkpoint.keep_best=1", "trainer.max_epochs=3"]
    drop = Checkpoints.drop

    def killed(self, trainer):
        if trainer.global_step == 2 and trainer.current_epoch == 1 and self.dropped:
            raise Stopped(9)
        drop(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "drop", killed)
        with pytest.raises(Stopped):
            fit(tmp_path, *words)
    assert kept(tmp_path) == ["epoch=1_bound=-9.00.ckpt", "epoch=2_bound=-7.00.ckpt"]
    state = last(tmp_path)["callbacks"]["Checkpoints"]
    assert state["ranked"] == [["epoch=2_bound=-7.00.ckpt", -7.0]] and state["dropped"] == ["epoch=1_bound=-9.00.ckpt"]
    fit(tmp_path, *words, resume=True)
    assert kept(tmp_path) == ["epoch=2_bound=-7.00.ckpt"]


def test_an_epoch_that_is_not_evaluated_is_kept_without_a_figure(tmp_path):
    fit(tmp_path, "callbacks.checkpoint.keep_every=1", "callbacks.checkpoint.keep_best=1", "trainer.max_epochs=4",
        "trainer.check_val_every_n_epoch=2")  # fmt: skip
    assert kept(tmp_path) == [
        "epoch=1.ckpt", "epoch=2_bound=-7.00.ckpt", "epoch=3.ckpt", "epoch=4_bound=-7.00.ckpt"
    ]  # fmt: skip
    assert last(tmp_path)["callbacks"]["Checkpoints"]["ranked"] == [["epoch=2_bound=-7.00.ckpt", -7.0]]


@pytest.mark.parametrize(("monitor", "figure", "said"), [
    ("selection/bound", "selection/bound", "bound"),
    ("selection/bound", "selection/minus_loss", "minus_loss"),
    ("train_epoch/elbo", "train_epoch/elbo", "elbo"),  # which there is without an evaluation, too
])  # fmt: skip
def test_a_kept_file_is_named_by_its_epoch_and_figure(monitor, figure, said, tmp_path, monkeypatch):
    """Of epochs 8 to 21 every tenth stays, and the best two."""
    files, checkpoints = tmp_path / "checkpoints", Checkpoints(str(tmp_path), monitor, keep_every=10, keep_best=2)
    files.mkdir()
    monkeypatch.setattr(signals, "received", 0)  # another test may have left one
    trainer = SimpleNamespace(
        global_step=0, world_size=1, is_global_zero=True, is_last_batch=True, callbacks=[],
        save_checkpoint=lambda file: file.touch(),
    )  # fmt: skip
    for epoch in range(8, 22):
        trainer.current_epoch, checkpoints.evaluated = epoch - 1, 0 if monitor == "selection/bound" else -1
        module = SimpleNamespace(figures={figure: -abs(12.5 - epoch)})
        checkpoints.on_train_epoch_end(trainer, module)
    best = [f"epoch={epoch}_{said}=-0.50.ckpt" for epoch in (12, 13)]
    assert kept(tmp_path) == sorted([f"epoch=10_{said}=-2.50.ckpt", f"epoch=20_{said}=-7.50.ckpt", *best])
    assert [name for name, _ in checkpoints.ranked] == best
    Checkpoints(str(tmp_path)).load_state_dict(checkpoints.state_dict())


@pytest.mark.parametrize("name", ["../a.ckpt", "/a.ckpt", "last.ckpt", "epoch=1/../../a.ckpt", "epoch=1_bound=x.ckpt"])
@pytest.mark.parametrize("key", ["ranked", "dropped"])
def test_a_checkpoint_of_somebody_else_has_no_other_file_deleted(name, key, tmp_path):
    state = {"best": None, "step": 3, key: [[name, 1.0]] if key == "ranked" else [name]}
    with pytest.raises(UserError, match="^the checkpoint's callbacks name .* which is no file of a kept epoch$"):
        Checkpoints(str(tmp_path)).load_state_dict(state)


def test_an_objective_without_a_bound_is_watched_by_its_loss():
    """The evaluation before a training counts for nothing."""
    stop, trainer = EarlyStopping(2), SimpleNamespace(sanity_checking=True, should_stop=False, current_epoch=0)
    stop.on_validation_end(trainer, SimpleNamespace(figures={"selection/minus_loss": 9.0}))
    assert (stop.best, stop.since) == (None, 0)
    trainer.sanity_checking = False
    for epoch, value in enumerate((-3.0, -2.0, -2.5, -2.0)):
        assert not trainer.should_stop
        trainer.current_epoch = epoch
        stop.on_validation_end(trainer, SimpleNamespace(figures={"selection/minus_loss": value}))
        stop.on_train_epoch_end(trainer, None)
    assert (stop.best, stop.epoch, stop.since, trainer.should_stop) == (-2.0, 2, 2, True)


def test_what_it_remembers_is_all_of_it():
    one, two = EarlyStopping(3), EarlyStopping(3)
    one.best, one.epoch, one.since, one.ended = -5.0, 4, 2, True
    two.load_state_dict(one.state_dict())
    assert vars(two) == vars(one)


def test_it_ends_after_a_whole_epoch(tmp_path):
    """Also where an evaluation in its middle was the last that it waits for: a resumed run goes on as if it had not."""
    half = ["+trainer.val_check_interval=0.5", "data.batch_size=1"]
    assert fit(tmp_path / "one", patience(2), *half)["epochs"] == 3  # -9, -9, -7, -7, -8: two without a better one
    assert fit(tmp_path / "whole", patience(4), *half)["epochs"] == 4
    assert fit(tmp_path / "one", patience(4), *half, resume=True)["epochs"] == 4
    for name in ("global_step", "lr_schedulers"):
        assert last(tmp_path / "one")[name] == last(tmp_path / "whole")[name]


@pytest.mark.parametrize("pair", [["epoch=1.ckpt"], ["epoch=1.ckpt", "x"], ["epoch=1.ckpt", float("nan")]])
def test_a_rank_is_a_file_with_a_figure(pair, tmp_path):
    with pytest.raises(UserError, match="^the checkpoint's callbacks rank .* no files with figures$"):
        Checkpoints(str(tmp_path)).load_state_dict({"best": None, "step": 3, "ranked": [pair]})


def test_a_training_that_gets_better_before_min_epochs_goes_on(tmp_path):
    """Epochs 3 to 5 are no better than the second; the sixth is, and the four after it are not."""
    metrics = fit(tmp_path, patience(3), "+trainer.min_epochs=6")
    assert metrics["epochs"] == 9 and metrics["stopped_early"].startswith(
        "no evaluation was better than that of epoch 6"
    )


@pytest.mark.parametrize("key", ["early_stopping.patience", "checkpoint.keep_every", "checkpoint.keep_best"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "true"])
def test_values_that_are_refused(key, value, tmp_path):
    with pytest.raises(ConfigError, match=f"^callbacks.{key}=.*: must be a positive integer"):
        train(tiny(tmp_path, *QUIET, f"callbacks.{key}={value}"))


def test_what_is_said_of_a_kept_checkpoint():
    cfg = {"callbacks": {"checkpoint": {"keep_best": 2}}, "data": {"validation_size": 0}}
    assert remarks(cfg, "epoch=1_bound=-2.00.ckpt") == [
        "epoch=1_bound=-2.00.ckpt was chosen by the test images (data.validation_size=0)"
    ]
    cfg["callbacks"]["checkpoint"]["keep_best"] = None
    assert remarks(cfg, "epoch=1_bound=-2.00.ckpt") == []
