"""What Ctrl-C, SIGTERM and SLURM's signal do: to a loop that asks after each step, and to everything else."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from tiny import QUIET, tiny

import cvae.training.train as training
from cvae.errors import Stopped
from cvae.runs.directory import Run
from cvae.training import signals as module
from cvae.training.checkpoints import Checkpoints
from cvae.training.module import VAEModule
from cvae.training.signals import Signals, requeue

ALONE = SimpleNamespace(world_size=1)


@pytest.fixture(autouse=True)
def a_terminal_that_may_close():
    """Also where these tests themselves were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(signum):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_for_the_loop_and_a_second_one_ends_at_once(signum, caplog):
    caplog.set_level("INFO")
    signals, before = Signals(), signal.getsignal(signum)
    with signals.handled():
        signals.wait_for_steps()
        assert signals.to_stop(ALONE) == 0
        send(signum)
        assert signals.to_stop(ALONE) == signum
        (line,) = [record.message for record in caplog.records]
        assert line == f"{signum.name}: the run stops after this step; a second signal ends it at once"
        second = signal.SIGTERM if signum == signal.SIGHUP else signum
        with pytest.raises(Stopped, match=f"Stopped by {second.name}") as stop:
            send(second)
        assert (stop.value.signum, stop.value.after_step) == (second, False)
    assert signal.getsignal(signum) is before
    with signals.handled():
        assert not signals.waits and signals.to_stop(ALONE) == 0  # the next run of a sweep


def test_where_nobody_asks_a_signal_ends_at_once():
    signals = Signals()
    with signals.handled(), pytest.raises(Stopped):
        send(signal.SIGTERM)


def test_a_closed_terminal_is_told_of_once(caplog):
    """By the system and by the shell: the second signal is no second wish, also while the run ends."""
    caplog.set_level("INFO")
    signals = Signals()
    with signals.handled():
        with pytest.raises(Stopped):
            send(signal.SIGHUP)
        send(signal.SIGHUP)
    with signals.handled():
        signals.wait_for_steps()
        for _ in range(3):
            send(signal.SIGHUP)
        signals.waits = False  # the pictures at the end
        send(signal.SIGHUP)
        assert len(caplog.messages) == 1 and signals.received == signal.SIGHUP


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    try:
        with signals.handled():
            signals.wait_for_steps()
            send(signal.SIGHUP)
            assert signals.to_stop(ALONE) == 0 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_slurms_signal_is_handled_under_slurm_alone(monkeypatch):
    signals, before = Signals(), signal.getsignal(signal.SIGUSR1)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with signals.handled():
        assert signal.getsignal(signal.SIGUSR1) is before
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with signals.handled(), pytest.raises(Stopped):
        send(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_lightnings_handler_is_replaced_when_the_training_begins():
    signals = Signals()
    with signals.handled():
        signal.signal(signal.SIGTERM, lambda *_: None)
        signals.wait_for_steps()
        send(signal.SIGTERM)
        assert signals.to_stop(ALONE) == signal.SIGTERM


def test_other_threads_leave_signals_alone():
    """As of a launcher that runs several trainings in one process."""
    before, signals = signal.getsignal(signal.SIGTERM), Signals()
    seen = []

    def train():
        with signals.handled():
            signals.wait_for_steps()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before]


def test_several_processes_agree_every_so_many_steps(monkeypatch):
    """The other process has got a signal, this one not."""
    asked = []

    def all_reduce(tensor, kind):
        asked.append(kind)
        tensor.fill_(max(int(tensor), signal.SIGTERM))

    monkeypatch.setattr(module.dist, "all_reduce", all_reduce)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    signals = Signals()
    for step, now, stops in ((4, False, 0), (7, False, 15), (9, False, 0), (9, True, 15), (11, False, 15)):
        trainer = SimpleNamespace(world_size=2, global_step=step, log_every_n_steps=5, strategy=strategy)
        assert signals.to_stop(trainer, now) == stops
    assert asked == [torch.distributed.ReduceOp.MAX] * 3


LONG = [*QUIET, "trainer.max_epochs=2", "data.source.train_size=22"]  # six steps an epoch


def stopped(folder, monkeypatch, *words, at, place="before_step", signum=signal.SIGTERM):
    method, calls = getattr(VAEModule, place), []

    def sends(self, *given):
        calls.append(1)
        if len(calls) == at:
            send(signum)
        return method(self, *given)

    monkeypatch.setattr(VAEModule, place, sends)
    with pytest.raises(Stopped) as stop:
        training.train(tiny(folder, *LONG, *words))
    monkeypatch.setattr(VAEModule, place, method)
    assert stop.value.signum == signum
    return str(stop.value)


def saved(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("place", "at", "step"),
    [("before_step", 2, 2), ("before_step", 5, 6), ("validation_step", 1, 6), ("before_step", 9, 10)],
)
def test_a_run_is_saved_after_the_step_or_after_the_evaluation(tmp_path, monkeypatch, place, at, step):
    """Ten, here two, minibatches are a step of Lightning's loop; in an epoch's last one the epoch is finished first."""
    monkeypatch.setattr("cvae.training.engine.MINIBATCHES", 2)
    monkeypatch.setattr("sys.argv", ["/where/train.py", "data=synthetic"])
    said = stopped(tmp_path, monkeypatch, at=at, place=place)
    assert said == (
        f"Stopped by SIGTERM after step {step}. The last checkpoint, {tmp_path}/checkpoints/last.ckpt, is of step "
        f"{step}. Resume with: python train.py resume={tmp_path}"
    )
    assert saved(tmp_path) == step and Run(tmp_path).status()["state"] == "interrupted"
    assert Run(tmp_path).status()["reason"] == "by SIGTERM"


def test_a_signal_during_the_test_at_the_end_stops_at_once(tmp_path, monkeypatch):
    assert "after step 12. The last checkpoint" in stopped(tmp_path, monkeypatch, at=1, place="test_step")
    assert saved(tmp_path) == 12 and not (tmp_path / "metrics.json").exists()


def test_pictures_are_published_after_a_step_and_not_at_once(tmp_path, monkeypatch):
    published = []
    monkeypatch.setattr(training, "publish", lambda trainer, module: published.append(trainer.global_step))
    monkeypatch.setattr("cvae.training.engine.MINIBATCHES", 2)
    stopped(tmp_path / "a", monkeypatch, at=2)
    assert published == [2]
    said = stopped(tmp_path / "b", monkeypatch, "~callbacks.checkpoint", at=2, signum=signal.SIGINT)
    assert published == [2] and "No checkpoint is saved. Resume with" in said and said.startswith("Stopped by SIGINT")


def test_under_slurm_the_job_is_queued_again(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho $@ >> {calls}\nexit $FAKE\n")
    fake.chmod(0o755)
    for name, value in {"PATH": f"{fake.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "FAKE": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("cvae.training.engine.MINIBATCHES", 2)
    # Not all of SLURM's variables are there: Lightning would wait for its other tasks.
    said = stopped(tmp_path / "run", monkeypatch, at=2, signum=signal.SIGUSR1)
    assert said.endswith("is of step 2. SLURM starts it again")
    assert calls.read_text() == "requeue 77\n"
    monkeypatch.setenv("FAKE", "1")
    assert requeue() is False
    said = stopped(tmp_path / "other", monkeypatch, at=2, signum=signal.SIGTERM)
    assert "Resume with" in said and calls.read_text().count("requeue") == 2
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue() is False  # no scontrol


def test_signals_arrive_at_once_again_after_the_training(tmp_path):
    callback = Checkpoints(str(tmp_path))
    for over in (
        lambda: callback.on_train_end(SimpleNamespace(is_global_zero=True), None),
        lambda: callback.on_exception(None, None, KeyError()),
    ):
        module.signals.waits = True
        over()
        assert not module.signals.waits
