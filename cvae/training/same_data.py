"""Check that a resumed run has the images that it began with."""

from omegaconf import DictConfig

from cvae.data import ImageData
from cvae.data.contents import difference, fingerprint, is_ours, save_contents
from cvae.errors import DataError
from cvae.runs.directory import Run


def require_same_data(cfg: DictConfig, data: ImageData) -> None:
    """Put the fingerprint of a user's own images, once read, into a new run's config and data.

    Raises:
        DataError: the config has another fingerprint, so split and figures would be of other images.
    """
    if said := difference(Run(cfg.run_dir), cfg.data.get("fingerprint"), data.contents):
        place, rest = f"data.root={data.root}", "Put them back to go on"
        if not is_ours(data.source):
            place, rest = f"data of {type(data.source).__name__}", "It must give the same ones at each start to go on"
        why = "with others its test images may be images that it was trained on"
        raise DataError(f"{place}: {said}. {rest}, or start a new run: {why}")
    if data.contents is not None and "fingerprint" in cfg.data:
        data.fingerprint = cfg.data.fingerprint = fingerprint(data.contents)


def list_data(run: Run, data: ImageData) -> None:
    """Write the run's data.csv, for a user's own images: which image is in which split, and what was left out."""
    if data.contents is not None and not run.data.exists():
        splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
        images = {name: split and split.images for name, split in splits.items()}
        save_contents(run, images, data.contents, getattr(data.source, "left_out", {}))
