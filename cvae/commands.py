"""What `python -m cvae` does with a run directory, and the report on a model that training ends with."""

import json
import math
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from cvae import pictures
from cvae.console import console
from cvae.errors import ConfigError, UserError, is_int, positive_int
from cvae.evaluation import BLOCK_IMAGES, Figure, fixed_noise
from cvae.evaluation import evaluate as figures_of
from cvae.experiment import load, make
from cvae.files import save
from cvae.vae import VAE

MEANING = {
    "nll": "-log p(x)",
    "elbo": "ELBO",
    "rate": "rate, KL(q(z|x) || p(z))",
    "distortion": "distortion, -E log p(x|z)",
    "bits_per_dim": "bits per dim",
    "active_units": "active units",
    "mutual_information": "mutual information I(x; z)",
    "aggregate_kl": "KL(q(z) || p(z))",
    "aggregate_rate": "sum of the two",
}


def evaluate(args: Namespace) -> None:
    """python -m cvae evaluate RUN."""
    for key in ("samples", "aggregate_images", "chunk"):
        positive_int("--" + key.replace("_", "-"), getattr(args, key))
    if args.images is not None:
        positive_int("--images", args.images)
    require_seed(args.seed)
    run, device = Path(args.run), torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device.type]:
        raise ConfigError("--device", device.type, "one that is in this machine: cpu always is")
    cfg, vae, step = open_run(run, args.checkpoint, device)
    data = make(cfg, "data")
    data.prepare_data()
    data.setup()
    limits = {"samples": args.samples, "aggregate_images": args.aggregate_images, "chunk": args.chunk}
    figures = report(vae, data, run, device, **limits, images=args.images, seed=args.seed, checkpoint=args.checkpoint)

    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tensorboard")) as writer:
        for name, value in scalars(figures).items():
            writer.add_scalar(name, value, step)


def sample(args: Namespace) -> None:
    """python -m cvae sample RUN."""
    num, device = positive_int("--num", args.num), torch.device("cpu")
    require_seed(args.seed)
    _, vae, _ = open_run(Path(args.run), args.checkpoint, device)
    labels, columns = None, round(num**0.5)
    if args.label is not None:
        if not 0 <= args.label < vae.num_classes:
            allowed = f"from 0 to {vae.num_classes - 1}" if vae.num_classes else "left out: this model knows no classes"
            raise ConfigError("--class", args.label, allowed)
        labels = torch.full((num,), args.label)
    elif vae.num_classes:
        columns = math.ceil(num / vae.num_classes)
        labels = torch.arange(num) // columns
    with fixed_noise(args.seed, device):
        images = vae.sample(num, labels)
    out = Path(args.out or Path(args.run) / "samples.png")
    save(out, pictures.png(pictures.grid(images, columns)))
    console.print(f"{num} samples: {out}", soft_wrap=True, markup=False, highlight=False)


def require_seed(seed: int) -> None:
    if not is_int(seed) or not 0 <= seed < 2**32:
        raise ConfigError("--seed", seed, "an integer from 0 to 4294967295")


def open_run(run: Path, checkpoint: str, device: torch.device) -> tuple[DictConfig, VAE, int]:
    """The saved config, the trained model in eval mode, and how many optimizer steps it has had.

    Raises:
        UserError: the checkpoint is missing, damaged or another model's.
        FileNotFoundError: `run` has no .hydra/config.yaml.
    """
    saved, file = run / ".hydra" / "config.yaml", run / "checkpoints" / checkpoint
    if not file.is_file():
        there = ", ".join(sorted(path.name for path in file.parent.glob("*.ckpt"))) or "none"
        raise UserError(f"{run} has no checkpoint {checkpoint}; it has: {there}")
    cfg = OmegaConf.load(saved)
    cfg.run_dir = str(run)  # what is saved is an interpolation that means something to the run itself alone
    try:
        step = torch.load(file, map_location="cpu", weights_only=True).get("global_step", 0)
    except Exception as error:  # damaged bytes make torch and pickle raise almost anything
        raise UserError(f"{file} is damaged or no checkpoint: {first_line(error)}") from error
    try:
        vae = load(run, checkpoint, device.type)
    except UserError:
        raise
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{file} does not hold the weights of the model in {saved}: {first_line(error)}") from error
    return cfg, vae, step


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def report(
    vae: VAE,
    data,
    run: Path,
    device: torch.device,
    *,
    samples: int,
    aggregate_images: int,
    chunk: int,
    images: int | None = None,
    seed: int = 0,
    checkpoint: str = "last.ckpt",
) -> dict[str, Figure]:
    """Measure a model (in eval mode, on `device`) on the test images of `data`, after its setup().

    Shows a progress bar and a table, and writes `run`/evaluation.json. images: only the first so many; checkpoint: what the
    model was read from, for the file.

    Raises:
        UserError: a number is out of its range, a figure is not finite, or the memory does not suffice.
    """
    count = min(images or len(data.test), len(data.test))
    totals = {"rows": count * samples, "pairs": min(count, aggregate_images) ** 2}
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        named = {"rows": "importance samples", "pairs": "aggregate posterior"}
        tasks = {what: bar.add_task(named[what], start=False, total=total) for what, total in totals.items()}

        def advance(what: str, count: int) -> None:
            bar.start_task(tasks[what])  # the time left counts from here, and only from the first time
            bar.advance(tasks[what], count)

        try:
            figures = figures_of(
                vae, test_blocks(data, count, device), samples, seed, aggregate_images, chunk, advance
            )
        except torch.OutOfMemoryError as error:
            raise UserError(f"the memory does not suffice for chunk={chunk}: try a smaller one") from error
    settings = {
        "samples": samples, "images": count, "aggregate_images": min(count, aggregate_images), "seed": seed,
        "checkpoint": checkpoint, "split": "test", "binarization": getattr(data, "binarization", None), "device": device.type,
    }  # fmt: skip
    content = {name: figure._asdict() for name, figure in figures.items()} | {"settings": settings}
    save(run / "evaluation.json", json.dumps(content, indent=2).encode())
    console.print(table(figures, settings))
    return figures


def test_blocks(data, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` test images as the model sees them, with labels; all of them in every process of several."""
    for start in range(0, count, BLOCK_IMAGES):
        batch = data.test.__getitems__(list(range(start, min(start + BLOCK_IMAGES, count))))
        yield tuple(data.on_after_batch_transfer([part.to(device) for part in batch], 0))


def table(figures: dict[str, Figure], settings: dict) -> Table:
    title = "{images:,} test images, {samples:,} importance samples, {checkpoint}".format(**settings)
    caption = "binarization: {binarization}; seed: {seed}\nmutual information is at most log {aggregate_images} = {limit:.2f}"
    shown = Table(title=title, caption=caption.format(**settings, limit=math.log(settings["aggregate_images"])))
    for heading, justify in (("", "left"), ("", "right"), ("± std. error", "right"), ("", "left")):
        shown.add_column(heading, justify=justify)
    for name, (value, error, unit) in figures.items():
        digits = "{:.0f}" if isinstance(value, int) else "{:.4f}" if unit == "bits" else "{:.3f}"
        numbers = ("-" if number is None else digits.format(number) for number in (value, error))
        shown.add_row(MEANING[name], *numbers, unit if unit != "nats" else "nats an image")
    return shown


def scalars(figures: dict[str, Figure]) -> dict[str, float]:
    """The figures that are defined, by the names that loggers get."""
    return {f"evaluation/{name}": figure.value for name, figure in figures.items() if figure.value is not None}
