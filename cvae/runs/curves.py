"""Curves in TensorBoard's files: where each one is, and its points. Needs no torch."""

from cvae.runs.directory import SPLITS, Run

# TensorBoard sorts tags, capital letters first, and opens two groups: bound, and pictures; terms and trainer follow.
BOUNDS = {"elbo": "bound/ELBO", "nll": "bound/NLL", "rate": "bound/rate", "distortion": "bound/distortion"}


def place_of_curve(name: str) -> tuple[str | None, str] | None:
    """The folder (a split, or None for the run's) and tag of a curve; None if TensorBoard does not show it.

    Of train_epoch it would be the same curve again, and of most of the evaluation a chart of one point: see its table.
    """
    split, _, figure = name.partition("/")
    if split in SPLITS:
        return split, BOUNDS.get(figure) or ("trainer/lr" if figure == "lr" else f"terms/{figure}")
    return (None, BOUNDS["nll"]) if name == "evaluation/nll" else None


def curve(run: Run, name: str) -> list[tuple[int, float]]:
    """The points (optimizer steps, value) of a curve of a run, by step; none where TensorBoard has none of it."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader  # slow to import

    split, tag = place_of_curve(name)
    points: dict[int, float] = {}
    for file in sorted(run.events(split).glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag == tag:
                    points[event.step] = value.simple_value
    return sorted(points.items())
