"""The report on a trained model: its figures as a table, in RUN/evaluation.json, and by the names that loggers get."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from cvae.console import console
from cvae.errors import UserError
from cvae.evaluation.figures import BLOCK_IMAGES, Figure, evaluate
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
            figures = evaluate(vae, test_blocks(data, count, device), samples, seed, aggregate_images, chunk, advance)
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
    caption = (
        "binarization: {binarization}; seed: {seed}\nmutual information is at most log {aggregate_images} = {limit:.2f}"
    )
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
