"""Loggers: where curves, pictures and hyperparameters go besides the run directory."""

from collections.abc import Iterable, Mapping

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from cvae import pictures
from cvae.run import Run

__all__ = ["tensorboard"]  # what conf/ and saved configs may name

HIDDEN = ("callbacks", "logger", "run_dir", "evaluation", "experiment")  # keys that do not describe the model


def tensorboard(run_dir: str) -> TensorBoardLogger:
    """Event files in the run directory."""
    folder = Run(run_dir).tensorboard
    return TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)


def hyperparameters(cfg: DictConfig) -> dict:
    """What can differ between two runs: the config without paths, callbacks and loggers."""
    shown = OmegaConf.to_container(cfg, resolve=True)
    del shown["data"]["root"]
    return {group: value for group, value in shown.items() if group not in HIDDEN}


def log_curves(loggers: Iterable[Logger], figures: Mapping[str, float], step: int) -> None:
    """A point of each curve, at so many optimizer steps."""
    for logger in loggers:
        logger.log_metrics(dict(figures), step)


def log_result(loggers: Iterable[Logger], params: dict, figures: Mapping[str, float], step: int) -> None:
    """Log the hyperparameters: TensorBoard takes them with the figures that its HPARAMS shows, whose curves exist."""
    from torch.utils.tensorboard.summary import hparams  # takes long to import, and other loggers need none of it

    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # its own log_hyperparams would add a second point to each curve
            for summary in hparams(flat(params), dict(figures)):
                logger.experiment._get_file_writer().add_summary(summary, step)
        else:
            logger.log_hyperparams(params)


def flat(params: dict, place: str = "") -> dict[str, bool | int | float | str]:
    """{"model/latent_dim": 2, …}"""
    found = {}
    for key, value in params.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{place}{key}/")
        else:
            found[f"{place}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def log_picture(loggers: Iterable[Logger], tag: str, content: bytes, height: int, width: int, step: int) -> None:
    """An encoded picture (PNG, GIF) of this size in pixels, for the loggers that show pictures."""
    summary = pictures.image_summary(tag, content, height, width)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment._get_file_writer().add_summary(summary, step)


def close(loggers: Iterable[Logger], status: str) -> None:
    """Wait until everything logged is on disk: TensorBoard writes from a daemon thread, which ends with the process."""
    for logger in loggers:
        logger.finalize(status)
