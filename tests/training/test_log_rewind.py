"""Back to a checkpoint: what loggers wrote after it is gone, what they wrote before is not."""

import csv

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae.runs.directory import Run
from cvae.training.log_rewind import positions, rewind
from cvae.training.tensorboard import TensorBoard


def board(folder):
    return TensorBoard(str(folder))


def table(folder):
    return CSVLogger(folder, name="", version="csv")


def read(folder):
    """({split: [(step, value)], by step} of TensorBoard, rows of the table)

    TensorBoard reads files in the order of their names, the second and a count: of one second the 10th before the 9th.
    """
    found = {}
    for file in Run(folder).event_files():
        if file.parent != folder:
            events = EventAccumulator(str(file.parent), {"scalars": 0}).Reload()
            found[file.parent.name] = sorted((event.step, event.value) for event in events.Scalars("bound/ELBO"))
    with open(folder / "csv" / "metrics.csv") as file:
        return found, list(csv.DictReader(file))


def write(loggers, step):
    for logger in loggers:
        logger.log_metrics({"train/elbo": float(step)}, step)
        if step > 1:
            logger.log_metrics({"test/elbo": float(-step)}, step)


def end(loggers):
    for logger in loggers:
        logger.finalize("success")
    loggers[0].close("success")  # which says so in a file of its own


def test_a_run_that_goes_on_has_each_point_once(tmp_path):
    first = [board(tmp_path), table(tmp_path), DummyLogger()]
    write(first, 1)
    to = positions(first)
    assert to[1:] == [1, None] and all(size > 0 for size in to[0].values())
    write(first, 2)  # lost: a folder that is new, and points in files that are not
    write(first, 3)
    end(first)
    second = [board(tmp_path), table(tmp_path), DummyLogger()]
    rewind(second, to)
    assert [file.parent.name for file in Run(tmp_path).event_files()] == ["train"]
    write(second, 2)
    again = positions(second)
    assert again[1] == 3 and len(again[0]) == 3
    end(second)
    third = [board(tmp_path), table(tmp_path), DummyLogger()]
    rewind(third, again)
    write(third, 3)
    end(third)
    curves, rows = read(tmp_path)
    assert curves == {"train": [(1, 1), (2, 2), (3, 3)], "test": [(2, -2), (3, -3)]}
    assert [(row["step"], row["train/elbo"], row["test/elbo"]) for row in rows] == [
        ("1", "1.0", ""), ("2", "2.0", ""), ("2", "", "-2.0"), ("3", "3.0", ""), ("3", "", "-3.0"),
    ]  # fmt: skip


def test_a_run_that_begins_anew_has_nothing_of_before(tmp_path):
    loggers = [board(tmp_path), table(tmp_path), DummyLogger()]
    write(loggers, 2)
    end(loggers)
    loggers = [board(tmp_path), table(tmp_path), DummyLogger()]
    rewind(loggers, None)
    assert Run(tmp_path).event_files() == []
    write(loggers, 1)
    end(loggers)
    curves, rows = read(tmp_path)
    assert curves == {"train": [(1, 1)]} and len(rows) == 1
