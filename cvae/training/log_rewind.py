"""Rewind loggers to what they had written at a checkpoint: a resumed run writes everything after it once more."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger

from cvae.errors import UserError
from cvae.training.tensorboard import TensorBoard


def positions(loggers: Sequence[Logger]) -> list[Any]:
    """How much each logger has written: bytes of TensorBoard's files, rows of a CSV table; None for others."""
    return [position(logger) for logger in loggers]


def position(logger: Logger) -> dict[str, int] | int | None:
    if isinstance(logger, TensorBoard):
        logger.finalize("")
        return {name: file.stat().st_size for name, file in event_files(logger).items()}
    if isinstance(logger, CSVLogger):
        logger.save()
        return len(rows(logger))
    return None


def rewind(loggers: Sequence[Logger], to: list[Any] | None) -> None:
    """Drop what was written after `to`, the `positions` of a checkpoint, or everything where there is none.

    Call it before anything is logged: a new writer adds a file to TensorBoard's, and deletes the table.

    Raises:
        UserError: `to` is of other loggers.
    """
    if to and len(to) != len(loggers):
        raise UserError(f"the checkpoint is of a run with {len(to)} loggers, this one has {len(loggers)}")
    for logger, written in zip(loggers, to or [None] * len(loggers), strict=True):
        if isinstance(logger, TensorBoard):
            for name, file in event_files(logger).items():
                if name not in (written or {}):
                    file.unlink()
                elif file.stat().st_size > written[name]:
                    with open(file, "r+b") as content:
                        content.truncate(written[name])
        elif isinstance(logger, CSVLogger):
            kept = rows(logger)[: written or 0]
            logger.experiment.metrics = [{name: value for name, value in row.items() if value} for row in kept]


def event_files(logger: TensorBoard) -> dict[str, Path]:
    """{path in the run directory: file}"""
    return {str(file.relative_to(logger.run.path)): file for file in logger.run.event_files()}


def rows(logger: CSVLogger) -> list[dict[str, str]]:
    file = Path(logger.log_dir) / "metrics.csv"
    if not file.is_file():
        return []
    with open(file, newline="") as content:
        return list(csv.DictReader(content))
