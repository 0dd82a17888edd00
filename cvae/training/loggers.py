"""Loggers of any kind: they get curves, pictures and hyperparameters."""

import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger

from cvae.errors import UserError
from cvae.runs.directory import Run
from cvae.training.tensorboard import TensorBoard

log = logging.getLogger(__name__)

__all__ = ["tensorboard"]  # what saved configs may name: the others could send what they log to anybody

# Keys that nobody sweeps, or that say nothing of the model: paths, machines, what is shown and how.
HIDDEN = {
    "callbacks", "logger", "run_dir", "evaluation", "experiment", "name", "tags", "optimizer.fused",
    "data.root", "data.image_shape", "data.num_classes", "data.eval_batch_size",
    *(f"trainer.{key}" for key in (
        "_target_", "accelerator", "devices", "num_nodes", "strategy", "log_every_n_steps", "check_val_every_n_epoch",
        "compile", "cuda_graphs", "num_sanity_val_steps", "enable_progress_bar", "enable_model_summary", "plugins",
        "use_distributed_sampler",
    )),
}  # fmt: skip


def tensorboard(run_dir: str) -> TensorBoard:
    """Event files in the run directory."""
    return TensorBoard(run_dir)


def mlflow(run_dir: str, tags: list[str], **options: Any) -> MLFlowLogger:
    """An MLflow run, named after ours.

    Raises:
        UserError: mlflow is not installed.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a line for each table that it makes
    try:
        return MLFlowLogger(run_name=Run(run_dir).name, tags=dict.fromkeys(tags, ""), **options)
    except ModuleNotFoundError as error:
        raise UserError(f"logger=mlflow: {error}. Install it: pip install -e '.[mlflow]'") from error


def wandb(run_dir: str, tags: list[str], **options: Any) -> WandbLogger:
    """A Weights & Biases run, named after ours; its files are in the run directory.

    Raises:
        UserError: wandb is not installed.
    """
    try:
        return WandbLogger(name=Run(run_dir).name, save_dir=run_dir, tags=list(tags), **options)
    except ModuleNotFoundError as error:
        raise UserError(f"logger=wandb: {error}. Install it: pip install -e '.[wandb]'") from error


def hyperparameters(cfg: DictConfig, place: str = "") -> dict[str, float | str]:
    """The hyperparameters by the names that one types: {"model": "conv", "model.latent_dim": 2, …}.

    A choice is named after its class. A value that refers to another key is left out.
    """
    found = {}
    for key in cfg:
        name = place + str(key)
        node: Any = cfg._get_node(key)
        if name in HIDDEN or node._is_interpolation():
            continue
        if key == "_target_":  # data are named after their source
            found[place.removesuffix(".").removesuffix(".source")] = cfg[key].rpartition(".")[2]
        elif isinstance(node, DictConfig) and not node._is_none():
            found |= hyperparameters(node, f"{name}.")
        elif not str(key).startswith("_"):
            found[name] = readable(cfg[key])
    return found


def readable(value: object) -> float | str:
    """Numbers and words as they are; true, false and null as one types them; a list as text."""
    if isinstance(value, ListConfig):
        return f"[{','.join(str(readable(item)) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, int | float | str) else str(value)


METHODS = (
    "log_metrics", "log_hyperparams", "log_graph", "log_text", "log_picture", "save", "finalize", "close",
)  # fmt: skip
LOST: WeakSet[Logger] = WeakSet()  # loggers that have failed


def forgiving(logger: Logger) -> Logger:
    """The same logger, whose first error becomes a warning and the end of its logging: the run goes on."""
    for name in METHODS:
        if hasattr(logger, name):
            setattr(logger, name, partial(attempt, logger, getattr(logger, name)))
    return logger


def attempt(logger: Logger, action: Callable, *arguments: Any, **options: Any) -> Any:
    """Call `action`, unless this logger has failed before."""
    try:
        return None if logger in LOST else action(*arguments, **options)
    except Exception as error:  # loggers that send over a network raise almost anything
        LOST.add(logger)
        folder = getattr(logger, "log_dir", None)
        place = f"{type(logger).__name__} in {folder}" if folder else type(logger).__name__
        log.warning("%s logs nothing more, the training goes on: %s", place, error)


def log_start(loggers: Iterable[Logger], cfg: DictConfig) -> None:
    """Log the hyperparameters, and for TensorBoard the whole config as text (YAML)."""
    for logger in loggers:
        logger.log_hyperparams(hyperparameters(cfg))
        if isinstance(logger, TensorBoard):
            logger.log_text("2 config", f"```\n{OmegaConf.to_yaml(cfg)}\n```", 0)


def log_curves(loggers: Iterable[Any], figures: Mapping[str, float], step: int) -> None:
    """A point of each curve, at so many optimizer steps."""
    for logger in loggers:
        logger.log_metrics(dict(figures), step)


def log_table(loggers: Iterable[Logger], markdown: str, step: int) -> None:
    """The evaluation as a table, for TensorBoard; the other loggers have its figures."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_text("1 evaluation", markdown, step)


def log_picture(
    loggers: Iterable[Logger], name: str, content: bytes, height: int, width: int, epoch: int, step: int
) -> None:
    """An encoded picture (PNG, GIF) of this size in pixels, for the loggers that show pictures.

    In TensorBoard it lies at its optimizer step, as the points of the curves do; the others name its epoch.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_picture(name, content, height, width, step)
        elif isinstance(logger, MLFlowLogger):
            attempt(logger, picture_to_mlflow, logger, name, content, epoch)
        elif isinstance(logger, WandbLogger):
            attempt(logger, picture_to_wandb, logger, name, content, epoch)


def picture_to_mlflow(logger: MLFlowLogger, name: str, content: bytes, epoch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:  # MLflow takes files
        file = Path(folder) / f"{name}_{epoch:04d}.{kind(content)}"
        file.write_bytes(content)
        logger.experiment.log_artifact(logger.run_id, str(file), "pictures")


def picture_to_wandb(logger: WandbLogger, name: str, content: bytes, epoch: int) -> None:
    logger.experiment.log({f"pictures/{name}": wandb_picture(content), "epoch": epoch})


def kind(content: bytes) -> str:
    return "gif" if content.startswith(b"GIF") else "png"


def wandb_picture(content: bytes) -> object:
    """A picture as Weights & Biases shows it; it takes an animation as a video."""
    import wandb as library
    from PIL import Image

    if kind(content) == "gif":
        return library.Video(io.BytesIO(content), format="gif")
    return library.Image(Image.open(io.BytesIO(content)))


def close(loggers: Iterable[Logger], status: str) -> None:
    """Wait until everything logged is on disk, and end what a logger has begun."""
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, TensorBoard):
            logger.close(status)
        elif isinstance(logger, WandbLogger):  # else the next run of a sweep would go on with it
            attempt(logger, end_of_wandb, logger, status)


def end_of_wandb(logger: WandbLogger, status: str) -> None:
    logger.experiment.finish(exit_code=0 if status == "success" else 1)
