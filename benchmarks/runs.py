"""Whole commands side by side, their time and memory: python -m benchmarks.runs --help."""

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from benchmarks import driver
from benchmarks.driver import Cost

TRAIN, IMAGES = "train.py", {"train": 60_000, "test": 10_000}


def mnist(folder: Path) -> dict[str, Path]:
    """Split -> MNIST's images as a file.

    Another process writes them: the peak memory of a command is never below that of the process that starts it.
    """
    for split, count in IMAGES.items():
        subprocess.run(
            [sys.executable, "-m", "benchmarks.ours", folder, split, str(count)], cwd=driver.ROOT, check=True
        )
    return {split: folder / f"{split}_{count}.npy" for split, count in IMAGES.items()}


def competitors(args: Namespace, images: Mapping[str, Path]) -> dict[str, list[str]]:
    """Name -> a command. {run} stands for a folder of each run's own."""
    train = [sys.executable, TRAIN, "hydra.run.dir={run}"]
    commands = {
        "ours training": [*train, f"trainer.max_epochs={args.epochs}", *args.overrides],
        "ours first step": [*train, "+callbacks.leave._target_=benchmarks.callbacks.LeaveAfterFirstStep"],
        "ours help": [sys.executable, TRAIN, "--help"],
    }
    if driver.has("tensorflow", args.tensorflow):
        script = [args.tensorflow, "-m", "benchmarks.peers.tensorflow_script"]
        files = [str(images[split]) for split in IMAGES]
        commands["tensorflow training"] = [*script, *files, str(args.epochs), "{run}"]
    return commands


def measure(commands: Mapping[str, list[str]], rounds: int, folder: Path) -> dict[str, list[Cost]]:
    """What each command takes in each round, A B C A B C …. One that fails is left out by name."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in list(costs):
            run = folder / f"{name} {number}".replace(" ", "_")
            run.mkdir()
            command = [part.replace("{run}", str(run)) for part in commands[name]]
            try:
                costs[name].append(driver.cost(name, command, folder))
            except driver.Failed as error:
                print(f"left out, it failed: {error}")
                del costs[name]
    return costs


def rows(costs: Mapping[str, list[Cost]]) -> list[list[str]]:
    """A row per command: minimum and median of the seconds, medians of CPU seconds and of peak memory in MiB."""
    table = []
    for name, runs in costs.items():
        seconds, cpu_seconds, peak = (list(values) for values in zip(*runs, strict=True))
        middle, cpu_middle, peak_middle = (driver.quartiles(values)[1] for values in (seconds, cpu_seconds, peak))
        table.append([name, f"{min(seconds):.2f}", f"{middle:.2f}", f"{cpu_middle:.2f}", f"{peak_middle:.0f}"])
    return table


def main(argv: list[str] | None = None) -> None:
    options = driver.parser("runs", "Run whole commands in turn: seconds, CPU seconds, peak memory.", rounds=3)
    options.add_argument("--epochs", type=int, default=10, help="of both trainings (default: %(default)s)")
    options.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of our training, such as data.batch_size=64")
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = measure(competitors(args, mnist(folder)), args.rounds, folder)
    title = f"Whole commands, {args.epochs} epochs of {IMAGES['train']:,} images, {args.rounds} rounds"
    driver.show(title, ["", "seconds, minimum", "median", "CPU seconds", "peak MiB"], rows(costs))
    trainings = {name: [run.seconds for run in costs[name]] for name in costs if name.endswith(" training")}
    if len(trainings) == 2:
        ratios = driver.ratios(trainings, "ours training", "tensorflow training")
        first, median, third = driver.quartiles(ratios)
        print(f"ours to tensorflow, seconds: {median:.3f} ({first:.3f} to {third:.3f})")
    fields = {name: [run._asdict() for run in runs] for name, runs in costs.items()}
    driver.save(args.json, {"epochs": args.epochs, "costs": fields})


if __name__ == "__main__":
    main()
