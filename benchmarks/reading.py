"""Own images: how fast files are decoded, how soon a second start trains, and training on more than the memory holds.

python -m benchmarks.reading make FOLDER --images 100000  # PNG and JPEG files, made from the images of another folder
python -m benchmarks.reading files FOLDER                 # decoding into the cache against a plain loop of Pillow
python -m benchmarks.reading start FOLDER                 # from the command to the first step: first and second start
python -m benchmarks.reading mapped FOLDER --gib 6        # an array on disk against the same one in memory
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks import driver

SIZE = 32  # pixels
BATCHES = 1000  # for mapped: of 32 images, by the tutorial's network
GIB = "for mapped: the size of the array, at least 5: a quarter of it is allowed, and the libraries take 1 GiB"
QUIET = [
    "trainer=cpu", "evaluation.samples=0", "~callbacks.pictures", "~callbacks.checkpoint", "~logger.tensorboard",
    "+trainer.limit_test_batches=1", "+trainer.limit_val_batches=1",
]  # fmt: skip


def make(folder: Path, images: int, source: Path) -> None:
    """Write so many files in ten folders: the images of `source`, each shifted by other pixels; half of them JPEG."""
    from cvae.data.listing import images_below

    files = [Image.open(source / name).convert("RGB") for name, _ in images_below(source)]
    for number in range(images):
        place = folder / f"{number % 10}" / f"{number:06}.{'jpg' if number % 2 else 'png'}"
        place.parent.mkdir(parents=True, exist_ok=True)
        x = np.roll(np.asarray(files[number % len(files)]), (number // len(files), number % 7), (0, 1))
        Image.fromarray(x).save(place, quality=90)


def plain(files: list[str]) -> None:
    """What a script does: open, make RGB, resize."""
    for file in files:
        with Image.open(file) as image:
            np.asarray(ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), Image.Resampling.BILINEAR))


def decoding(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Microseconds for a file, in turn: the plain loop over a tenth of the files, and all of them into a new cache."""
    from cvae.data.cache import Cache, files_now
    from cvae.data.decode import Reading
    from cvae.data.listing import images_below

    files = files_now(folder, [name for name, _ in images_below(folder)])
    some = files.paths(range(0, len(files.names), 10))
    times: dict[str, list[float]] = {"plain loop": [], "first start": [], "second start": []}
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        for number in range(rounds):
            cache = Cache(Path(place) / str(number), Reading((3, SIZE, SIZE)))
            work = {"plain loop": lambda: plain(some)}
            work |= dict.fromkeys(("first start", "second start"), lambda cache=cache: cache.refresh(files))
            for name, do in work.items():
                begun = time.perf_counter()
                do()
                count = len(some) if name == "plain loop" else len(files.names)
                times[name].append(1e6 * (time.perf_counter() - begun) / count)
            shutil.rmtree(cache.folder)
    return times


def starts(folder: Path) -> list[list[str]]:
    """The whole command with one training step, without and with the decoded images; seconds and peak memory."""
    rows = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        words = ["data=image_folder", f"data.root={folder}", f"data.image_size={SIZE}", f"data.cache={place}/cache"]
        command = [sys.executable, "train.py", *words, *QUIET, "trainer.max_steps=1"]
        for name in ("first start", "second start"):
            used = driver.cost(name, [*command, f"hydra.run.dir={place}/{name}"], Path(place))
            rows.append([name, f"{used.seconds:.1f}", f"{used.peak_mib:.0f}"])
    return rows


# `python -m cvae` with an array that stays on disk or not, and what of memory it may take, in KiB.
RUN = """
import resource, sys
import cvae.data.npz as npz
npz.IN_MEMORY, limit = int(sys.argv.pop(1)), int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from cvae.__main__ import main
main(sys.argv[1:])
"""


def mapped(folder: Path, gib: float, rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch: in memory; on disk with a quarter of its size as memory, its pages in memory or not."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mapped.npy"
    count = int(gib * 2**30 / (3 * 64 * 64))
    x = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 64, 64, 3))
    block = np.random.default_rng(0).integers(0, 256, (1024, 64, 64, 3)).astype(np.uint8)
    for start in range(0, count, 1024):
        x[start : start + 1024] = block[: count - start]
    x.flush()
    del x
    words = ["train", "data=npz", f"data.root={file}", "model=conv", "likelihood=gaussian", "scheduler=constant"]
    words += ["trainer.max_epochs=1", f"+trainer.limit_train_batches={BATCHES}", "data.eval_batch_size=100", *QUIET]
    limit = int(gib * 2**28)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for number in range(rounds):
            for name, in_memory, most in (("memory", 2**60, 0), ("disk, warm", 0, limit), ("disk, cold", 0, limit)):
                if name.endswith("cold"):
                    with open(file, "rb") as stream:
                        os.fsync(stream.fileno())
                        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                run = Path(place) / f"{number} {name}"
                command = [sys.executable, "-c", RUN, str(in_memory), str(most), *words, f"hydra.run.dir='{run}'"]
                driver.cost(name, command, Path(place))
                figures = json.loads((run / "metrics.json").read_text())
                times.setdefault(name, []).append(figures["train/seconds_per_epoch"][0])
                times.setdefault("train/loss", []).append(figures["train_epoch/loss"])
    if len(set(losses := times.pop("train/loss"))) != 1:
        raise SystemExit(f"they differ: {losses}")
    file.unlink()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "files", "start", "mapped"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--source", type=Path, default=Path("data/cifar10-subset"), help="for make: a folder of images")
    parser.add_argument("--gib", type=float, default=5, help=GIB)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    folder = args.folder.resolve()
    if args.what == "make":
        make(folder, args.images, args.source)
    elif args.what == "files":
        rows = driver.summary(decoding(folder, args.rounds), "plain loop")
        driver.show("decoding a file", ["", "least µs", "median µs", "to the plain loop", "quartiles"], rows)
    elif args.what == "start":
        driver.show("one training step", ["", "seconds", "peak MiB"], starts(folder))
    else:
        rows = driver.summary(mapped(folder, args.gib, args.rounds), "memory")
        driver.show("an epoch", ["", "least s", "median s", "to memory", "quartiles"], rows)


if __name__ == "__main__":
    main()
