"""Training steps side by side: python -m benchmarks.steps --help."""

import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks import driver
from benchmarks.ours import mnist, paced

DEFAULT = "float32:"


def competitors(args: Namespace, images: Path, folder: Path) -> dict[str, list[str]]:
    """Name -> the command of its worker."""

    def peer(name: str, python: str = sys.executable) -> list[str]:
        return [python, "-m", f"benchmarks.peers.{name}", str(images)]

    batch = str(args.batch_size)
    commands = {}
    for name, overrides in driver.ours_of(args, DEFAULT).items():
        overrides = [f"data.batch_size={batch}", *overrides]
        commands[f"ours {name}"] = paced(images, folder / str(len(commands)), overrides)
        commands[f"bare {name}"] = [*peer("bare"), *overrides]
    commands |= {name: [*peer(name), batch] for name in ("naive", "lightning")}
    commands |= {name: [*peer(name, getattr(args, name)), batch] for name in reversed(driver.PEERS)}
    commands = driver.chosen(commands, args.only)
    absent = [name for name in driver.PEERS if name in commands and not driver.has(name, getattr(args, name))]
    return {name: command for name, command in commands.items() if name not in absent}


def main(argv: list[str] | None = None) -> None:
    options = driver.parser("steps", "Train, an epoch over the same images in turn: ms per step.", rounds=10)
    driver.add_ours(options, DEFAULT)
    options.add_argument("--images", type=int, default=6400, help="of MNIST, an epoch (default: %(default)s)")
    options.add_argument("--batch-size", type=int, default=32, help="of all competitors (default: %(default)s)")
    options.add_argument(
        "--only", metavar="NAMES", help="of ours,bare,naive,lightning,pythae,tensorflow (default: all)"
    )
    options.add_argument("--reference", metavar="NAME", help="of the ratios (default: tensorflow, or else bare)")
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        images = mnist(Path(folder), "train", args.images)
        times = driver.take_turns(competitors(args, images, Path(folder)), args.rounds)["turn"]
    bare = next((name for name in times if name.startswith("bare")), "")
    reference = driver.reference_of(times, args.reference, ("tensorflow", bare))
    title = f"Training: ms per step, {args.images:,} images a turn, {args.rounds} rounds"
    columns = ["", "minimum", "median", f"ratio to {reference}", "quartiles"]
    driver.show(title, columns, driver.summary(times, reference))
    pairs = [(name, f"bare {name[5:]}") for name in times if name.startswith("ours ") and f"bare {name[5:]}" in times]
    overhead = {ours: driver.ratios(times, ours, bare) for ours, bare in pairs}
    for name, values in overhead.items():
        first, median, third = driver.quartiles(values)
        print(f"framework overhead, {name} to the same step in a plain loop: {median:.3f} ({first:.3f} to {third:.3f})")
    driver.save(args.json, {"ms_per_step": times, "reference": reference, "overhead": overhead})


if __name__ == "__main__":
    main()
