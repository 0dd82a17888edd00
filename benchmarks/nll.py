"""Importance sampling of log p(x) side by side: python -m benchmarks.nll --help."""

import sys
import tempfile
from pathlib import Path

from benchmarks import driver
from benchmarks.ours import mnist

DEFAULT = "float32:"


def main(argv: list[str] | None = None) -> None:
    about = "-log p(x) of the tutorial's model, the same images and samples in turn; then ours against the samples."
    options = driver.parser("nll", about, rounds=5)
    driver.add_ours(options, DEFAULT)
    options.add_argument(
        "--images",
        type=int,
        default=100,
        help="of MNIST's test set; ours works in blocks of 100 (default: %(default)s)",
    )
    options.add_argument("--samples", type=int, default=200, help="an image, a multiple of 100 (default: %(default)s)")
    options.add_argument("--more", default="10,50,100,500,1000", help="samples, ours alone (default: %(default)s)")
    args = options.parse_args(argv)
    more = [number for number in args.more.split(",") if number]
    with tempfile.TemporaryDirectory() as folder:
        images = str(mnist(Path(folder), "test", args.images))
        module = [sys.executable, "-m", "benchmarks.peers.ours_nll", images]
        ours = {f"ours {name}": [*module, *overrides] for name, overrides in driver.ours_of(args, DEFAULT).items()}
        commands = dict(ours)
        if driver.has("pythae", args.pythae):
            commands["pythae"] = [args.pythae, "-m", "benchmarks.peers.pythae", images, "100", "nll"]
        asked = str(args.samples)
        times = driver.take_turns(commands, args.rounds, [asked])[asked]
        alone = driver.take_turns(ours, args.rounds, more) if more else {}
    reference = driver.reference_of(times, None, ("pythae",))
    title = f"Importance sampling: ms for {args.images} images x {asked} samples, {args.rounds} rounds"
    columns = ["", "minimum", "median", f"ratio to {reference}", "quartiles"]
    driver.show(title, columns, driver.summary(times, reference, digits=0))
    rows = []
    for samples, values in alone.items():
        for name, found in values.items():
            median = driver.quartiles(found)[1]
            rows.append([name, samples, f"{median:.0f}", f"{median / int(samples) / args.images * 1e3:.1f}"])
    if rows:
        driver.show("Against the number of samples", ["", "samples", "median ms", "us per image and sample"], rows)
    driver.save(args.json, {"ms": times, "reference": reference, "images": args.images, "samples": alone})


if __name__ == "__main__":
    main()
