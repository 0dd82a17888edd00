"""What a second process brings: python -m benchmarks.processes --help."""

import os
import sys
import tempfile
from pathlib import Path

from benchmarks import driver
from benchmarks.ours import mnist, paced

MODELS = {
    "tutorial": [],
    "resnet_mnist": ["experiment=resnet_mnist"],
    "ladder_mnist": ["experiment=ladder_mnist"],
}  # fmt: skip


def commands_of(args: list[str], images: Path, folder: Path, counts: list[int], batch: int) -> dict[str, list[str]]:
    """Name -> the command of a worker: ours and the same steps by hand, with each number of processes."""
    commands = {}
    for count in counts:
        several = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={count}"] if count > 1 else []
        overrides = ["trainer=cpu", *args, *several, f"data.batch_size={batch}"]
        commands[f"ours {count}"] = paced(images, folder / str(count), overrides)
        by_hand = ["trainer=cpu", *args, f"data.batch_size={batch}"]
        commands[f"by hand {count}"] = [
            sys.executable, "-m", "benchmarks.peers.bare_processes", str(count), str(images), *by_hand
        ]  # fmt: skip
    return commands


def main(argv: list[str] | None = None) -> None:
    options = driver.parser("processes", "Ours and the same loop by hand in one and in several processes.", rounds=10)
    options.add_argument("--images", type=int, default=1600, help="of an epoch of each process (default: %(default)s)")
    options.add_argument("--batch-size", type=int, default=16, help="of each process (default: %(default)s)")
    options.add_argument("--processes", default="1,2", help="how many (default: %(default)s), each on one thread")
    options.add_argument("--only", metavar="NAMES", help=f"of {','.join(MODELS)} (default: all)")
    options.add_argument("overrides", nargs="*", help="of all, such as trainer.precision=bf16-mixed")
    args = options.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    counts, result = [int(word) for word in args.processes.split(",")], {}
    for name, words in driver.chosen(MODELS, args.only).items():
        with tempfile.TemporaryDirectory() as folder:
            # As many images as the largest number of processes needs: with fewer of them a turn has more steps.
            images = mnist(Path(folder), "train", args.images * max(counts))
            words = [*words, *args.overrides]
            commands = commands_of(words, images, Path(folder), counts, args.batch_size)
            result[name] = times = driver.take_turns(commands, args.rounds)["turn"]
        rows = []
        for count in counts:
            ours, by_hand, first = f"ours {count}", f"by hand {count}", f"ours {counts[0]}"
            overhead, gain = driver.ratios(times, ours, by_hand), driver.ratios(times, first, ours)
            milliseconds = driver.quartiles(times[ours])[1]
            rows.append([
                str(count), f"{milliseconds:.2f}", f"{driver.quartiles(times[by_hand])[1]:.2f}",
                f"{driver.quartiles(overhead)[1]:.3f}", f"{count * args.batch_size / milliseconds * 1e3:.0f}",
                f"{driver.quartiles(gain)[1] * count / counts[0]:.2f}",
            ])  # fmt: skip
        columns = [
            "processes",
            "ours, ms a step",
            "by hand",
            "ours / by hand",
            "images/s",
            f"times those of {counts[0]}",
        ]
        driver.show(f"{name}: {args.batch_size} images a step and process, {args.rounds} rounds", columns, rows)
    driver.save(args.json, {"ms_per_step": result})


if __name__ == "__main__":
    main()
