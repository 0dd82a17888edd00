"""python train.py resume=RUN: which run goes on, and which words may change it."""

import json
import logging
import re
import shutil

import pytest
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from tiny import QUIET, a_second_a_step, tiny

import cvae.training.signals
import cvae.training.train
from cvae.cli.resume import change, epochs_done, note_run_of_job, resume, run_of_job, run_to_resume
from cvae.errors import ConfigError, Stopped, UserError
from cvae.runs.directory import Run
from cvae.runs.trust import require_parts

CONF = ROOT / "conf"


@pytest.fixture(autouse=True)
def no_slurm(tmp_path, monkeypatch):
    for name in ("SLURM_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def handlers():
    """The log's own, put back afterwards."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    yield
    for handler in set(root.handlers) - set(before):
        handler.close()
    root.handlers[:] = before


def test_the_run_is_named_before_hydra_reads_anything():
    assert run_to_resume(["data=mnist", "seed=1"]) is None
    run, words = run_to_resume(["trainer=cpu", "resume=a/b=c,d", "data.root=x"])
    assert (str(run), run.trust, words) == ("a/b=c,d", False, ["trainer=cpu", "data.root=x"])
    run, words = run_to_resume(["--trust", "resume=a"])
    assert run.trust and words == []
    with pytest.raises(UserError, match="one run at a time, not a and b"):
        run_to_resume(["resume=a", "resume=b"])


def test_a_job_that_slurm_starts_again_finds_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run_of(folder, job):
        run = Run(tmp_path / folder)
        run.path.mkdir(parents=True)
        run.save_status("interrupted", slurm_job=job)
        return run

    ours = run_of("outputs/x/2", "77")
    run_of("outputs/x/1", "7")
    words = ["data=mnist", "optimizer.lr=1"]
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert run_to_resume(words) is None  # its first start
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert run_to_resume(words) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run, rest = run_to_resume(words)
    assert run.path.resolve() == ours.path and rest == []  # the words that began it are in its config
    assert not run.trust  # anybody can have written that
    assert run_to_resume(["-m", *words]) is None and run_to_resume(["--multirun", *words]) is None
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert run_to_resume(words) is None
    elsewhere = run_of("mine", "8")
    assert run_of_job("8", ["hydra.run.dir=mine", "seed=1"]).path.resolve() == elsewhere.path
    assert run_of_job("77", ["hydra.run.dir=mine"]) is None


def test_a_run_is_a_jobs_own_by_what_it_noted_outside_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted, ours = Run("outputs/a"), Run("outputs/b")
    for run in (planted, ours):
        run.path.mkdir(parents=True)
        run.save_status("interrupted", slurm_job="77")
    note_run_of_job(ours)  # without a job there is nothing to note
    assert not (tmp_path / "state").exists()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    note_run_of_job(ours)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run, _ = run_to_resume(["seed=1"])
    assert run.path == tmp_path / "outputs" / "b" and run.trust
    ours.save_status("interrupted", slurm_job="78")  # numbers come again
    run, _ = run_to_resume(["seed=1"])
    assert str(run) == "outputs/a" and not run.trust
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    note_run_of_job(ours)  # that cannot be written: no error


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("trainer.max_epochs=7", "trainer.max_epochs", 7),
        ("trainer.max_time=00:09:00:00", "trainer.max_time", "00:09:00:00"),
        ("data.root=/a/b", "data.root", "/a/b"),
        ("trainer.devices=[0,1]", "trainer.devices", [0, 1]),
        ("+trainer.num_nodes=2", "trainer.num_nodes", 2),
        ("trainer.strategy=ddp", "trainer.strategy", "ddp"),
        ("trainer.accelerator=gpu", "trainer.accelerator", "gpu"),
    ],
)
def test_what_may_change(tmp_path, word, key, value):
    cfg = tiny(tmp_path)
    before = OmegaConf.to_container(cfg)
    OmegaConf.update(cfg, "trainer", {}, force_add=True)
    change(cfg, word, CONF)
    assert OmegaConf.select(cfg, key) == value
    group, name = key.split(".")
    after = OmegaConf.to_container(cfg)
    del after[group][name]
    before[group].pop(name, None)
    assert after == before


def test_a_group_of_the_trainer_says_where_alone(tmp_path):
    cfg = tiny(tmp_path, "trainer.max_epochs=3", "trainer.precision=bf16-mixed", "trainer.log_every_n_steps=9")
    change(cfg, "trainer=ddp", CONF)
    assert (cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.strategy) == ("gpu", "auto", "ddp")
    assert (cfg.trainer.max_epochs, cfg.trainer.precision, cfg.trainer.log_every_n_steps) == (3, "bf16-mixed", 9)
    assert cfg.trainer.num_nodes == 1
    change(cfg, "trainer=cpu", CONF)
    assert (cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.strategy) == ("cpu", 1, "auto")
    assert "num_nodes" not in cfg.trainer  # which this group does not have
    assert not GlobalHydra.instance().is_initialized()  # Lightning would start its processes as Hydra's


@pytest.mark.parametrize(
    "word",
    [
        "optimizer.lr=1",
        "seed=2",
        "data=cifar10",
        "data.batch_size=7",
        "+trainer.precision=64",
        "~trainer.devices",
    ],
)
def test_what_may_not_change_is_named(tmp_path, word):
    allowed = "trainer=GROUP, trainer.max_epochs, trainer.max_time, callbacks.early_stopping.patience, callbacks.pict"
    with pytest.raises(UserError, match=f"^{re.escape(word)}: a run that goes on takes only {allowed}"):
        change(tiny(tmp_path), word, CONF)


@pytest.fixture
def finished(tmp_path, handlers):
    cfg = tiny(tmp_path, *QUIET, "trainer.max_epochs=1")
    cvae.training.train.train(cfg)
    return Run(tmp_path)


def test_a_finished_run_says_so_and_can_be_lengthened(finished, caplog):
    caplog.set_level("INFO")
    status = finished.status()
    resume(finished, [], CONF)
    assert finished.status() == status
    said = f"[INFO] {finished} is finished. trainer.max_epochs=N, above 1, would go on"
    assert said.partition("] ")[2] in finished.log_file.read_text()
    for word in ("0", "-1", "abc", "1.5", "null"):
        with pytest.raises(ConfigError, match=r"^trainer.max_epochs=.*: must be a positive integer"):
            resume(finished, [f"trainer.max_epochs={word}"], CONF)
    resume(finished, ["trainer.max_epochs=3"], CONF)
    assert json.loads(finished.metrics.read_text())["epochs"] == finished.config().trainer.max_epochs == 3
    assert finished.state() == "finished"
    lines = finished.log_file.read_text()
    assert f"Goes on from {finished}/checkpoints/last.ckpt, after step 3" in lines
    assert lines.count("Epoch 1:") == 0 and "Epoch 2: test ELBO" in lines and "Epoch 3: test ELBO" in lines


def test_a_run_whose_time_was_over_goes_on_with_more(tmp_path, handlers, monkeypatch):
    """Also where that was within its last epoch, and not with the same."""
    a_second_a_step(monkeypatch)
    monkeypatch.setattr("cvae.training.engine.MINIBATCHES", 1)
    words, run = ["trainer.max_epochs=1", "trainer.max_time=00:00:00:02"], Run(tmp_path)
    cvae.training.train.train(tiny(tmp_path, *QUIET, *words))
    metrics = json.loads(run.metrics.read_text())
    reason = "its time was over after step 2 (trainer.max_time)"
    assert metrics["stopped_early"] == reason and metrics["steps"] == 2
    for again in ([], ["trainer.max_time=00:00:00:01"], ["trainer.max_epochs=3"]):
        resume(run, again, CONF)
        assert f"{run} has ended early: {reason}. A larger one would go on" in run.log_file.read_text()
        assert json.loads(run.metrics.read_text()) == metrics
    resume(run, ["trainer.max_time=00:00:00:09"], CONF)
    metrics = json.loads(run.metrics.read_text())
    assert metrics["steps"] == 3 and metrics["epochs"] == 1 and "stopped_early" not in metrics
    status = run.status()
    resume(run, ["trainer.max_time=null"], CONF)
    assert run.status() == status and "is finished. trainer.max_epochs=N, above 1" in run.log_file.read_text()
    with pytest.raises(ConfigError, match="^trainer.max_time=9: must be days:hours:minutes:seconds, as"):
        resume(run, ["trainer.max_time=9", "trainer.max_epochs=2"], CONF)


def test_a_run_that_was_stopped_can_be_shortened_to_what_is_done(tmp_path, handlers, monkeypatch):
    """It is stopped within the sixth of nine epochs, and shortened to seven, and then as it is."""
    ends, run = cvae.training.signals.signals, Run(tmp_path)
    monkeypatch.setattr(ends, "to_stop", lambda trainer, now=False: 15 * (trainer.global_step == 70 and not now))
    with pytest.raises(Stopped):
        cvae.training.train.train(tiny(tmp_path, *QUIET, "trainer.max_epochs=9", "data.source.train_size=60",
                                       "scheduler=cosine", "data.batch_size=5"))  # fmt: skip
    assert epochs_done(run) == 5 and run.state() == "interrupted"
    monkeypatch.undo()
    before = run.status()
    with pytest.raises(ConfigError, match="^trainer.max_epochs=4: must be at least 5: so many epochs are done$"):
        resume(run, ["trainer.max_epochs=4"], CONF)
    assert run.status() == before
    shutil.copytree(tmp_path, tmp_path / "copy")
    for folder, epochs, steps in ((tmp_path, 7, 84), (tmp_path / "copy", 5, 70)):
        resume(Run(folder), [f"trainer.max_epochs={epochs}"], CONF)
        metrics = json.loads(Run(folder).metrics.read_text())
        assert (metrics["epochs"], metrics["steps"]) == (epochs, steps)
        assert Run(folder).state() == "finished" and Run(folder).config().trainer.max_epochs == epochs
    with pytest.raises(ConfigError, match="must be at least 7"):
        resume(run, ["trainer.max_epochs=6"], CONF)


def test_a_finished_run_whose_figures_are_damaged_makes_them_again(finished):
    for content in ("{", "[]", '{"epochs": "3"}', '{"epochs": null}'):
        finished.metrics.write_text(content)
        resume(finished, [], CONF)
        assert json.loads(finished.metrics.read_text())["epochs"] == 1


def test_a_run_that_is_being_trained_is_refused(finished, monkeypatch):
    monkeypatch.setattr(Run, "locked", lambda self: True)
    with pytest.raises(UserError, match="is being trained by another process"):
        resume(finished, ["trainer.max_epochs=3"], CONF)
    # The other processes of a run are started by the first, which has the lock and speaks.
    called = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(cvae.training.train, "train", lambda cfg, resume: called.append((cfg.run_dir, resume)))
    resume(finished, [], CONF)
    assert called == [(str(finished), True)]


def test_a_run_that_draws_a_users_images_goes_on(tmp_path):
    """Their folder is read, as that of the data; where it is gone, another one or null takes its place."""
    cfg = tiny(tmp_path, f"callbacks.pictures.own={tmp_path / 'mine'}")
    require_parts(OmegaConf.to_container(cfg), "callbacks")
    for word, value in (("callbacks.pictures.own=other", "other"), ("callbacks.pictures.own=null", None)):
        change(cfg, word, CONF)
        assert cfg.callbacks.pictures.own == value
    with pytest.raises(UserError, match="writes into"):
        require_parts(OmegaConf.to_container(tiny(tmp_path, "+callbacks.pictures.inner.own=/x")), "callbacks")


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        resume(Run(tmp_path), [], CONF)


def test_a_run_of_before_early_stopping_can_have_it(tmp_path):
    cfg = tiny(tmp_path, "~callbacks.early_stopping")
    change(cfg, "callbacks.early_stopping.patience=5", CONF)
    whole = tiny(tmp_path, "callbacks.early_stopping.patience=5")
    assert cfg.callbacks.early_stopping == whole.callbacks.early_stopping
