"""Real runs of several processes, on one machine and on two, that are hurt: each ends by itself. Slow, run by .ci/run.

The two machines are two groups of processes on this one.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import soak

from cvae.runs.directory import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes and sockets in /proc"),
]

WORDS = [
    "data=synthetic", "data.source.train_size=64", "data.source.test_size=16", "model=mlp", "model.hidden=[8]",
    "trainer=ddp", "trainer.accelerator=cpu", "~callbacks.pictures", "~callbacks.progress", "logger=none",
    "evaluation.samples=0",
]  # fmt: skip
FOR_EVER = "trainer.max_epochs=1000000"
SECONDS = 300  # that an end may take on a machine that is busy with other work; on a quiet one it takes 2


@contextmanager
def running(folder, *commands, **environment):
    """train.py with each list of words, and with its own part of the environment; nothing of it lives on."""
    started = [soak.start(*words, cwd=folder, **environment, **own) for words, own in commands]
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def others(process):
    """The numbers of the processes that a run has started, in their order."""
    try:
        found = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        return [pid for pid in found if b"child_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:
        return []


def until(what, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.02)
    assert found
    return found


def trains(folder):
    until((folder / "run" / "checkpoints" / "last.ckpt").exists)


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def waits(pid, signum):
    """Whether a signal has been sent to a process and has not arrived."""
    (mask,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(mask, 16) >> (signum - 1) & 1


def end(process, pids=(), seconds=SECONDS):
    """(exit code, what it said) after at most so many seconds; none of the `pids` lives on."""
    said, _ = process.communicate(timeout=seconds)
    until(lambda: not any(map(lives, pids)))
    assert "Traceback" not in said and "frame #" not in said and "did not end" not in said, said
    return process.returncode, said


def listening(pid):
    """The addresses, as the kernel writes them, at which a process listens."""
    inodes = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


def test_three_processes_end_by_themselves(tmp_path):
    """Their sockets are for this machine alone, also where MASTER_ADDR is that of another interface."""
    words = [*WORDS, "trainer.devices=3", "trainer.max_epochs=30", "hydra.run.dir=run"]
    with running(tmp_path, (words, {})) as (first,):
        trains(tmp_path)
        pids = others(first)
        found = [address for pid in (first.pid, *pids) for address in listening(pid)]
        assert len(found) >= 4 and set(found) == {"0100007F"}  # 127.0.0.1
        code, said = end(first, pids)
    assert code == 0 and Run(tmp_path / "run").state() == "finished", said


@pytest.mark.parametrize("sweep", [False, True])
def test_a_process_that_is_killed_at_its_start_ends_its_run_alone(tmp_path, sweep):
    words = ["-m", "model.latent_dim=2,3", "hydra.sweep.dir=sweep"] if sweep else ["hydra.run.dir=run"]
    words += [*WORDS, "trainer.devices=3", "trainer.max_epochs=1"]
    with running(tmp_path, (words, {})) as (first,):
        until(lambda: others(first))
        os.kill(others(first)[0], signal.SIGKILL)
        code, said = end(first)
    lost = "process 1 (the first is 0) was killed by SIGKILL, so the run ends"
    assert code == 1 and said.count(f"Error: {lost}") == 1
    runs = [Run(tmp_path / "sweep" / f"{n}_latent_dim={n + 2}") for n in (0, 1)] if sweep else [Run(tmp_path / "run")]
    assert runs[0].status() | {"state": "failed", "reason": lost} == runs[0].status()
    assert all(run.state() == "finished" for run in runs[1:])


@pytest.mark.parametrize("end_of_first", ["two signals", "SIGKILL"])
def test_a_process_that_is_stopped_does_not_live_on(tmp_path, end_of_first):
    words = [*WORDS, "trainer.devices=3", FOR_EVER, "hydra.run.dir=run"]
    with running(tmp_path, (words, {})) as (first,):
        trains(tmp_path)
        pids = others(first)
        os.kill(pids[0], signal.SIGSTOP)
        if end_of_first == "SIGKILL":
            first.kill()
            assert end(first, pids)[0] == -signal.SIGKILL
            return
        for _ in range(2):  # Ctrl-C reaches all of them
            os.killpg(first.pid, signal.SIGINT)
            until(lambda: not waits(first.pid, signal.SIGINT))  # two that wait together are one
        code, said = end(first, pids)
    assert code == 128 + signal.SIGINT and f"resume={tmp_path}/run" in said
    assert Run(tmp_path / "run").status()["reason"] == "by SIGINT"


def test_a_port_in_use_is_a_line(tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        words = [*WORDS, "trainer.devices=2", "hydra.run.dir=run"]
        with running(tmp_path, (words, {"MASTER_PORT": str(port)})) as (first,):
            code, said = end(first)
    assert code == 1 and said.startswith(f"Error: MASTER_PORT={port}: the first process cannot listen at this port: ")
    assert len(said.splitlines()) == 1


def machines(*more):
    """What is typed on each of two machines."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    words = [*WORDS, "trainer.devices=2", "trainer.num_nodes=2", "hydra.run.dir=run", *more]
    return [(words, {"NODE_RANK": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}) for n in range(2)]


def test_two_machines_are_one_run(tmp_path):
    with running(tmp_path, *machines("trainer.max_epochs=2")) as both:
        ends = [end(process) for process in both]
    assert [code for code, _ in ends] == [0, 0] and ends[0][1].count("Test ELBO") == 1 and not ends[1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and Run(tmp_path / "run").state() == "finished"


@pytest.mark.parametrize(
    ("hurt", "codes", "said"),
    [
        ("other of machine 0", (1, 1), "process 1 (the first is 0) was killed by SIGKILL"),
        ("other of machine 1", (1, 1), "process 3 (the first is 0) was killed by SIGKILL"),
        ("first of machine 0", (-9, 1), "cannot be reached any more"),
        ("first of machine 1", (1, -9), "process 2 (the first is 0) gives no sign of life"),
        ("SIGTERM to machine 1", (143, 143), ""),
    ],
)
def test_what_happens_to_one_machine_ends_the_run_on_both(tmp_path, hurt, codes, said):
    with running(tmp_path, *machines(FOR_EVER)) as both:
        trains(tmp_path)
        process = both[int(hurt[-1])]
        pids = [pid for each in both for pid in others(each)]
        if "SIGTERM" in hurt:
            process.terminate()
        else:
            os.kill(process.pid if "first" in hurt else others(process)[0], signal.SIGKILL)
        ends = [end(each, pids) for each in both]
    assert [code for code, _ in ends] == list(codes), ends
    for code, text in ends:
        assert code != 1 or (text.count("Error: ") == 1 and said in text)


def test_an_error_on_one_machine_ends_the_run_on_both(tmp_path):
    """Before the first step: its images are missing."""
    (first, second), none = machines(FOR_EVER), f"data.root={tmp_path}/none"
    words = [word for word in second[0] if not word.startswith("data")]
    second = ([*words, "data=image_folder", "data.image_shape=[1,28,28]", none], second[1])
    with running(tmp_path, first, second) as both:
        ends = [end(process) for process in both]
    assert [code for code, _ in ends] == [1, 1] and f"{tmp_path}/none" in ends[1][1]
    assert "Error: process 2 (the first is 0): " in ends[0][1] and f"{tmp_path}/none" in ends[0][1]


def test_a_machine_without_the_run_to_begin_with_ends_both(tmp_path):
    first, second = machines(FOR_EVER)
    with running(tmp_path, first, ([*second[0], "init=none"], second[1])) as both:
        ends = [end(process) for process in both]
    said = f"init=none: none is not a run directory on the machine {socket.gethostname()}. Each of the 2 machines"
    assert [code for code, _ in ends] == [1, 1] and f"Error: {said}" in ends[1][1]
    assert f"Error: process 2 (the first is 0): {said}" in ends[0][1]


@pytest.mark.parametrize("machine", [0, 1])
def test_a_machine_without_the_other_says_which_address_within_a_minute(tmp_path, machine):
    words, environment = machines(FOR_EVER)[machine]
    with running(tmp_path, (words, environment)) as (alone,):
        code, said = end(alone, seconds=60 + SECONDS)  # until it has loaded what it needs, and then a minute
    (line,) = said.splitlines()
    assert code == 1 and f"127.0.0.1:{environment['MASTER_PORT']}" in line
    assert line.startswith("Error: process 2 could not reach" if machine else "Error: of 4 processes")


def test_torchrun_starts_the_processes_too(tmp_path):
    words = [*WORDS, "trainer.devices=2", "trainer.max_epochs=2", "hydra.run.dir=run"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(soak.ROOT), "OMP_NUM_THREADS": "1"}
    command += [str(soak.ROOT / "train.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.count("Test ELBO") == 1 and Run(tmp_path / "run").state() == "finished"
