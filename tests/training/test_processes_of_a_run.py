"""How the processes of a run are started and ended, with small programs in place of the real ones."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from cvae.errors import UserError
from cvae.runs.directory import Run
from cvae.training import processes
from cvae.training.processes import Processes, together


class Environment(SimpleNamespace):
    """What Lightning knows of the processes."""

    creates_processes_externally, main_address, main_port = False, "127.0.0.9", 4567

    def node_rank(self):
        return 3


def lightnings(count=2, nodes=1, **more):
    return _SubprocessScriptLauncher(Environment(**more), count, nodes)


def trainer_with(launcher):
    strategy = SimpleNamespace(launcher=launcher)
    return SimpleNamespace(strategy=strategy)


def program(code):
    return subprocess.Popen([sys.executable, "-S", "-c", code])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(processes, "LOOK", 0.02)
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_where_nobody_is_to_be_started_nothing_happens(tmp_path):
    for launcher in (None, lightnings(creates_processes_externally=True)):
        trainer = trainer_with(launcher)
        with pytest.raises(KeyError), together(trainer, Run(tmp_path)):
            assert not hasattr(trainer.strategy, "_launcher")
            raise KeyError


def test_the_others_read_the_saved_config_of_the_run(tmp_path, quick, monkeypatch):
    """Each with its number; this process is number 0, and is as before when the run has ended."""
    started = []

    class Program:
        def __init__(self, command, env):
            started.append((command, env))
            self.pid = len(started)

        def poll(self):
            return 0

        def wait(self, timeout=None):
            return 0

        def send_signal(self, signum):
            pass

    monkeypatch.setattr(processes.subprocess, "Popen", Program)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    os.environ.pop("OMP_NUM_THREADS", None)
    before, threads, trainer = dict(os.environ), torch.get_num_threads(), trainer_with(lightnings(3, 2))
    with together(trainer, Run(tmp_path)):
        ours = trainer.strategy._launcher
        assert not ours.is_interactive_compatible and not started
        assert ours.launch(lambda *args, **more: (args, more), 1, trainer=trainer, two=2) == ((1,), {"two": 2})
        assert ours.launch(int, "7", trainer=trainer) == 7  # the test after the training: they are there
        assert torch.get_num_threads() == 3
        common = {
            "MASTER_ADDR": "127.0.0.9", "MASTER_PORT": "4567", "WORLD_SIZE": "6", "NODE_RANK": "3",
            "OMP_NUM_THREADS": "3",
        }  # fmt: skip
        assert {name: os.environ[name] for name in (*common, "LOCAL_RANK")} == common | {"LOCAL_RANK": "0"}
    assert dict(os.environ) == before and torch.get_num_threads() == threads
    assert len(started) == 2
    for number, (command, environment) in enumerate(started, 1):
        assert command == [sys.executable, "-P", "-m", "cvae.cli.child_process", str(tmp_path), str(os.getpid())]
        assert environment == before | common | {
            "LOCAL_RANK": str(number), "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = "2"
    with together(trainer, Run(tmp_path), resume=True):  # with as many threads as the user wants
        trainer.strategy._launcher.launch(int)
        assert os.environ["OMP_NUM_THREADS"] == "2" and torch.get_num_threads() == threads
    assert [command[-1] for command, _ in started[2:]] == ["resume", "resume"]


def test_a_process_of_its_own_starts_no_other(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(processes.subprocess, "Popen", None)
    with together(trainer := trainer_with(lightnings(1)), Run(tmp_path)):
        assert trainer.strategy._launcher.launch(int, "3") == 3


@pytest.mark.parametrize(
    ("code", "how"),
    [("raise SystemExit(3)", "ended with exit code 3"), ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL")],
)
def test_an_error_that_comes_of_a_dead_process_says_so(tmp_path, quick, code, how):
    trainer = trainer_with(lightnings(3))
    with pytest.raises(UserError, match=f"^process 2 .the first is 0. .*{how}, so the run ends$") as error:
        with together(trainer, Run(tmp_path)):
            ours = trainer.strategy._launcher
            ours.others = [program("import time; time.sleep(60)"), program(f"import time; time.sleep(0.05); {code}")]
            raise RuntimeError("connection closed")
    assert isinstance(error.value.__cause__, RuntimeError)
    assert ours.others[0].returncode == -signal.SIGKILL and ours.over.is_set()


@pytest.mark.parametrize("error", [UserError("mine"), RuntimeError("mine"), KeyboardInterrupt("mine")])
def test_an_error_of_this_process_stays_and_ends_the_others(tmp_path, quick, error):
    trainer = trainer_with(lightnings())
    with pytest.raises(type(error), match="mine"), together(trainer, Run(tmp_path)):
        other = program("import time; time.sleep(60)")
        trainer.strategy._launcher.others = [other]
        raise error
    assert other.returncode == -signal.SIGKILL


def test_an_error_of_the_user_wins_over_what_it_does_to_the_others(tmp_path, quick):
    with pytest.raises(UserError, match="mine"), together(trainer := trainer_with(lightnings()), Run(tmp_path)):
        trainer.strategy._launcher.others = [other := program("raise SystemExit(1)")]
        other.wait()
        raise UserError("mine")


def test_the_end_waits_for_the_others_and_for_no_others_long(tmp_path, quick, caplog):
    trainer = trainer_with(lightnings())
    with together(trainer, Run(tmp_path)):
        trainer.strategy._launcher.others = [quickly := program("import time; time.sleep(0.05)")]
    assert quickly.returncode == 0 and not caplog.records
    with together(trainer_with(lightnings()), Run(tmp_path)):
        pass
    trainer = trainer_with(lightnings())
    with together(trainer, Run(tmp_path)):
        trainer.strategy._launcher.others = [never := program("import time; time.sleep(60)")]
    assert never.returncode == -signal.SIGKILL and caplog.messages == [f"Process {never.pid} did not end by itself"]


def test_the_group_of_a_run_is_not_that_of_the_next(tmp_path, quick):
    with together(trainer_with(lightnings()), Run(tmp_path)):
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    assert not dist.is_initialized()


def test_nothing_is_lost_while_all_live_or_have_ended_well(tmp_path, quick):
    ours = Processes(Run(tmp_path), lightnings(3))
    assert ours.lost() == ""
    ours.others = [program("import time; time.sleep(60)"), program("")]
    ours.others[1].wait()
    start = time.monotonic()
    assert ours.lost() == "" and time.monotonic() - start < 0.1
    assert ours.lost(0.2) == "" and 0.1 < time.monotonic() - start < 1
    ours.end()


@pytest.mark.slow
def test_who_waits_for_a_dead_process_for_ever_is_ended_with_a_message(tmp_path):
    """In code that knows no exceptions, as that of NCCL is: here a process that has blocked all it can."""
    code = f"""
import signal, sys, time
from types import SimpleNamespace
sys.path.insert(0, {str(ROOT)!r})
from cvae.runs.directory import Run
from cvae.training import processes
processes.LOOK, processes.PATIENCE = 0.05, 0.1
environment = SimpleNamespace(node_rank=lambda: 0, main_address="", main_port=0)
run = Run({str(tmp_path)!r})
run.claim()
run.save_status("running", pid=5)
launcher = processes.Processes(run, SimpleNamespace(cluster_environment=environment, num_processes=2, num_nodes=1))
processes.sys.executable = "false"
launcher.launch(time.sleep, 60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    said = "process 1 (the first is 0) ended with exit code 1, so the run ends"
    assert done.returncode == -signal.SIGKILL and f"Error: {said}" in done.stderr
    assert Run(tmp_path).status() == {"state": "failed", "reason": said, "pid": 5}
