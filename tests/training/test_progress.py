"""What a run shows while it goes: the bar's figures, the lines of the epochs, the seconds by a clock of our own."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from cvae.runtime import console as terminal
from cvae.training import progress
from cvae.training.progress import EpochLines, ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.value, perf_counter=lambda: now.value))
    return now


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 120 columns."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    for place in (progress, terminal):
        monkeypatch.setattr(place, "console", console)
    return console


def trainer(**values):
    given = {
        "is_global_zero": True, "num_training_batches": 10, "global_step": 0, "current_epoch": 0, "max_epochs": 4,
        "max_steps": -1, "world_size": 2,
        "datamodule": SimpleNamespace(minibatches=1, minibatches_of_an_epoch=lambda: 12),
    }  # fmt: skip
    return SimpleNamespace(**given | values)


FIGURES = {"elbo": -3.14159, "rate": 2.0, "distortion": 1.14159, "loss": 9.0}
MODULE = SimpleNamespace(recent=FIGURES, accumulation=lambda epoch: 1)


def fields(bar):
    (task,) = bar.bar.tasks
    return task.completed, task.total, task.fields["epoch"], task.fields["figures"]


def test_the_bar_shows_steps_epoch_and_figures(clock, screen):
    bar = ProgressBar()
    bar.on_train_start(trainer(), MODULE)
    assert bar.bar.live.is_started and bar.bar.console is screen and not bar.bar.live.auto_refresh
    assert fields(bar) == (0, 40, "", "")
    bar.on_train_batch_end(trainer(global_step=13, current_epoch=1), MODULE, None, None, 2)
    assert fields(bar) == (13, 40, "2/4", "elbo -3.14  rate 2.00  distortion 1.14")
    clock.value += 0.4  # twice a second
    bar.on_train_batch_end(trainer(global_step=14), MODULE, None, None, 3)
    assert fields(bar)[0] == 13
    clock.value += 0.15
    bar.on_train_batch_end(trainer(global_step=15), MODULE, None, None, 4)
    assert fields(bar)[0] == 15
    bar.on_train_end(trainer(global_step=40, current_epoch=4), MODULE)  # the count is past the last epoch by then
    assert fields(bar)[:3] == (40, 40, "4/4") and not bar.bar.live.is_started
    shown = screen.file.getvalue()
    for text in ("epoch 4/4", "40/40", "0:00:00", "left", "elbo -3.14  rate 2.00  distortion 1.14", "━"):
        assert text in shown


@pytest.mark.parametrize(("width", "shown"), [(99, "elbo -3.14"), (100, "elbo -3.14  rate 2.00  distortion 1.14")])
def test_a_narrow_terminal_has_the_elbo_alone(clock, screen, width, shown):
    screen.width = width
    bar = ProgressBar()
    bar.on_train_start(trainer(), MODULE)
    bar.on_train_end(trainer(), MODULE)
    assert fields(bar)[3] == shown


def test_what_is_no_bound_is_not_called_one(clock, screen):
    bar, means = ProgressBar(), {"relaxed_elbo": -3.0, "relaxed_rate": 2.0, "relaxed_distortion": 1.0, "loss": 3.0}
    bar.on_train_start(trainer(), MODULE)
    bar.on_train_end(trainer(), SimpleNamespace(recent=means))
    assert fields(bar)[3] == "relaxed_elbo -3.00  relaxed_rate 2.00  relaxed_distortion 1.00"


@pytest.mark.parametrize("width", [99, 100])
def test_an_autoencoder_has_its_distortion_at_any_width(clock, screen, width):
    screen.width = width
    bar = ProgressBar()
    bar.on_train_start(trainer(), MODULE)
    bar.on_train_end(trainer(), SimpleNamespace(recent={"distortion": 1.14159, "loss": 9.0, "minus_loss": -9.0}))
    assert fields(bar)[3] == "distortion 1.14"


def test_before_the_first_figures_the_bar_has_none(clock, screen):
    bar = ProgressBar()
    bar.on_train_start(trainer(), MODULE)
    bar.on_train_end(trainer(global_step=1), SimpleNamespace(recent={}))
    assert fields(bar) == (1, 40, "1/4", "")


def test_the_bar_is_gone_after_an_error(clock, screen):
    bar = ProgressBar()
    bar.on_exception(trainer(), MODULE, KeyboardInterrupt())  # before there was one
    bar.on_train_start(trainer(), MODULE)
    bar.on_exception(trainer(), MODULE, ValueError())
    assert not bar.bar.live.is_started


def test_only_the_first_process_has_a_bar(clock, screen):
    bar, other = ProgressBar(), trainer(is_global_zero=False)
    bar.on_train_start(other, MODULE)
    bar.on_train_batch_end(other, MODULE, None, None, 0)
    bar.on_train_end(other, MODULE)
    assert not hasattr(bar, "bar") and screen.file.getvalue() == ""


def figures(split):
    values = {"elbo": -5.0, "rate": 2.004, "distortion": 2.996, "loss": 7.0}
    return module_of({f"{split}/{name}": value for name, value in values.items()})


def module_of(figures):
    """With 90 images in the epoch and 30 since the last point of the curves, in each of two processes."""
    counts = {"epoch": SimpleNamespace(count=90), "window": SimpleNamespace(count=30)}
    drawn = {}
    return SimpleNamespace(figures=figures, drawn=drawn, draw_curves=drawn.update, **counts)


def test_seconds_count_training_alone_and_a_line_says_the_figures(clock, caplog):
    caplog.set_level("INFO")
    lines = EpochLines()
    lines.on_train_epoch_start(trainer(), None)
    clock.value += 3
    lines.on_validation_start(trainer(), None)
    clock.value += 50
    lines.on_validation_end(trainer(), None)
    lines.on_train_epoch_end(trainer(current_epoch=0), figures("test"))
    clock.value += 500
    lines.on_train_epoch_start(trainer(), None)
    for seconds in (3, 1):  # an evaluation in the middle, another near the end
        clock.value += seconds
        lines.on_validation_start(trainer(), None)
        clock.value += 70
        lines.on_validation_end(trainer(), None)
    clock.value += 0.26
    module = figures("validation")
    lines.on_train_epoch_end(trainer(current_epoch=1), module)
    assert module.drawn == {"train/images_per_second": pytest.approx(240 / 4.26)}
    assert lines.seconds == pytest.approx([3, 4.26])
    assert [record.message for record in caplog.records] == [
        "Epoch 1: test ELBO -5.00 (rate 2.00, distortion 3.00), 3.0 s",
        "Epoch 2: validation ELBO -5.00 (rate 2.00, distortion 3.00), 4.3 s",
    ]


def test_an_epoch_that_is_not_evaluated_has_seconds_and_no_line(clock, caplog):
    """The figures that the module still holds are those of an epoch before."""
    caplog.set_level("INFO")
    lines = EpochLines()
    for evaluated in (True, False):
        lines.on_train_epoch_start(trainer(), None)
        clock.value += 2
        if evaluated:
            lines.on_validation_start(trainer(), None)
            clock.value += 10
            lines.on_validation_end(trainer(), None)
        lines.on_train_epoch_end(trainer(), figures("test"))
    assert lines.seconds == [2, 2] and len(caplog.records) == 1


def test_seconds_go_on_after_a_stop(clock):
    """Those of the epochs, and of the one that was not over; not those between the two processes."""
    lines = EpochLines()
    lines.on_train_epoch_start(trainer(), None)
    clock.value += 3
    lines.on_train_epoch_end(trainer(), module_of({}))
    lines.on_train_epoch_start(trainer(), None)
    clock.value += 4
    lines.on_validation_start(trainer(), None)
    clock.value += 30
    lines.on_validation_end(trainer(), None)
    state = lines.state_dict()
    clock.value += 1000
    after = EpochLines()
    after.load_state_dict(state)
    clock.value += 5
    after.on_train_epoch_end(trainer(), module_of({}))
    assert after.seconds == pytest.approx([3, 9])


@pytest.mark.parametrize(
    ("values", "shares", "total"),
    [
        ({"num_training_batches": 1}, [1, 1, 1, 1], 4 * 7),  # of ten minibatches, of which an epoch has 7
        ({"num_training_batches": 1}, [1, 1, 2, 4], 7 + 7 + 4 + 2),
        ({"num_training_batches": 1, "max_steps": 9}, [1, 1, 1, 1], 9),
        ({"num_training_batches": 1, "max_steps": 90}, [7, 7, 7, 7], 4),
    ],
)
def test_the_bar_counts_optimizer_steps(values, shares, total, screen):
    data, bar = SimpleNamespace(minibatches=10, minibatches_of_an_epoch=lambda: 7), ProgressBar()
    module = SimpleNamespace(recent=FIGURES, accumulation=shares.__getitem__)
    bar.on_train_start(trainer(datamodule=data, **values), module)
    assert bar.bar.tasks[0].total == total
