"""benchmarks/: the numbers by value, workers that take turns, and what is left out."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import driver, nll, runs, steps

# A worker whose n-th turn, from 0 on, takes n milliseconds a step, or as many as it is asked for.
WORKER = """
import os, sys
answers = os.fdopen(int(os.environ["BENCHMARKS_ANSWERS"]), "w")
print("ready", file=answers, flush=True)
for number, line in enumerate(sys.stdin):
    with open(sys.argv[1], "a") as order:
        order.write(sys.argv[2] + line)
    print(number if line == "turn\\n" else float(line), file=answers, flush=True)
"""
BROKEN = [sys.executable, "-c", "raise SystemExit('no such module')"]


def worker(order, name):
    return [sys.executable, "-S", "-c", WORKER, str(order), name]


def test_quartiles():
    assert driver.quartiles([7.0]) == (7.0, 7.0, 7.0)
    assert driver.quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2.0, 3.0, 4.0)


def test_ratios_are_taken_round_by_round():
    assert driver.ratios({"a": [2.0, 30.0], "b": [1.0, 10.0]}, "a", "b") == [2.0, 3.0]


def test_a_row_of_the_summary():
    times = {"a": [2.0, 40.0, 3.0], "b": [1.0, 10.0, 2.0]}  # ratios 2, 4, 1.5
    assert driver.summary(times, "b") == [
        ["a", "2.00", "3.00", "2.000", "1.750 to 3.000"],
        ["b", "1.00", "2.00", "1.000", "1.000 to 1.000"],
    ]


def test_whom_the_ratios_are_to():
    assert driver.reference_of(["a", "b", "c"], None, ("x", "c")) == "c"
    assert driver.reference_of(["a", "b"], None, ("x",)) == "a"
    assert driver.reference_of(["a", "b"], "b", ("a",)) == "b"
    with pytest.raises(SystemExit, match="--reference x: there is a, b"):
        driver.reference_of(["a", "b"], "x", ())
    with pytest.raises(SystemExit, match="nothing to measure"):
        driver.reference_of([], None, ())


def test_workers_take_turns(tmp_path):
    order = tmp_path / "order"
    commands = {name: worker(order, name) for name in "ab"}
    times = driver.take_turns(commands, rounds=2, asks=["turn", "0.5"])
    assert times["turn"] == {"a": [1.0, 2.0], "b": [1.0, 2.0]}  # turn 0 does not count
    assert times["0.5"] == {"a": [0.5, 0.5], "b": [0.5, 0.5]}
    assert order.read_text().split() == ["aturn", "bturn"] * 3 + ["a0.5", "b0.5"] * 3


def test_a_worker_that_fails_is_left_out_by_name(tmp_path, capsys):
    times = driver.take_turns({"bad": BROKEN, "good": worker(tmp_path / "order", "good")}, rounds=1)
    assert times == {"turn": {"good": [1.0]}}
    assert capsys.readouterr().out == "left out, it failed: bad: no such module\n"


def test_a_worker_that_ends_during_a_turn_is_named():
    code = "import os; os.write(int(os.environ['BENCHMARKS_ANSWERS']), b'ready\\n'); input(); raise SystemExit('gone')"
    with pytest.raises(SystemExit, match="it failed: short: gone"):
        driver.take_turns({"short": [sys.executable, "-c", code]}, rounds=1)


def test_the_side_of_a_worker():
    """The first line says ready, each further one the milliseconds of a step; it ends when nobody asks any more."""
    code = """
import time
from benchmarks.turns import Turns
turns = Turns(steps=4)
while turns.wait() != "stop":
    time.sleep(0.08)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input="go\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ready, milliseconds = done.stdout.split()
    assert ready == "ready" and 20 <= float(milliseconds) < 80


def test_the_cost_of_a_command(tmp_path):
    code = "import time; block = b'x' * 2**28; time.sleep(0.1)"
    seconds, cpu_seconds, peak_mib = driver.cost("a", [sys.executable, "-c", code], tmp_path)
    assert 0.1 <= seconds < 30 and 0 < cpu_seconds < seconds + 1
    assert 256 < peak_mib < 16_000
    with pytest.raises(driver.Failed, match="bad/one: no such module"):
        driver.cost("bad/one", BROKEN, tmp_path)


def test_a_command_starts_from_a_small_process():
    """Its peak memory is never below that of the process that starts it."""
    code = "import sys, benchmarks.runs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_whole_commands_run_in_turn_each_in_a_folder_of_its_own(tmp_path, capsys):
    code = "import sys, pathlib; pathlib.Path(sys.argv[1], 'new').touch(exist_ok=False)"
    commands = {name: [sys.executable, "-S", "-c", code, "{run}"] for name in ("a b", "c")} | {"bad": BROKEN}
    costs = runs.measure(commands, 2, tmp_path)
    assert {name: len(found) for name, found in costs.items()} == {"a b": 2, "c": 2}
    assert "left out, it failed: bad: no such module" in capsys.readouterr().out
    times = sorted(tmp_path.glob("*/new"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.parent.name for path in times] == ["a_b_0", "c_0", "a_b_1", "c_1"]


def test_a_row_of_whole_commands():
    costs = {"a": [driver.Cost(3.0, 1.0, 10.0), driver.Cost(1.0, 5.0, 30.0), driver.Cost(2.0, 3.0, 20.0)]}
    assert runs.rows(costs) == [["a", "1.00", "2.00", "3.00", "20"]]


def arguments(**others):
    absent = dict.fromkeys(driver.PEERS, "/nowhere/python")
    return argparse.Namespace(**absent | {"ours": None, "only": None, "batch_size": 8, "epochs": 3} | others)


def test_a_missing_peer_is_left_out_by_name(capsys):
    images, folder = Path("x.npy"), Path("runs")
    assert set(steps.competitors(arguments(), images, folder)) == {"ours float32", "bare float32", "naive", "lightning"}
    out = capsys.readouterr().out
    assert [line.partition(":")[0] for line in out.splitlines()] == ["tensorflow", "pythae"]
    assert "there is no /nowhere/python" in out
    assert set(nll.competitors(arguments(), images)) == {"ours"}
    assert capsys.readouterr().out.startswith("pythae: left out")
    found = runs.competitors(arguments(overrides=["data.batch_size=8"]), {"train": images, "test": images})
    assert set(found) == {"ours training", "ours first step", "ours help"}
    assert found["ours training"][-2:] == ["trainer.max_epochs=3", "data.batch_size=8"]
    assert capsys.readouterr().out.startswith("tensorflow: left out")


def test_a_peer_that_is_there_takes_part(capsys):
    found = steps.competitors(arguments(tensorflow=sys.executable, only="ours,tensorflow"), Path("x.npy"), Path("runs"))
    assert found["tensorflow"] == [sys.executable, "-m", "benchmarks.peers.tensorflow", "x.npy", "8"]
    assert set(found) == {"ours float32", "tensorflow"}
    assert capsys.readouterr().out == ""  # who was not asked for is not missed


def test_configurations_of_ours():
    args = arguments(ours=["float32:", "big:model.filters=512 'run_dir=a b'"])
    assert driver.ours_of(args, "x:") == {"float32": [], "big": ["model.filters=512", "run_dir=a b"]}
    assert driver.ours_of(arguments(), "x:seed=1") == {"x": ["seed=1"]}
