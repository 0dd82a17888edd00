"""The evaluations that a run keeps, and which of them a table shows. Needs no torch."""

import math
from typing import NamedTuple

from cvae.checks import is_int, is_number
from cvae.runs.directory import AVERAGED, LAST, RAW, Run
from cvae.runs.small_files import read_json

MOST = 200  # evaluations of a run that are read


class Evaluation(NamedTuple):
    """An evaluation of a run: its figures by the names that metrics.json has, and how they were found."""

    figures: dict[str, float]
    by: str  # as in "5,000 samples, 10,000 images"
    at_most: bool  # whether -log p(x) is an upper bound that no number of samples makes tight


def best_evaluation(run: Run, step: int | None, weights: str = RAW) -> Evaluation | None:
    """The evaluation of the last checkpoint on the most test images, rather drawn than the first; then on most samples.

    Args:
        step: how many optimizer steps the model has had; None: the most that one was evaluated after
        weights: averaged or raw; others are not looked at

    Files that are damaged, or are none of `Run.save_evaluation`, are left out.
    """
    files = sorted(run.evaluations.glob("*.json"))[:MOST]
    found = [content for file in files if readable(content := read_json(file))]
    found = [content for content in found if step in (None, content["settings"]["step"])]
    found = [content for content in found if content["settings"].get("weights", RAW) == weights]
    if not found:
        return None
    best = max(found, key=rank)
    values = {f"evaluation/{name}": part.get("value") for name, part in best.items() if isinstance(part, dict)}
    at_most = "at most" in str(best["nll"].get("meaning"))
    return Evaluation(
        {name: value for name, value in values.items() if is_number(value)}, by(best["settings"]), at_most
    )


def factor_figures(run: Run, step: int | None, weights: str = RAW) -> dict[str, float]:
    """Figures of the last checkpoint's latents against known factors, by the names that metrics.json would have.

    Of several measurements that of the most test images, of the least seed. Arguments as of `best_evaluation`.
    """
    files = sorted(run.factor_figures.glob("*.json"))[:MOST]
    found = [content for file in files if isinstance((content := read_json(file)).get("settings"), dict)]
    found = [content for content in found if content["settings"].get("checkpoint") == LAST]
    keys = ("step", "images", "seed")
    found = [content for content in found if all(is_int(content["settings"].get(key)) for key in keys)]
    found = [content for content in found if step in (None, content["settings"]["step"])]
    found = [content for content in found if content["settings"].get("weights", RAW) == weights]
    best = max(found, key=rank_of_factors, default={})
    values = {f"evaluation/{name}": part.get("value") for name, part in best.items() if isinstance(part, dict)}
    return {name: value for name, value in values.items() if is_number(value)}


def qualities(run: Run, step: int | None, weights: str = RAW) -> dict[str, dict[str, float]]:
    """The figures of samples of the last checkpoint, by their features and by how many samples and test images.

    As in {"classifier-1a2b3c4d 10,000/10,000": {"frechet": 3.1, …}, "vgg16-5e6f7a8b 10,000": {"lpips": 0.1}}: only
    within the same words are they compared. Of several seeds the first file counts. step, weights: as for
    `best_evaluation`.
    """
    found: dict[str, dict[str, float]] = {}
    for content in map(read_json, sorted(run.qualities.glob("*.json"))[:MOST]):
        settings = content.get("settings")
        if not isinstance(settings, dict) or settings.get("checkpoint") != LAST:
            continue
        if not all(is_int(settings.get(key)) for key in ("step", "images", "samples")):
            continue
        if step not in (None, settings["step"]) or settings.get("weights") != weights:
            continue
        parts = {name: part.get("value") for name, part in content.items() if isinstance(part, dict)}
        values = {name: value for name, value in parts.items() if is_number(value)}
        if "lpips" in values:  # by a network of its own, and without samples
            by = f"{settings.get('lpips')!s:.50} {settings['images']:,}"
            found.setdefault(by, {"lpips": values.pop("lpips")})
        by = f"{settings.get('features')!s:.50} {settings['samples']:,}/{settings['images']:,}"
        found.setdefault(by, values)
    return found


def readable(content: dict) -> bool:
    settings, nll = content.get("settings"), content.get("nll")
    if not isinstance(settings, dict) or not isinstance(nll, dict) or settings.get("checkpoint") != LAST:
        return False
    return all(is_int(settings.get(key)) for key in ("step", "images", "samples")) and is_number(nll.get("value"))


def rank(content: dict) -> tuple[int, int, bool, int, float]:
    """The higher, the better; the fewer nats --until allows, the more samples are taken."""
    settings = content["settings"]
    drawn = is_int(settings.get("draw"))
    return settings["step"], settings["images"], drawn, settings["samples"], -until(settings)


def rank_of_factors(content: dict) -> tuple[int, int, int]:
    settings = content["settings"]
    return settings["step"], settings["images"], -settings["seed"]


def until(settings: dict) -> float:
    return settings["until"] if is_number(settings.get("until")) else math.inf


def by(settings: dict) -> str:
    more = f" or more, until {until(settings):g}" if until(settings) < math.inf else ""
    averaged = ", averaged weights" if settings.get("weights") == AVERAGED else ""
    drawn = f" drawn by seed {settings['draw']}" if is_int(settings.get("draw")) else ""
    return f"{settings['samples']:,} samples{more}, {settings['images']:,} images{drawn}{averaged}"
