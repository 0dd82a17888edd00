"""Importance-sampled log p(x) side by side: python -m benchmarks.nll --help."""

import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks import driver
from benchmarks.ours import mnist

DEFAULT = "ours:"


def competitors(args: Namespace, images: Path) -> dict[str, list[str]]:
    """Name -> the command of its worker."""
    commands = {
        name: [sys.executable, "-m", "benchmarks.peers.evaluation", str(images), *overrides]
        for name, overrides in driver.ours_of(args, DEFAULT).items()
    }
    if driver.has("pythae", args.pythae):
        commands["pythae"] = [args.pythae, "-m", "benchmarks.peers.pythae", str(images), "32", "nll"]
    return commands


def main(argv: list[str] | None = None) -> None:
    what = (
        "Measure -log p(x) of the tutorial's model by importance sampling, in turn, after a round that does not count."
    )
    options = driver.parser("nll", what, rounds=5)
    driver.add_ours(options, DEFAULT)
    options.add_argument(
        "--images",
        type=int,
        default=100,
        help="of MNIST's test set; ours works in blocks of 100 (default: %(default)s)",
    )
    options.add_argument(
        "--samples", type=int, nargs="+", default=[200], help="per image, multiples of 100, a table each (default: 200)"
    )
    args = options.parse_args(argv)
    if wrong := [count for count in args.samples if count < 100 or count % 100]:
        options.error(f"--samples {wrong[0]}: pythae draws 100 at a time, so a positive multiple of 100")
    with tempfile.TemporaryDirectory() as folder:
        commands = competitors(args, mnist(Path(folder), "test", args.images))
        turns = driver.take_turns(commands, args.rounds, [str(count) for count in args.samples])
    seconds = {
        samples: {name: [value / 1e3 for value in values] for name, values in times.items()}
        for samples, times in turns.items()
    }
    for samples, times in seconds.items():
        reference = driver.reference_of(times, None, ("pythae",))
        title = f"-log p(x): seconds, {args.images:,} images, {int(samples):,} samples, {args.rounds} rounds"
        columns = ["", "minimum", "median", f"ratio to {reference}", "quartiles"]
        driver.show(title, columns, driver.summary(times, reference))
    driver.save(args.json, {"images": args.images, "seconds": seconds})


if __name__ == "__main__":
    main()
