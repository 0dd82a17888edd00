"""Which goals the measured numbers meet: python -m benchmarks.goals cpu|gpu FOLDER.

The folder has steps.json, wide.json (steps of filters=512), nll.json and runs.json, as the commands write them by
--json; commands.tsv has a line for each other command: its name, its seconds, its exit status.
"""

import json
import operator
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import driver


class Goal:
    """A goal, and how its number comes from a folder: measured(folder, *arguments)."""

    def __init__(self, name: str, is_met: Callable, limit: float, unit: str, measured: Callable, *arguments: str):
        self.name, self.is_met, self.limit, self.unit = name, is_met, limit, unit
        self.measured, self.arguments = measured, arguments


def times_of(folder: Path, file: str, key: str) -> driver.Times:
    found = json.loads((folder / file).read_text())[key]
    return {name: [v["seconds"] if isinstance(v, dict) else v for v in values] for name, values in found.items()}


def median(folder: Path, file: str, key: str, name: str) -> float:
    return statistics.median(times_of(folder, file, key)[name])


def rate(folder: Path, file: str, key: str, name: str) -> float:
    """A second, of what takes milliseconds."""
    return 1e3 / median(folder, file, key, name)


def ratio(folder: Path, file: str, key: str, name: str, reference: str) -> float:
    """The median of the ratios round by round."""
    return statistics.median(driver.ratios(times_of(folder, file, key), name, reference))


def command(folder: Path, name: str) -> float:
    """Its seconds; infinite if it failed."""
    lines = (line.split("\t") for line in (folder / "commands.tsv").read_text().splitlines())
    seconds, status = {called: rest for called, *rest in lines}[name]
    return float(seconds) if status == "0" else float("inf")


def share_of_matrix_rate(folder: Path) -> float:
    """Of filters=512 in bfloat16, batch 32: its arithmetic a second over what matrix products reach on this machine."""
    import torch

    from benchmarks.limits import matrix_rate, operations

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = rate(folder, "wide.json", "ms_per_step", "ours 512")
    return steps * operations(32, first=512, second=512) / matrix_rate(device, torch.bfloat16)


MOST, LEAST = operator.le, operator.ge
STEPS, RUNS = ("steps.json", "ms_per_step"), ("runs.json", "costs")
NLL, ALONE = ("nll.json", "ms"), "training-alone float32"
GOALS = {
    "cpu": [
        Goal("step, float32, to TensorFlow's", MOST, 0.85, "", ratio, *STEPS, "ours float32", "tensorflow"),
        Goal("step, bfloat16, to TensorFlow's", MOST, 0.6, "", ratio, *STEPS, "ours bf16", "tensorflow"),
        Goal("step to a plain loop's", MOST, 1.05, "", ratio, *STEPS, "ours float32", "bare float32"),
        Goal("whole run to TensorFlow's", MOST, 0.9, "", ratio, *RUNS, "ours float32", "tensorflow"),
        Goal("whole run to training alone", MOST, 1.03, "", ratio, *RUNS, "ours float32", ALONE),
        Goal("train.py --help", MOST, 2, "s", median, *RUNS, "help"),
        Goal("command to first step", MOST, 10, "s", median, *RUNS, "first-step float32"),
        Goal("importance sampling to pythae's", MOST, 0.3, "", ratio, *NLL, "ours float32", "pythae"),
    ],
    "gpu": [
        Goal("tests that need a device", MOST, 3600, "s", command, "tests"),
        Goal("tutorial, batch 32", LEAST, 3000, "steps/s", rate, *STEPS, "ours float32"),
        Goal("10 epochs with pictures", MOST, 15, "s", median, *RUNS, "ours float32"),
        Goal("filters=512, bfloat16, of the matrix rate", LEAST, 0.4, "", share_of_matrix_rate),
        Goal("5,000 samples for 10,000 images", MOST, 60, "s", command, "evaluate"),
        Goal("resnet_mnist to its end", MOST, 86_400, "s", command, "resnet_mnist"),
        Goal("cifar10 to its end", MOST, 86_400, "s", command, "cifar10"),
    ],
}


def number(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def judged(goal: Goal, folder: Path) -> tuple[str, str]:
    """(the number, whether it meets the goal)"""
    try:
        value = goal.measured(folder, *goal.arguments)
    except (OSError, KeyError) as error:
        return "-", f"not measured ({type(error).__name__}: {error})"
    return number(value, goal.unit), "met" if goal.is_met(value, goal.limit) else "FALLS SHORT"


def main(device: str, folder: str) -> None:
    """Exit code 1 unless all goals are met."""
    rows, sign = [], {MOST: "≤", LEAST: "≥"}
    for goal in GOALS[device]:
        rows.append([goal.name, f"{sign[goal.is_met]} {number(goal.limit, goal.unit)}", *judged(goal, Path(folder))])
    driver.show(f"Goals on this {device.upper()}", ["", "goal", "measured", ""], rows)
    sys.exit(any(row[-1] != "met" for row in rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
