"""Whole commands side by side: python -m benchmarks.runs --help."""

import statistics
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks import driver
from benchmarks.ours import DATA, mnist

DEFAULT = "float32:"
ALONE = "~callbacks.pictures ~callbacks.checkpoint ~logger.tensorboard evaluation.samples=0 \
trainer.check_val_every_n_epoch=100000".split()
LIBRARIES = "import torch, pytorch_lightning, torchvision"


def commands(args: Namespace, folder: Path) -> dict[str, list[str]]:
    """Name -> command; FOLDER in it stands for a new folder."""
    train = [sys.executable, "train.py"]
    mine = [f"data.root={DATA}", "hydra.run.dir=FOLDER"]
    found = {}
    for name, overrides in driver.ours_of(args, DEFAULT).items():
        own = any(override.startswith("experiment=") for override in overrides)  # has a number of epochs of its own
        epochs = [] if own else [f"trainer.max_epochs={args.epochs}"]
        found[f"ours {name}"] = [*train, *epochs, *overrides, *mine]
        found[f"training-alone {name}"] = [*found[f"ours {name}"], *ALONE]
        first = "+callbacks.first._target_=benchmarks.callbacks.LeaveAfterFirstStep"
        found[f"first-step {name}"] = [*train, *overrides, *mine, first]
    found |= {"help": [*train, "--help"], "libraries": [sys.executable, "-c", LIBRARIES]}
    if driver.chosen({"tensorflow": []}, args.only) and driver.has("tensorflow", args.tensorflow):
        files = [str(mnist(folder, split, count)) for split, count in (("train", 60_000), ("test", 10_000))]
        module = "benchmarks.peers.tensorflow_script"
        found["tensorflow"] = [args.tensorflow, "-m", module, *files, str(args.epochs), "FOLDER"]
    return driver.chosen(found, args.only)


def in_turn(listed: dict[str, list[str]], rounds: int, folder: Path) -> dict[str, list[driver.Cost]]:
    """The cost of each command in each round; one that fails is left out by name."""
    costs: dict[str, list[driver.Cost]] = {name: [] for name in listed}
    for _ in range(rounds):
        for name in list(costs):
            new = tempfile.mkdtemp(dir=folder)
            try:
                costs[name].append(driver.cost(name, [part.replace("FOLDER", new) for part in listed[name]], folder))
            except driver.Failed as error:
                print(f"left out, it failed: {error}")
                del costs[name]
    return costs


def main(argv: list[str] | None = None) -> None:
    about = f"Whole commands in turn. 'libraries' is python -c '{LIBRARIES}', the floor of 'first-step'."
    options = driver.parser("runs", about, rounds=3)
    driver.add_ours(options, DEFAULT)
    options.add_argument("--epochs", type=int, default=10, help="of a whole training (default: %(default)s)")
    options.add_argument(
        "--only", metavar="NAMES", help="of ours,training-alone,first-step,help,libraries,tensorflow (default: all)"
    )
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        costs = in_turn(commands(args, Path(folder)), args.rounds, Path(folder))
    times = {name: [cost.seconds for cost in values] for name, values in costs.items()}
    whole = next((name for name in times if name.startswith("ours ")), None)
    reference = driver.reference_of(times, None, ("tensorflow", whole or ""))
    rows = driver.summary(times, reference)
    for row in rows:
        values = costs[row[0]]
        row += [f"{statistics.median(cost.cpu_seconds for cost in values):.1f}"]
        row += [f"{max(cost.peak_mib for cost in values):.0f}"]
        if row[0].split()[0] in ("help", "first-step", "libraries"):
            row[3:5] = "", ""  # no whole training: no ratio
    columns = ["", "minimum s", "median s", f"ratio to {reference}", "quartiles", "CPU s", "peak MiB"]
    driver.show(f"Whole commands, {args.epochs} epochs, {args.rounds} rounds", columns, rows)
    saved = {name: [cost._asdict() for cost in values] for name, values in costs.items()}
    driver.save(args.json, {"costs": saved, "reference": reference, "epochs": args.epochs})


if __name__ == "__main__":
    main()
