"""The report on a trained model: its figures as a table and as a file, and by the names that loggers get."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

import torch
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from cvae.errors import UserError
from cvae.evaluation.batches import IMAGES, Batch
from cvae.evaluation.known_factors import at_the_end
from cvae.evaluation.measure import FEW, Figure, evaluate
from cvae.evaluation.settings import Settings
from cvae.models.vae import VAE
from cvae.runs.directory import RAW, Run
from cvae.runs.modelled import remarks
from cvae.runs.small_files import read_config
from cvae.runtime.console import console, progress_bar

if TYPE_CHECKING:
    from cvae.data import ImageDataset

LOOSE = 0.05  # share of images with few effective samples, above which the table calls log p(x) a loose bound


class TestData(Protocol):
    """The part of the data that an evaluation uses (cvae.data.ImageData)."""

    test: "ImageDataset"
    binarization: str

    def batch(self, split: str, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) and labels y (B,) of a split, as the model sees them."""


def report(
    vae: VAE, data: TestData, run: Run, settings: Settings, checkpoint: str, step: int, weights: str = RAW
) -> dict[str, Figure]:
    """Measure a model (in eval mode) on the test images of `data`, after its setup().

    Shows a progress bar and a table, and writes a file into the run that is named after the settings.

    checkpoint: the file that the model was read from. step: how many optimizer steps it has had. weights: averaged
    over the training, or raw.

    Raises:
        UserError: a figure is not finite, or there is not enough memory.
    """
    device = next(vae.parameters()).device
    rows = measured_rows(settings, len(data.test))
    count, aggregated = len(rows), min(len(rows), settings.aggregate_images)
    with progress_bar(*columns()) as bar:
        totals: dict[str, tuple[str, int | None]] = {  # as `evaluate` calls its steps -> what they are, how many
            "rows": ("importance samples", None if settings.until else count * settings.samples),
            "pairs": ("aggregate posterior", aggregated**2),
            "images": ("test images", count),
        }
        tasks = {
            name: bar.add_task(what, start=False, visible=False, total=total) for name, (what, total) in totals.items()
        }

        def advance(what: str, count: int) -> None:
            bar.start_task(tasks[what])  # the time left counts from here, and only from the first time
            bar.update(tasks[what], advance=count, visible=True)

        try:
            figures = evaluate(vae, test_batches(vae, data, rows, device), settings, advance)
        except torch.OutOfMemoryError as error:
            raise UserError(f"there is not enough memory with memory={settings.memory:g}: try less") from error
    figures |= at_the_end(vae, test_batches(vae, data, rows, device), data.test.images, rows, settings.seed)
    about = asdict(settings) | {
        "images": count, "draw": settings.draw if count < len(data.test) else None, "aggregate_images": aggregated,
        "checkpoint": checkpoint, "step": step, "split": "test",
        "binarization": data.binarization, "device": device.type, "weights": weights,
    }  # fmt: skip
    content = {name: figure._asdict() for name, figure in figures.items()} | {"settings": about}
    run.save_evaluation(content)
    console.print(table(figures, about, remarks(read_config(run.config_file), checkpoint, weights)))
    return figures


def columns() -> tuple:
    return (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip


def measured_rows(settings: Settings, total: int) -> Sequence[int]:
    """The numbers of the test images that are measured, of so many in all, in ascending order."""
    count = min(settings.images or total, total)
    if settings.draw is None:
        return range(count)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(settings.draw))
    return sorted(order[:count].tolist())


def test_batches(vae: VAE, data: TestData, rows: Sequence[int], device: torch.device) -> Iterator[Batch]:
    """Test images by their numbers, as the model sees them, with labels; all of them in every process of several."""
    for start in range(0, len(rows), IMAGES):
        x, y = data.batch("test", rows[start : start + IMAGES], device)
        yield x, vae.labels(y)


def table(figures: dict[str, Figure], settings: dict, said: Sequence[str] = ()) -> Table:
    """The figures for the terminal.

    settings: those of the evaluation, with images, aggregate_images, checkpoint and binarization as they were
    said: what must be said of the test images (cvae.runs.modelled.remarks)
    """
    samples = taken(figures, settings["samples"], settings.get("until"))
    drawn = "" if settings.get("draw") is None else f" drawn by seed {settings['draw']}"
    title = f"{settings['images']:,} test images{drawn}{samples}, {settings['checkpoint']}"
    caption = "binarization: {binarization}; seed: {seed}"
    if not is_of_autoencoder(figures):
        caption += "\nmutual information is at most log {aggregate_images} = {limit:.2f}"
    caption = caption.format(**settings, limit=math.log(settings["aggregate_images"])) + loose(figures)
    caption = "\n".join([caption, *said])
    shown = Table(title=title, caption=caption)
    shown.add_column("")
    shown.add_column("", justify="right")
    shown.add_column("± std. error", justify="right")
    shown.add_column("")
    for row in rows(figures):
        shown.add_row(*row)
    return shown


def taken(figures: dict[str, Figure], samples: int, until: float | None) -> str:
    """How the table describes the samples of each image, behind its number of images; an autoencoder has none."""
    if is_of_autoencoder(figures):
        return ""
    return f", importance samples until {until:g} nats off" if until else f", {samples:,} importance samples"


def is_of_autoencoder(figures: dict[str, Figure]) -> bool:
    """Whether there is a distortion and no bound beside it."""
    return "distortion" in figures and "elbo" not in figures


def markdown(figures: dict[str, Figure], settings: Settings, said: Sequence[str] = ()) -> str:
    """The figures as a table in Markdown, as TensorBoard shows it. said: as for `table`."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows(figures)]
    head = [
        f"test images{taken(figures, settings.samples, settings.until)} | | ± std. error | ",
        "--- | ---: | ---: | ---",
    ]
    return "\n".join([*(f"| {line} |" for line in [*head, *lines]), *(f"\n{line}" for line in said)])


def rows(figures: dict[str, Figure]) -> Iterator[tuple[str, str, str, str]]:
    """(what it is, value, standard error, unit) of each figure that is defined."""
    for value, error, unit, meaning in figures.values():
        if value is None:
            continue
        digits = "{:.0f}" if isinstance(value, int) else "{:.4f}" if unit == "bits" else "{:.3f}"
        number, spread = ("-" if number is None else digits.format(number) for number in (value, error))
        yield meaning, number, spread, unit if unit != "nats" else "nats per image"


def loose(figures: dict[str, Figure]) -> str:
    """A line that says so where the estimate of log p(x) rests on a few samples, else nothing."""
    few = figures["few_effective"].value if "few_effective" in figures else None
    if few is None or few <= LOOSE:
        return ""
    return (
        f"\n-log p(x) is a loose bound: {few:.0%} of the images have fewer than {FEW} effective samples.\n"
        "More --samples, or --until, tighten it"
    )


def scalars(figures: dict[str, Figure]) -> dict[str, float]:
    """The figures that are defined, by the names that loggers get."""
    return {f"evaluation/{name}": figure.value for name, figure in figures.items() if figure.value is not None}
