"""Curves as they are read from TensorBoard's files, which may be somebody else's."""

import math
import os

import pytest

from cvae.runs import curves
from cvae.runs.curves import curve, few
from cvae.runs.directory import Run
from cvae.training.tensorboard import TensorBoard


def test_points_are_by_step_and_numbers(tmp_path):
    """A later file may have earlier steps, as after a run went on from a checkpoint."""
    for name, points in (("1", {6: -1.0, 8: -2.0}), ("2", {2: -3.0, 4: math.nan, 6: -5.0})):
        board = TensorBoard(str(tmp_path / "new"))
        for step, value in points.items():
            board.log_metrics({"test/elbo": value, "test/rate": 9.0}, step)
        board.close("success")
        (file,) = (tmp_path / "new" / "test").iterdir()
        (tmp_path / "run" / "test").mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "run" / "test" / f"events.out.tfevents.{name}")
    assert curve(Run(tmp_path / "run"), "test/elbo") == [(2, -3.0), (6, -5.0), (8, -2.0)]
    assert curve(Run(tmp_path / "run"), "evaluation/elbo") == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_no_more_is_read_than_a_run_can_have(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "MOST", 10)
    files = []
    for number, size in enumerate((4, 7, 5, 1, 1)):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(b"x" * size)
    os.mkfifo(tmp_path / "pipe")
    found = few([tmp_path / "gone", tmp_path / "pipe", *files])
    assert [file.name for file in found] == ["0", "2", "3"]  # 4, 5 and 1: together 10
