"""What a training image and step of ours cost at other sizes: python -m benchmarks.scaling --help."""

import shlex
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks import driver
from benchmarks.ours import mnist, paced

BATCHES, FILTERS = (32, 64, 128, 256, 512, 1024, 2048), (32, 64, 128, 256, 512)
LATENTS, IMAGES = (2, 8, 32, 128, 512), (1600, 6400, 25_600, 60_000)

Point = tuple[str, int, int]  # override, batch size, images a turn


def sweeps(scale: int, quick: bool) -> dict[str, list[Point]]:
    """What is varied -> its points. A turn has few images, and scale times as many on a fast machine."""

    def few(points: list[Point]) -> list[Point]:
        return points[:3:2] if quick else points

    def images(batches: int, size: int = 32) -> int:
        return min(batches * scale, 60_000 // size) * size  # whole batches

    return {
        "batch size": few([(f"data.batch_size={size}", size, images(max(4, 1600 // size), size)) for size in BATCHES]),
        "filters": few([(f"model.filters={n}", 32, images(max(3, 1600 // n))) for n in FILTERS]),
        "latent_dim": few([(f"model.latent_dim={n}", 32, images(50)) for n in LATENTS]),
        "dataset": few([(f"data.batch_size=32 # {n:,} images", 32, n) for n in IMAGES]),
    }


def measure(points: list[Point], overrides: list[str], rounds: int) -> dict[str, tuple[int, driver.Times]]:
    """Override -> images, and ms per step in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder, commands = Path(name), {}
        for override, _, images in points:
            file = mnist(folder, "train", images)
            values = [*overrides, *shlex.split(override, comments=True)]
            commands[override] = paced(file, folder / str(len(commands)), values)
        times = driver.take_turns(commands, rounds)["turn"]
    return times


def loader_alone(args: Namespace, overrides: list[str]) -> driver.Times:
    """ms per step of training and of its loader without the training."""
    with tempfile.TemporaryDirectory() as name:
        file = mnist(Path(name), "train", min(1600 * args.scale, 60_000))
        loader = [sys.executable, "-m", "benchmarks.peers.loader", str(file), *overrides]
        commands = {"training": paced(file, Path(name) / "run", overrides), "loader alone": loader}
        return driver.take_turns(commands, args.rounds)["turn"]


def main(argv: list[str] | None = None) -> None:
    options = driver.parser("scaling", "Ours per step and per image, against sizes.", rounds=5)
    options.add_argument("--quick", action="store_true", help="two points of each")
    options.add_argument("--scale", type=int, default=1, help="so many times the images, up to all (default: 1)")
    options.add_argument("--only", metavar="NAMES", help="of batch,filters,latent_dim,dataset,loader (default: all)")
    options.add_argument("overrides", nargs="*", help="of all points, such as trainer.precision=bf16-mixed")
    args = options.parse_args(argv)
    result = {}
    wanted = driver.chosen({name: [] for name in [*sweeps(1, True), "loader"]}, args.only)
    for name, points in sweeps(args.scale, args.quick).items():
        if name not in wanted:
            continue
        result[name] = times = measure(points, args.overrides, args.rounds)
        rows = []
        for override, batch, images in points:
            first, median, third = driver.quartiles(times[override])
            steps = -(-images // batch)
            relative = driver.quartiles(driver.ratios(times, override, points[0][0]))[1] * steps / images
            relative /= -(-points[0][2] // points[0][1]) / points[0][2]
            numbers = [f"{median:.2f}", f"{first:.2f} to {third:.2f}", f"{median * steps / images * 1e3:.0f}"]
            rows.append([override, f"{images:,}", *numbers, f"{relative:.3f}"])
        columns = ["", "images a turn", "ms per step", "quartiles", "us per image", "ratio per image to the first"]
        driver.show(f"Cost against {name}", columns, rows)
    if "loader" in wanted:
        result["loader"] = times = loader_alone(args, args.overrides)
        columns = ["", "minimum ms", "median ms per step", "ratio to training", "quartiles"]
        driver.show("The loader alone", columns, driver.summary(times, "training", digits=3))
    driver.save(args.json, {"ms_per_step": result})


if __name__ == "__main__":
    main()
