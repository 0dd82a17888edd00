"""Lightning's callbacks that a user adds: they write into the run, and those that cannot work here are refused."""

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytorch_lightning as L
from omegaconf import DictConfig
from pytorch_lightning import callbacks as lightnings
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from cvae.errors import ConfigError, UserError
from cvae.evaluation.units import OF_CODES
from cvae.runs.directory import BEST, LAST, PREVIOUS, Run
from cvae.training.checkpoints import Checkpoints
from cvae.training.means import named, of_training, selection
from cvae.training.module import VAEModule

REFUSED = {  # kind of callback -> why it does not work here, and what does
    lightnings.StochasticWeightAveraging: "it copies the module with its random numbers, which cannot be copied. "
    "averaging.decay=0.999 averages weights, after every step",
    lightnings.LearningRateFinder: "it trains before the run, which then could not be repeated. Compare learning rates "
    "by python train.py -m optimizer.lr=1e-4,1e-3",
    lightnings.BatchSizeFinder: "it trains before the run, which then could not be repeated. Choose data.batch_size",
    lightnings.BackboneFinetuning: "it wants a module with a backbone, which a VAE has not",
}
WITH_LOGGER = (lightnings.LearningRateMonitor, lightnings.DeviceStatsMonitor, lightnings.ThroughputMonitor)

# Modules of Lightning's that run what a user may add, and those that these call for it.
PLACES = tuple(f"pytorch_lightning.{part}" for part in ("callbacks", "loops", "profilers", "trainer", "tuner"))
UTILITIES = ("pytorch_lightning.utilities", "lightning_utilities", "lightning_fabric.utilities")


def require_callbacks(callbacks: Mapping[str, L.Callback], loggers: list) -> None:
    """Raise UserError, naming the key, if a callback cannot work here, or needs a logger and there is none."""
    for name, part in callbacks.items():
        for kind, reason in REFUSED.items():
            if isinstance(part, kind):
                raise UserError(f"callbacks.{name}: {kind.__name__} does not work here: {reason}")
        if type(part) is lightnings.BaseFinetuning:
            raise UserError(f"callbacks.{name}: BaseFinetuning does nothing by itself: name a class that is made of it")
        if isinstance(part, WITH_LOGGER) and not loggers:
            raise UserError(f"callbacks.{name}: {type(part).__name__} needs a logger, as logger=tensorboard")


def require_launcher(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Raise ConfigError if the strategy forks or spawns: this process would never get the trained weights."""
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError("trainer.strategy", cfg.trainer.strategy, "one that starts processes of their own, as ddp")


def into_run(callbacks: dict[str, L.Callback], run: Run) -> list[L.Callback]:
    """The callbacks. Lightning's ModelCheckpoint writes into the run's checkpoints, unless it is told another folder.

    Ours come last, so that what they save has all that the others did in that step or epoch.

    Raises:
        ConfigError: it would write a file that `Checkpoints` writes, too.
    """
    ours = any(isinstance(part, Checkpoints) for part in callbacks.values())
    for name, part in callbacks.items():
        if not isinstance(part, lightnings.ModelCheckpoint):
            continue
        folder = os.path.realpath(run.checkpoints)
        part.dirpath = part.dirpath or folder
        if part.dirpath != folder or not ours:
            continue
        if part.save_last:
            allowed = f"false: callbacks.checkpoint writes {LAST}"
            raise ConfigError(f"callbacks.{name}.save_last", part.save_last, allowed)
        if f"{part.filename}.ckpt" in (LAST, PREVIOUS, BEST):
            allowed = "another name: callbacks.checkpoint writes a file of this one"
            raise ConfigError(f"callbacks.{name}.filename", part.filename, allowed)
    return sorted(callbacks.values(), key=lambda part: isinstance(part, Checkpoints))


def require_figures(cfg: DictConfig, trainer: L.Trainer, module: VAEModule, split: str) -> None:
    """Raise ConfigError if a callback monitors a figure that the run lacks, or lacks at the time when it looks.

    split: test or validation, whichever is measured between epochs
    """
    means = dict.fromkeys(module.names, 0.0)
    of_codes = OF_CODES if module.vae.posterior.num_codes is not None else ()
    measured = [*selection(means), *(f"{split}/{name}" for name in (*means, *of_codes))]
    trained = list(named("train_epoch", of_training(means, module.vae)))
    for name, part in cfg.callbacks.items():
        monitor = part.get("monitor") if part else None
        if monitor is None or part._target_.startswith("cvae.") or not part.get("strict", True):
            continue
        allowed, when = [*measured, *trained], ""
        if part._target_.endswith(".EarlyStopping"):  # Lightning's can be named by several modules
            each_epoch = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
            at_end = part.get("check_on_train_epoch_end")
            if each_epoch if at_end is None else at_end:
                allowed, when = allowed if trainer.check_val_every_n_epoch == 1 else trained, ", at an epoch's end"
            else:
                allowed, when = measured, ", after an evaluation (check_on_train_epoch_end: false)"
        if monitor not in allowed:
            raise ConfigError(f"callbacks.{name}.monitor", monitor, f"one of {', '.join(allowed)}{when}")


@contextmanager
def lightnings_errors() -> Iterator[None]:
    """Turn an error that Lightning raises about something the user added into a UserError."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if said := refusal(error):
            raise UserError(said) from error
        raise


def refusal(error: Exception) -> str:
    """Lightning's message about something the user added; empty if other code raised the error.

    Only errors from Lightning's own modules, and from libraries that these call, count as Lightning's.
    """
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_globals.get("__name__", "")
        root = module.partition(".")[0]
        if module.startswith(PLACES):
            said = " ".join(str(error).split())
            return f"{module}: {type(error).__name__}: {said} (HYDRA_FULL_ERROR=1 shows where)"
        if root != "torch" and root not in sys.stdlib_module_names and not module.startswith(UTILITIES):
            return ""
    return ""
