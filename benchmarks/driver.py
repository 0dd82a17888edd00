"""The driver's side: workers that take turns, whole commands, ratios, tables, JSON. Needs neither torch nor cvae."""

import argparse
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.turns import FD

ROOT = Path(__file__).parents[1]
PEERS = ("tensorflow", "pythae")  # those with an environment of their own
TERMINAL = {"FORCE_COLOR": "1", "COLUMNS": "120"}  # workers draw their progress bars, as for a user

Times = dict[str, list[float]]  # competitor -> a number a round


class Failed(RuntimeError):
    """A worker or a command ended with an error."""


class Worker:
    """A process that stays alive and works when it is asked to (benchmarks.turns). Between turns it is stopped.

    Raises:
        Failed: it ends before it is ready, or during a turn; the message has the end of its output.
    """

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name, self.log = name, folder / f"{name.replace('/', '_')}.log"
        read, write = os.pipe()
        with open(self.log, "wb") as log:
            env = os.environ | TERMINAL | {FD: str(write), "TMPDIR": str(folder)}
            pipes = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT, "pass_fds": [write]}
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, bufsize=1, **pipes)
        os.close(write)
        self.answers = os.fdopen(read)
        self._answer()

    def turn(self, ask: str = "turn") -> float:
        """Ask for a turn; returns its milliseconds per step."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{ask}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        answer = self.answers.readline()
        if not answer:
            self.end()
            raise Failed(f"{self.name}: {ending(self.log)}")
        self.process.send_signal(signal.SIGSTOP)  # nothing of it runs on: no spinning thread, no bar that is redrawn
        return answer.strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.answers.close()


def start(commands: Mapping[str, list[str]], folder: Path) -> list[Worker]:
    """Start the workers, one after the other. One that fails is left out by name."""
    workers = []
    for name, command in commands.items():
        try:
            workers.append(Worker(name, command, folder))
        except Failed as error:
            print(f"left out, it failed: {error}")
    return workers


def in_turn(workers: list[Worker], rounds: int, ask: str = "turn") -> Times:
    """Milliseconds per step of each worker in each round, A B C A B C …, after a round that does not count."""
    times: Times = {worker.name: [] for worker in workers}
    for number in range(rounds + 1):
        for worker in workers:
            milliseconds = worker.turn(ask)
            if number:
                times[worker.name].append(milliseconds)
    return times


def take_turns(commands: Mapping[str, list[str]], rounds: int, asks: Iterable[str] = ("turn",)) -> dict[str, Times]:
    """Start the workers, let them take turns with each of the asks, and end them: ask -> times."""
    with tempfile.TemporaryDirectory() as folder:
        workers = start(commands, Path(folder))
        try:
            return {ask: in_turn(workers, rounds, ask) for ask in asks}
        except Failed as error:
            raise SystemExit(f"it failed: {error}") from error
        finally:
            for worker in workers:
                worker.end()


class Cost(NamedTuple):
    """What a whole command took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float  # the largest resident set of its processes


# The peak of a process includes that of the one that starts it. The driver has loaded torch, so a small one starts it.
LAUNCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.call(sys.argv[2:])
seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss], file)
sys.exit(status)
"""


def cost(name: str, command: list[str], folder: Path) -> Cost:
    """Run a command to its end. Raises Failed, with the end of its output, unless it exits with 0."""
    log, used = folder / f"{name.replace('/', '_')}.log", folder / "used.json"
    launcher = [sys.executable, "-S", "-c", LAUNCH, str(used), *command]
    with open(log, "wb") as out:
        env = os.environ | TERMINAL
        process = subprocess.Popen(launcher, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if status:
        raise Failed(f"{name}: {ending(log)}")
    seconds, cpu_seconds, peak = json.loads(used.read_text())
    return Cost(seconds, cpu_seconds, peak / (2**20 if sys.platform == "darwin" else 2**10))


def ending(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-5:]) or "no output"


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile; of one value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def ratios(times: Times, name: str, reference: str) -> list[float]:
    """time / time of the reference, round by round: what slows down a whole round cancels out."""
    return [time / other for time, other in zip(times[name], times[reference], strict=True)]


def reference_of(names: Iterable[str], wanted: str | None, preferred: tuple[str, ...]) -> str:
    """Whom the ratios are to: as wanted, else the first of the preferred that is there, else the first name.

    Raises:
        SystemExit: the wanted one is not there, or there is none at all.
    """
    there = list(names)
    if not there or (wanted and wanted not in there):
        raise SystemExit(f"--reference {wanted}: there is {', '.join(there) or 'nothing to measure'}")
    return wanted or next((name for name in preferred if name in there), there[0])


def summary(times: Times, reference: str, digits: int = 2) -> list[list[str]]:
    """A row per competitor: minimum, median, and the ratio to the reference as median and quartiles."""
    rows = []
    for name, values in times.items():
        first, median, third = quartiles(ratios(times, name, reference))
        middle = quartiles(values)[1]
        numbers = [f"{min(values):.{digits}f}", f"{middle:.{digits}f}"]
        rows.append([name, *numbers, f"{median:.3f}", f"{first:.3f} to {third:.3f}"])
    return rows


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=max(Console().width, 110)).print(table)


def parser(command: str, description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that all commands share. From here on SIGTERM ends the workers, too, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options = argparse.ArgumentParser(f"python -m benchmarks.{command}", description=description)
    options.add_argument(
        "--rounds", type=int, default=rounds, help="that count, after one that does not (default: %(default)s)"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    for name in PEERS:
        options.add_argument(
            f"--{name}",
            metavar="PYTHON",
            default=str(ROOT / f"benchmarks/.venv/{name}/bin/python"),
            help=f"the interpreter that has {name} (default: benchmarks/.venv/{name}/bin/python)",
        )
    return options


def add_ours(options: argparse.ArgumentParser, default: str) -> None:
    """--ours, several configurations side by side."""
    options.add_argument(
        "--ours",
        action="append",
        metavar="NAME:OVERRIDES",
        help=f"a configuration of ours, repeatable, such as 'bf16:trainer.precision=bf16-mixed' (default: '{default}')",
    )


def ours_of(args: argparse.Namespace, default: str) -> dict[str, list[str]]:
    """--ours NAME:OVERRIDES … -> name -> overrides."""
    specs = [spec.partition(":") for spec in args.ours or [default]]
    return {name: shlex.split(overrides) for name, _, overrides in specs}


def has(name: str, python: str) -> bool:
    """Whether a peer's interpreter is there; if not, one line says so."""
    there = Path(python).is_file()
    if not there:
        print(f"{name}: left out, there is no {python} (benchmarks/README.md says how to install it)")
    return there


def chosen(commands: Mapping[str, list[str]], only: str | None) -> dict[str, list[str]]:
    """The competitors whose name, or its first word, is in a list with commas; None: all."""
    words = only.split(",") if only else None
    return {name: value for name, value in commands.items() if not words or {name, name.split()[0]} & set(words)}


def save(file: Path | None, content: dict[str, Any]) -> None:
    """Write the numbers, with the machine and the command that made them."""
    if file:
        about = {
            "command": shlex.join(sys.argv), "machine": platform.platform(), "python": platform.python_version(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"), "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(about | content, indent=1))
