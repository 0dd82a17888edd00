"""The report: which images are measured, what the bars count, what stands in the file and in the table."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from test_parts_of_the_evaluation import plain_vae

from cvae.data import Images
from cvae.errors import UserError
from cvae.evaluation import Settings
from cvae.evaluation import report as module
from cvae.evaluation.measure import Figure
from cvae.runtime import console as terminal

FIGURES = {
    "nll": Figure(12.34567, 0.98765, "nats", "-log p(x)"),
    "bits_per_dim": Figure(1.234567, 0.012345, "bits", "bits per dim"),
    "few_effective": Figure(0.05, None, "of the images", "with below 10"),
    "active_units": Figure(2, None, "of 3 latents", "active units"),
    "aggregate_kl": Figure(None, None, "nats", "KL(q(z) || p(z))"),
}
CPU = torch.device("cpu")


class Split:
    """So many images, of which nothing else is known."""

    images = Images(torch.zeros(1, 1, 2, 3), torch.zeros(1))

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


class Data:
    """Test images that are numbered, with labels; `asked` keeps what was asked for."""

    binarization = "static"

    def __init__(self, count):
        self.test, self.asked = Split(count), []

    def batch(self, split, indices, device):
        self.asked.append((split, indices, device))
        x = torch.tensor(list(indices), dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 3)
        return x, torch.tensor(list(indices)) % 3


class RunOfNothing:
    config_file = Path("nothing")

    def save_evaluation(self, content):
        self.content = content


@pytest.fixture
def reported(monkeypatch):
    """Call `report`, with a measurement that returns FIGURES: everything that it was told and that it printed."""

    def call(count, settings, classes=0, steps=(), fail=None):
        seen, out = SimpleNamespace(data=Data(count), run=RunOfNothing(), bars=[]), io.StringIO()

        class Bar(Progress):
            def __init__(self, *columns, **options):
                super().__init__(*columns, **options)
                seen.bars.append(self)

        def evaluate(vae, batches, settings, advance):
            seen.vae, seen.batches, seen.settings = vae, list(batches), settings
            seen.started = [task.started for task in seen.bars[0].tasks]
            for step in steps:
                advance(*step)
            if fail:
                raise fail
            return FIGURES

        monkeypatch.setattr("cvae.runtime.console.Progress", Bar)
        monkeypatch.setattr(module, "evaluate", evaluate)
        for place in (module, terminal):
            monkeypatch.setattr(place, "console", Console(file=out, width=150))
        seen.model = plain_vae(classes)
        seen.figures = module.report(seen.model, seen.data, seen.run, settings, "best.ckpt", 12)
        seen.printed = out.getvalue()
        return seen

    return call


@pytest.mark.parametrize(
    ("images", "limit", "measured", "aggregated"),
    [
        (None, 2000, 230, 230),
        (None, 150, 230, 150),
        (120, 2000, 120, 120),
        (230, 3, 230, 3),
        (500, 2000, 230, 230),
        (200, 100, 200, 100),
        (1, 1, 1, 1),
    ],
)
def test_what_is_measured_and_written(reported, images, limit, measured, aggregated):
    settings = Settings(samples=7, images=images, aggregate_images=limit, memory=0.5, seed=9)
    seen = reported(230, settings, classes=3)
    assert seen.vae is seen.model and seen.settings is settings and seen.figures is FIGURES
    ranges = [range(start, min(start + 100, measured)) for start in range(0, measured, 100)]
    assert seen.data.asked == [("test", part, CPU) for part in ranges]
    assert torch.cat([x[:, 0, 0, 0] for x, _ in seen.batches]).tolist() == list(range(measured))
    assert torch.cat([y for _, y in seen.batches]).tolist() == [number % 3 for number in range(measured)]
    rows, pairs, images = seen.bars[0].tasks
    assert (images.description, images.total) == ("test images", measured)
    assert (rows.description, rows.total) == ("importance samples", measured * 7)
    assert (pairs.description, pairs.total) == ("aggregate posterior", aggregated**2)
    assert seen.run.content == {
        "nll": {"value": 12.34567, "standard_error": 0.98765, "unit": "nats", "meaning": "-log p(x)"},
        "bits_per_dim": {"value": 1.234567, "standard_error": 0.012345, "unit": "bits", "meaning": "bits per dim"},
        "few_effective": {"value": 0.05, "standard_error": None, "unit": "of the images", "meaning": "with below 10"},
        "active_units": {"value": 2, "standard_error": None, "unit": "of 3 latents", "meaning": "active units"},
        "aggregate_kl": {"value": None, "standard_error": None, "unit": "nats", "meaning": "KL(q(z) || p(z))"},
        "settings": {
            "samples": 7, "images": measured, "draw": None, "aggregate_images": aggregated, "memory": 0.5, "seed": 9,
            "until": None, "checkpoint": "best.ckpt", "step": 12, "split": "test", "binarization": "static",
            "device": "cpu", "weights": "raw",
        },
    }  # fmt: skip


def test_drawn_images_are_measured_and_said(reported):
    settings = Settings(samples=7, images=120, draw=4)
    seen, again, other = (reported(230, chosen, 3) for chosen in (settings, settings, replace(settings, draw=5)))
    asked = [number for _, numbers, _ in seen.data.asked for number in numbers]
    assert [len(numbers) for _, numbers, _ in seen.data.asked] == [100, 20]
    assert asked == sorted(set(asked)) and asked != list(range(120)) and 100 < max(asked) < 230
    assert torch.cat([x[:, 0, 0, 0] for x, _ in seen.batches]).tolist() == asked
    assert again.data.asked == seen.data.asked != other.data.asked
    assert seen.run.content["settings"]["draw"] == 4 and "120 test images drawn by seed 4, 7 imp" in seen.printed
    whole = reported(120, settings, 3)
    assert [number for _, numbers, _ in whole.data.asked for number in numbers] == list(range(120))
    assert whole.run.content["settings"]["draw"] is None and "120 test images, 7 imp" in whole.printed


def test_each_image_is_drawn_as_often(reported):
    drawn = [row for seed in range(400) for row in module.measured_rows(Settings(images=3, draw=seed), 10)]
    assert all(80 < drawn.count(row) < 165 for row in range(10))  # 120 of 400, standard deviation 9


def test_a_seed_draws_the_same_images_in_each_version():
    assert module.measured_rows(Settings(images=3, draw=0), 10) == [1, 4, 7]


def test_the_factors_are_those_of_the_drawn_images(reported, monkeypatch):
    told = []

    def at_the_end(vae, batches, images, *more):
        told.append((list(batches), *more))
        return {}

    monkeypatch.setattr(module, "at_the_end", at_the_end)
    seen = reported(230, Settings(images=120, draw=4, seed=9), 3)
    ((batches, rows, seed),) = told
    asked = [number for _, numbers, _ in seen.data.asked[:2] for number in numbers]
    assert torch.cat([x[:, 0, 0, 0] for x, _ in batches]).tolist() == list(rows) == asked and seed == 9


def test_a_model_without_classes_gets_no_labels(reported):
    assert [y for _, y in reported(130, Settings()).batches] == [None, None]


def test_each_bar_counts_its_own_steps_from_its_first(reported):
    seen = reported(50, Settings(samples=2), steps=[("rows", 30), ("rows", 12), ("rows", 1)])
    rows, pairs, images = seen.bars[0].tasks
    assert seen.started == [False] * 3
    assert [(bar.completed, bar.started, bar.visible) for bar in (rows, pairs, images)] == [
        (43, True, True), (0, False, False), (0, False, False),
    ]  # fmt: skip
    pairs = reported(50, Settings(samples=2), steps=[("pairs", 8)]).bars[0].tasks[1]
    assert pairs.completed == 8 and pairs.started


def test_the_bars_say_how_far_and_how_long(reported):
    seen = reported(50, Settings(samples=2), steps=[("rows", 50)])
    assert seen.bars[0].console is terminal.console
    line = next(line for line in seen.printed.splitlines() if "importance samples" in line)
    assert " 50% 0:00:00 left " in line
    assert [type(column).__name__ for column in module.columns()] == [
        "TextColumn", "BarColumn", "TaskProgressColumn", "TimeElapsedColumn", "TextColumn", "TimeRemainingColumn",
    ]  # fmt: skip


def test_memory_that_does_not_suffice(reported):
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(UserError, match=r"^there is not enough memory with memory=2\.5: try less$") as raised:
        reported(5, Settings(memory=2.5), fail=error)
    assert raised.value.__cause__ is error


def test_the_table():
    settings = {
        "images": 12345, "samples": 5000, "checkpoint": "last.ckpt", "binarization": "dynamic", "seed": 3,
        "aggregate_images": 20,
    }  # fmt: skip
    shown = module.table(FIGURES, settings)
    assert shown.title == "12,345 test images, 5,000 importance samples, last.ckpt"
    assert shown.caption == "binarization: dynamic; seed: 3\nmutual information is at most log 20 = 3.00"
    assert [(column.header, column.justify) for column in shown.columns] == [
        ("", "left"), ("", "right"), ("± std. error", "right"), ("", "left"),
    ]  # fmt: skip
    assert list(zip(*(column.cells for column in shown.columns), strict=True)) == [
        ("-log p(x)", "12.346", "0.988", "nats per image"),
        ("bits per dim", "1.2346", "0.0123", "bits"),
        ("with below 10", "0.050", "-", "of the images"),
        ("active units", "2", "-", "of 3 latents"),
    ]  # none without a value


def test_the_tables_say_that_test_images_were_not_held_out():
    settings = {
        "images": 3, "samples": 40, "checkpoint": "best.ckpt", "binarization": "none", "seed": 0, "aggregate_images": 3,
    }  # fmt: skip
    said = ["best.ckpt was chosen by the test images (data.validation_size=0)"]
    assert module.table(FIGURES, settings, said).caption.splitlines()[2:] == said
    assert module.markdown(FIGURES, Settings(), said).splitlines()[-2:] == ["", *said]


def test_the_table_says_when_log_px_is_a_loose_bound():
    settings = {
        "images": 3, "samples": 40, "checkpoint": "last.ckpt", "binarization": "none", "seed": 0,
        "aggregate_images": 3, "until": 0.05,
    }  # fmt: skip
    few = Figure(0.0625, None, "of the images", "with below 10")
    shown = module.table(FIGURES | {"few_effective": few}, settings)
    assert shown.title == "3 test images, importance samples until 0.05 nats off, last.ckpt"
    assert shown.caption.splitlines()[2:] == [
        "-log p(x) is a loose bound: 6% of the images have fewer than 10 effective samples.",
        "More --samples, or --until, tighten it",
    ]


def test_nobody_knows_how_many_samples_there_will_be_until_it_changes_less(reported):
    rows, pairs, _ = reported(50, Settings(samples=2, until=0.1)).bars[0].tasks
    assert rows.total is None and pairs.total == 50**2


def test_the_table_is_printed(reported):
    seen = reported(50, Settings(samples=2, seed=4))
    lines = [" ".join(line.split()) for line in seen.printed.splitlines()]
    assert "50 test images, 2 importance samples, best.ckpt" in lines
    assert any("-log p(x)" in line and "12.346" in line and "0.988" in line for line in lines)


def test_names_for_loggers():
    assert module.scalars(FIGURES) == {
        "evaluation/nll": 12.34567,
        "evaluation/bits_per_dim": 1.234567,
        "evaluation/few_effective": 0.05,
        "evaluation/active_units": 2,
    }


def test_the_table_in_markdown():
    """As TensorBoard shows it: a bar within a cell would end it."""
    figures = {
        "rate": Figure(1.25, 0.5, "nats", "rate, KL(q(z|x) || p(z))"),
        "bits_per_dim": Figure(None, None, "bits", "bits per dim"),
        "active_units": Figure(2, None, "of 3 latents", "active units"),
    }
    assert module.markdown(figures, Settings(5000)).splitlines() == [
        "| test images, 5,000 importance samples | | ± std. error |  |",
        "| --- | ---: | ---: | --- |",
        r"| rate, KL(q(z\|x) \|\| p(z)) | 1.250 | 0.500 | nats per image |",
        "| active units | 2 | - | of 3 latents |",
    ]
    first, *_ = module.markdown(figures, Settings(5000, until=0.01)).splitlines()
    assert first == "| test images, importance samples until 0.01 nats off | | ± std. error |  |"
