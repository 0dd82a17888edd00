"""Curves in TensorBoard's files: where each one is, and its points. Needs no torch."""

import math
import stat
from pathlib import Path

from cvae.runs.directory import SPLITS, Run

# TensorBoard sorts tags, capital letters first, and opens two groups: bound, and pictures; terms and trainer follow.
BOUNDS = {"elbo": "bound/ELBO", "nll": "bound/NLL", "rate": "bound/rate", "distortion": "bound/distortion"}
OF_TRAINER = ("lr", "gradient_norm", "skipped_steps", "images_per_second")
MOST = 2**23  # bytes of files that are read of a run: its test set's curves of 10,000 epochs have half of it


def place_of_curve(name: str) -> tuple[str | None, str] | None:
    """The folder (a split, or None for the run's) and tag of a curve; None if TensorBoard does not show it.

    Of train_epoch it would be the same curve again, and of most of the evaluation a chart of one point: see its table.
    """
    split, _, figure = name.partition("/")
    if split in SPLITS:
        return split, BOUNDS.get(figure) or f"{'trainer' if figure in OF_TRAINER else 'terms'}/{figure}"
    return (None, BOUNDS["nll"]) if name == "evaluation/nll" else None


def curve(run: Run, name: str) -> list[tuple[int, float]]:
    """The points (optimizer steps, value) of a curve of a run, by step; none where TensorBoard has none of it.

    The files may be somebody else's: what is damaged, no file, or beyond `MOST` is left out, and so is what is no
    number.
    """
    if (place := place_of_curve(name)) is None:
        return []
    split, tag = place
    points: dict[int, float] = {}
    for file in few(sorted(run.events(split).glob("events.out.tfevents.*"))):
        points |= dict(points_of(file, tag))
    return sorted(points.items())


def few(files: list[Path]) -> list[Path]:
    """The first of the files that together have at most `MOST` bytes, without pipes and devices."""
    kept, size = [], 0
    for file in files:
        about = file.stat() if file.exists() else None
        if about and stat.S_ISREG(about.st_mode) and size + about.st_size <= MOST:
            kept.append(file)
            size += about.st_size
    return kept


def points_of(file: Path, tag: str) -> list[tuple[int, float]]:
    """The points of a curve in a file, in its order, until its end or what is damaged."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader  # slow to import

    found = []
    try:
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag == tag and math.isfinite(value.simple_value):
                    found.append((event.step, value.simple_value))
    except Exception:  # damaged bytes make TensorBoard and protobuf raise almost anything
        pass
    return found
