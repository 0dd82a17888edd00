"""How the processes of a run are started and ended, with small programs in place of the real ones."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from cvae.errors import Stopped, UserError
from cvae.runs.directory import Run
from cvae.training import meeting, processes
from cvae.training.meeting import Meeting
from cvae.training.processes import together
from cvae.training.signals import signals


class Environment(SimpleNamespace):
    """What Lightning knows of the processes."""

    creates_processes_externally, main_address = False, "127.0.0.1"

    def node_rank(self):
        return 0


def trainer_with(count=2, nodes=1, rank=0, **more):
    """A trainer of which only the strategy is looked at, and of that what concerns the processes."""
    launcher = _SubprocessScriptLauncher(Environment(main_port=free_port(), **more), count, nodes)
    about = {"root_device": torch.device("cpu"), "process_group_backend": None, "_timeout": timedelta(seconds=20)}
    return SimpleNamespace(strategy=SimpleNamespace(launcher=launcher, global_rank=rank, **about))


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def program(code):
    return subprocess.Popen([sys.executable, "-S", "-c", code])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(processes, "LOOK", 0.02)
    monkeypatch.setattr(processes, "GRACE", 0.1)
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    monkeypatch.setattr(meeting, "LOOK", 0.01)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("GLOO_", "OMP_NUM", "CVAE_"))}
    monkeypatch.setattr(os, "environ", own)


@pytest.fixture
def alone(quick, monkeypatch):
    """This process in place of all: the others have come to wherever it comes, and torch makes no group."""
    came = Meeting.all_come

    def all_come(self, where, ranks, *more):
        for rank in ranks:
            self.store.set(f"{where}/{rank}", "")
        came(self, where, ranks, *more)

    groups = []
    monkeypatch.setattr(Meeting, "all_come", all_come)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **arguments: groups.append((backend, arguments)))
    return groups


def test_where_there_is_one_process_nothing_happens(tmp_path):
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=None))
    with pytest.raises(KeyError), together(trainer, Run(tmp_path)) as part:
        part()
        assert not hasattr(trainer.strategy, "_launcher")
        raise KeyError


def test_the_others_read_the_saved_config_of_the_run(tmp_path, alone, monkeypatch):
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

        def kill(self):
            pass

    monkeypatch.setattr(processes.subprocess, "Popen", Program)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    before, threads, trainer = dict(os.environ), torch.get_num_threads(), trainer_with(3)
    with together(trainer, Run(tmp_path)) as part:
        ours = trainer.strategy._launcher
        assert not ours.is_interactive_compatible and not started
        assert ours.launch(lambda *args, **more: (args, more), 1, trainer=trainer, two=2) == ((1,), {"two": 2})
        assert ours.launch(int, "7", trainer=trainer) == 7  # the test after the training: they are there
        assert torch.get_num_threads() == 3
        common = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ours.environment.main_port), "WORLD_SIZE": "3",
            "NODE_RANK": "0", "OMP_NUM_THREADS": "3", "GLOO_SOCKET_IFNAME": meeting.loopback_interface(),
        }  # fmt: skip
        assert {name: os.environ[name] for name in (*common, "LOCAL_RANK")} == common | {"LOCAL_RANK": "0"}
        part()
    ((backend, arguments),) = alone
    about = {"rank": 0, "world_size": 3, "timeout": timedelta(seconds=20), "device_id": None}
    assert backend == "gloo" and {name: arguments[name] for name in about} == about
    assert dict(os.environ) == before and torch.get_num_threads() == threads
    assert len(started) == 2
    for number, (command, environment) in enumerate(started, 1):
        assert command == [sys.executable, "-P", "-m", "cvae.cli.child_process", str(tmp_path), str(os.getpid())]
        assert environment == before | common | {
            "LOCAL_RANK": str(number), "PYTHONPATH": os.pathsep.join(sys.path), processes.CHILD: "1",
        }  # fmt: skip
    os.environ |= {"OMP_NUM_THREADS": "2", "GLOO_SOCKET_IFNAME": "own"}
    trainer = trainer_with(3)
    with together(trainer, Run(tmp_path), resume=True):  # with as many threads as the user wants
        trainer.strategy._launcher.launch(int)
        assert os.environ["OMP_NUM_THREADS"] == "2" and torch.get_num_threads() == threads
        assert os.environ["GLOO_SOCKET_IFNAME"] == "own"
    assert [command[-1] for command, _ in started[2:]] == ["resume", "resume"]


def test_a_process_of_its_own_starts_no_other(tmp_path, alone, monkeypatch):
    monkeypatch.setattr(processes.subprocess, "Popen", None)
    for external in (False, True):
        with together(trainer := trainer_with(1, creates_processes_externally=external), Run(tmp_path)):
            assert trainer.strategy._launcher.launch(int, "3") == 3


@pytest.mark.parametrize(
    ("environment", "external", "leaders"),
    [
        ({"NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, False, range(0, 6, 3)),  # train.py
        ({}, True, range(6)),  # torchrun, SLURM
        ({processes.CHILD: "1"}, True, None),
    ],
)
def test_who_is_watched_by_nobody_gives_signs_of_life(tmp_path, alone, monkeypatch, environment, external, leaders):
    os.environ |= environment
    lines = []
    monkeypatch.setattr(processes, "Lifeline", lambda meeting, ranks: lines.append(ranks) or SimpleNamespace(
        end=lambda reason="": None, lost=lambda after_error: ""
    ))  # fmt: skip
    with together(trainer_with(3, 2, creates_processes_externally=external), Run(tmp_path)):
        assert os.environ.get("GLOO_SOCKET_IFNAME") == meeting.interface_to("127.0.0.1")
    assert lines == ([leaders] if leaders else [])


def test_several_machines_need_an_address(tmp_path, quick):
    with pytest.raises(UserError, match="^trainer.num_nodes=2: NODE_RANK, MASTER_ADDR, MASTER_PORT must be set"):
        with together(trainer_with(1, 2), Run(tmp_path)):
            pass


def test_processes_that_stop_after_a_step_do_not_end_each_other(tmp_path, quick):
    """Each has its own pictures and curves to finish."""
    for stop, reason in (
        (Stopped(15, "", True), ""),
        (Stopped(15), "process 0 (the first is 0): interrupted by SIGTERM"),
    ):
        with pytest.raises(Stopped), together(trainer := trainer_with(), Run(tmp_path)):
            assert trainer.strategy._launcher.reason_for_others(stop) == reason
            raise stop


def fails(error):
    raise error


@pytest.mark.parametrize(
    ("code", "how"),
    [("raise SystemExit(3)", "ended with exit code 3"), ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL")],
)
def test_an_error_that_comes_of_a_dead_process_says_so(tmp_path, alone, quick, code, how):
    trainer = trainer_with(3)
    with pytest.raises(UserError, match=f"^process 2 .the first is 0. .*{how}, so the run ends$") as error:
        with together(trainer, Run(tmp_path)):
            ours, ours.joined = trainer.strategy._launcher, True
            ours.others = [program("import time; time.sleep(60)"), program(f"import time; time.sleep(0.05); {code}")]
            ours.launch(fails, RuntimeError("connection closed"))
    assert isinstance(error.value.__cause__, RuntimeError)
    assert ours.others[0].returncode == -signal.SIGKILL and ours.over.is_set()


@pytest.mark.parametrize("error", [UserError("mine"), RuntimeError("mine"), KeyboardInterrupt("mine")])
def test_an_error_of_this_process_stays_and_ends_the_others(tmp_path, quick, error):
    trainer = trainer_with()
    with pytest.raises(type(error), match="mine"), together(trainer, Run(tmp_path)):
        trainer.strategy._launcher.joined = True
        trainer.strategy._launcher.others = [other := program("import time; time.sleep(60)")]
        trainer.strategy._launcher.launch(fails, error)
    assert other.returncode == -signal.SIGKILL


def test_a_process_that_sees_no_error_tells_the_others_of_a_lost_one(tmp_path, alone, monkeypatch):
    """It may wait for a third one, in a barrier, while the connections of others break."""
    os.environ |= {"NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    told, heard = [], threading.Event()
    line = SimpleNamespace(end=lambda reason="": (told.append(reason), heard.set()), lost=lambda after_error: "")
    monkeypatch.setattr(processes, "Lifeline", lambda meeting, ranks: line)
    monkeypatch.setattr(processes, "PATIENCE", 30)  # on a busy machine: after it this process would end
    with (
        pytest.raises(UserError, match="ended with exit code 3"),
        together(trainer := trainer_with(2, 2), Run(tmp_path)),
    ):
        ours, ours.joined = trainer.strategy._launcher, True
        ours.others = [program("raise SystemExit(3)"), program("import time; time.sleep(60)")]
        assert ours.launch(heard.wait, 60)
        raise UserError(ours.lost())
    assert told[0] == ours.cause and "ended with exit code 3, so the run ends" in told[0]
    assert ours.others[1].wait(60) == -signal.SIGKILL


def test_an_error_of_a_started_process_is_told_at_once(tmp_path, alone):
    """It says its error itself, later: first the processes that watch find out whether another one is the cause."""
    os.environ[processes.CHILD] = "1"
    with pytest.raises(RuntimeError, match="mine"), together(trainer := trainer_with(1), Run(tmp_path)):
        ours = trainer.strategy._launcher
        ours.joined, store = True, ours.meeting.store
        assert not store.check(["error"])
        ours.launch(fails, RuntimeError("mine"))
    assert store.check(["error"])


def test_an_error_of_the_user_wins_over_what_it_does_to_the_others(tmp_path, quick):
    with pytest.raises(UserError, match="mine"), together(trainer := trainer_with(), Run(tmp_path)):
        trainer.strategy._launcher.others = [other := program("raise SystemExit(1)")]
        other.wait()
        raise UserError("mine")


@pytest.mark.parametrize("signed_in", [False, True])
def test_who_waits_for_a_process_that_dies_at_its_start_says_so(tmp_path, quick, signed_in):
    """Also where torch waits for it, in code that knows no exceptions, for minutes."""
    trainer = trainer_with()
    start = time.monotonic()
    with pytest.raises(UserError, match="^process 1 .* was killed by SIGKILL"), together(trainer, Run(tmp_path)):
        ours = trainer.strategy._launcher
        if signed_in:
            ours.meeting.store.set("joins/1", "")
        ours.start = lambda: ours.others.append(program("import os, time; time.sleep(0.2); os.kill(os.getpid(), 9)"))
        ours.launch(pytest.fail)
    assert time.monotonic() - start < 60 and not dist.is_initialized()


def test_a_second_signal_ends_a_process_that_waits_for_another(tmp_path, quick, monkeypatch):
    """In code that lets no handler run: here none of ours is called. After the first signal the step may still end."""
    trainer = trainer_with()
    with pytest.raises(Stopped) as stop, signals.handled(), together(trainer, Run(tmp_path)):
        ours, ours.joined = trainer.strategy._launcher, True
        ours.others = [other := program("import time; time.sleep(60)")]

        def waits_for_other():
            monkeypatch.setattr(signals, "waits", True)
            signal.signal(signal.SIGTERM, lambda *_: None)
            for _ in range(2):
                assert other.poll() is None
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)
            other.wait(60)
            raise RuntimeError("connection closed")

        ours.launch(waits_for_other)
    assert stop.value.signum == signal.SIGTERM and other.returncode == -signal.SIGKILL


def test_the_end_waits_for_the_others_and_for_no_others_long(tmp_path, alone, caplog, monkeypatch):
    for code, returncode in (("import time; time.sleep(0.05)", 0), ("import time; time.sleep(60)", -signal.SIGKILL)):
        trainer = trainer_with()
        monkeypatch.setattr(processes, "END", 0.2 if returncode else 20)
        with together(trainer, Run(tmp_path)):
            trainer.strategy._launcher.others = [other := program(code)]
        assert other.returncode == returncode
        assert caplog.messages == ([f"Process {other.pid} did not end by itself"] if returncode else [])


def test_all_leave_their_group_together_and_the_first_goes_on(tmp_path, quick):
    """Each when all have come to the end of what they do together: on GPUs, to leave waits for the others."""
    trainer = trainer_with()
    with together(trainer, Run(tmp_path)) as part:
        ours = trainer.strategy._launcher
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        leaves = threading.Thread(target=part)
        leaves.start()
        time.sleep(0.2)
        assert dist.is_initialized()
        ours.meeting.store.set("done/1", "")
        leaves.join(60)
        assert not dist.is_initialized()
        ours.others = [dead := program("raise SystemExit(3)")]  # its work is done
        dead.wait()
        time.sleep(0.2)
        ours.meeting.store.set("gone/1", "")
    assert ours.over.is_set()


def test_the_group_of_a_run_is_not_that_of_the_next(tmp_path, quick):
    with pytest.raises(UserError), together(trainer_with(), Run(tmp_path)):
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        raise UserError("too large")
    assert not dist.is_initialized()


@pytest.mark.slow
def test_nothing_is_lost_while_all_live_or_have_ended_well(tmp_path, alone):
    with together(trainer := trainer_with(3), Run(tmp_path)):
        ours = trainer.strategy._launcher
        assert ours.lost() == ""
        ours.others = [program("import time; time.sleep(60)"), program("")]
        ours.others[1].wait()
        start = time.monotonic()
        assert ours.lost() == "" and ours.lost(0.2) == "" and time.monotonic() - start > 0.1
        ours.others[0].kill()  # the end would wait for it


@pytest.mark.slow
def test_who_waits_for_a_dead_process_for_ever_is_ended_with_a_message(tmp_path):
    """In code that knows no exceptions, as that of NCCL is: here a process that sleeps."""
    code = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(ROOT / "tests" / "training")!r}]
from cvae.runs.directory import Run
from cvae.training import processes
from test_processes_of_a_run import trainer_with
processes.LOOK, processes.GRACE, processes.PATIENCE = 0.05, 0.1, 0.1
run = Run({str(tmp_path)!r})
run.claim()
run.save_status("running", pid=5)
with processes.together(trainer := trainer_with(), run):
    ours = trainer.strategy._launcher
    processes.sys.executable = "false"
    ours.join = lambda: time.sleep(60)
    ours.launch(int)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    said = "process 1 (the first is 0) ended with exit code 1, so the run ends"
    assert done.returncode == 1 and f"Error: {said}" in done.stderr
    assert Run(tmp_path).status() == {"state": "failed", "reason": said, "pid": 5}
