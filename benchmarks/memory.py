"""Memory and images a second of wide networks, with what saves memory: python -m benchmarks.memory --help."""

import sys
import tempfile
from pathlib import Path

from benchmarks import driver
from benchmarks.runs import ALONE

MODELS = {
    "image64": ["experiment=image64", "data=synthetic", "data.image_shape=[3,64,64]"],
    "ladder_mnist": ["experiment=ladder_mnist", "data=synthetic"],
    "resnet_mnist": ["experiment=resnet_mnist", "data=synthetic"],
}
WIDTHS = (64, 128, 256, 512)
PARTS = 4  # minibatches of an accumulated step


def ways(batch: int) -> dict[str, list[str]]:
    """What saves memory -> its overrides, with `batch` images to an optimizer step."""
    checkpointing, bfloat16 = ["model.checkpointing=true"], ["trainer.precision=bf16-mixed"]
    accumulation = [f"data.batch_size={batch // PARTS}", f"+trainer.accumulate_grad_batches={PARTS}"]
    return {
        "as it is": [],
        "checkpointing": checkpointing,
        "bfloat16": bfloat16,
        f"{PARTS} minibatches": accumulation,
        "all three": [*checkpointing, *bfloat16, *accumulation],
    }


def command(overrides: list[str], images: int, folder: Path) -> list[str]:
    """A training of two epochs of `images` images each, without measuring and drawing; the second is timed."""
    sizes = [f"data.source.train_size={images}", "data.source.test_size=2", "trainer.max_epochs=2"]
    timed = ["+callbacks.seconds._target_=benchmarks.callbacks.Seconds", f"+callbacks.seconds.file={folder}/seconds"]
    return [sys.executable, "train.py", *overrides, *ALONE, *sizes, *timed, f"hydra.run.dir={folder}/run"]


def measure(overrides: list[str], images: int) -> tuple[float, float] | None:
    """Peak MiB of the process, and images a second; None, and a line, if the training fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            peak = driver.cost("training", command(overrides, images, folder), folder).peak_mib
        except driver.Failed as error:
            print(f"left out, it failed: {error}")
            return None
        return peak, images / float((folder / "seconds").read_text())


def main(argv: list[str] | None = None) -> None:
    about = "Peak memory and images a second of a training: width, checkpointing, bfloat16 and accumulation."
    options = driver.parser("memory", about, rounds=1)
    options.add_argument("--only", metavar="NAMES", help=f"of {','.join(MODELS)} (default: all)")
    options.add_argument("--widths", default=",".join(map(str, WIDTHS)), help="of model.width (default: %(default)s)")
    options.add_argument("--batch-size", type=int, default=16, help="images of a step (default: %(default)s)")
    options.add_argument("--steps", type=int, default=2, help="of an epoch (default: %(default)s)")
    options.add_argument("overrides", nargs="*", help="of all, such as trainer=cpu")
    args = options.parse_args(argv)
    if args.batch_size % PARTS:
        raise SystemExit(f"--batch-size {args.batch_size}: must be a multiple of {PARTS}, the minibatches of a step")
    widths, images, result = args.widths.split(","), args.batch_size * args.steps, {}
    for name, words in driver.chosen(MODELS, args.only).items():
        found = {}
        for way, more in ways(args.batch_size).items():
            for width in widths:
                given = [*words, *args.overrides, f"data.batch_size={args.batch_size}", f"model.width={width}", *more]
                rounds = [measure(given, images) for _ in range(args.rounds)]
                found[f"{way}, {width}"] = [figures for figures in rounds if figures]
        for title, best in (("peak MiB", 0), ("images a second", 1)):
            rows = [[way, *(cell(found[f"{way}, {width}"], best) for width in widths)] for way in ways(args.batch_size)]
            driver.show(f"{name}: {title}, {args.batch_size} images a step", ["model.width", *widths], rows)
        result[name] = found
        driver.save(args.json, {"peak_mib_and_images_per_second": result})


def cell(figures: list[tuple[float, float]], which: int) -> str:
    """The lowest peak, or the highest pace, of the rounds."""
    if not figures:
        return ""
    return f"{max(pace for _, pace in figures):.3g}" if which else f"{min(peak for peak, _ in figures):.0f}"


if __name__ == "__main__":
    main()
