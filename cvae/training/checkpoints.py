"""Write last.ckpt, previous.ckpt and best.ckpt, each whole or not at all, and find the one to resume from."""

import io
import logging
import os
import re
from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from cvae.checks import one_of, positive_int
from cvae.errors import ConfigError, Stopped, UserError
from cvae.models.vae import VAE
from cvae.runs.checkpoint import FORMAT, Damaged, read_checkpoint
from cvae.runs.directory import BEST, LAST, PREVIOUS, Run
from cvae.runs.storage import save
from cvae.training.engine import Trainer
from cvae.training.means import MINUS_LOSS, SELECTION
from cvae.training.module import VAEModule
from cvae.training.signals import signals
from cvae.training.time_limit import between_minibatches, out_of_time

log = logging.getLogger(__name__)

__all__ = ["Checkpoints", "WholeCheckpoints"]  # what conf/ and saved configs may name

# Files that stay beside the last ones and the best one.
KEPT = r"epoch=\d+(_(bound|minus_loss|elbo)=-?\d+\.\d\d)?\.ckpt"


class Checkpoints(Checkpoint):
    """last.ckpt after each epoch and every `every_n_steps` in it; best.ckpt of the epoch with the highest `monitor`.

    For selection/bound, that of an objective without a bound has the highest selection/minus_loss. Evaluations within
    epochs (trainer.val_check_interval) count like those at their ends: best.ckpt has the weights that were evaluated.

    Once a signal has arrived, it saves and ends the training after the step.

    Args:
        run_dir: the folder of the run
        monitor: selection/bound or train_epoch/elbo
        every_n_steps: optimizer steps
        keep_every: files of the epochs that are multiples of it stay, too; None: of no epoch
        keep_best: and so many files of the epochs with the highest `monitor`, if it was measured at their end

    Raises:
        ConfigError: `monitor` is nothing that a run measures and that is better when higher, or one of the others is no
            positive integer.
    """

    def __init__(
        self,
        run_dir: str,
        monitor: str = SELECTION,
        every_n_steps: int = 1000,
        keep_every: int | None = None,
        keep_best: int | None = None,
    ) -> None:
        self.folder = Run(run_dir).checkpoints
        self.monitor = one_of("monitor", monitor, (SELECTION, "train_epoch/elbo"))
        self.every_n_steps = positive_int("every_n_steps", every_n_steps)
        self.keep_every = None if keep_every is None else positive_int("keep_every", keep_every)
        self.keep_best = None if keep_best is None else positive_int("keep_best", keep_best)
        self.best: float | None = None
        self.step = 0  # optimizer steps made at last.ckpt
        self.ranked: list[list[Any]] = []  # [file, figure] of the best that are kept, the best first
        self.dropped: list[str] = []  # files that are no longer among them, deleted once last.ckpt does not list them
        self.evaluated = -1  # optimizer steps made at the last evaluation

    def on_train_start(self, trainer: Trainer, module: VAEModule) -> None:
        self.drop(trainer)  # a kill may have come before
        signals.wait_for_steps()

    def on_validation_end(self, trainer: Trainer, module: VAEModule) -> None:
        self.evaluated = trainer.global_step
        if not (trainer.is_last_batch or trainer.sanity_checking):  # within the epoch
            self.save_best(trainer, self.figure(module)[1])

    def on_train_batch_end(
        self, trainer: Trainer, module: VAEModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not between_minibatches(trainer, module):
            return
        stop, step = signals.to_stop(trainer), trainer.global_step
        if stop or out_of_time(trainer) or step // self.every_n_steps > self.step // self.every_n_steps:
            self.save_last(trainer)
        if stop:
            self.read_back(trainer)
            raise Stopped(stop, after_step=True)

    def on_train_epoch_end(self, trainer: Trainer, module: VAEModule) -> None:
        figure, score = self.figure(module)
        self.save_best(trainer, score)
        if not self.within(trainer):
            if self.keep_every or self.keep_best:
                self.keep(trainer, figure, score)
            self.save_last(trainer)
            self.drop(trainer)
        if stop := signals.to_stop(trainer, now=True):
            self.read_back(trainer)
            raise Stopped(stop, after_step=True)

    def figure(self, module: VAEModule) -> tuple[str, float | None]:
        """The name of the figure that epochs are chosen by, and its latest value if there is one."""
        name = MINUS_LOSS if self.monitor == SELECTION and MINUS_LOSS in module.figures else self.monitor
        return name, module.figures.get(name)

    def within(self, trainer: Trainer) -> bool:
        """Whether the time is over within an epoch: with more of it the run goes on from there, to the same end."""
        return out_of_time(trainer) and self.step == trainer.global_step and not trainer.is_last_batch

    def save_best(self, trainer: Trainer, score: float | None) -> None:
        if score is not None and (self.best is None or (score > self.best and not self.within(trainer))):
            self.best = score
            trainer.save_checkpoint(self.folder / BEST)

    def keep(self, trainer: Trainer, figure: str, score: float | None) -> None:
        """Save this epoch beside last.ckpt if it is to stay, and note which file need not stay any more."""
        new = self.monitor != SELECTION or self.evaluated == trainer.global_step
        value = f"_{figure.rpartition('/')[2]}={score:.2f}" if new and score is not None else ""
        name = f"epoch={trainer.current_epoch + 1}{value}.ckpt"
        if self.keep_best and value:
            ranked = sorted([*self.ranked, [name, score]], key=lambda pair: -pair[1])  # of equal ones the first
            self.ranked, rest = ranked[: self.keep_best], [file for file, _ in ranked[self.keep_best :]]
            self.dropped = [file for file in rest if file != name and not self.stays(file)]
        if self.stays(name) or [name, score] in self.ranked:
            trainer.save_checkpoint(self.folder / name)

    def stays(self, name: str) -> bool:
        """Whether this is a file of an epoch that is a multiple of keep_every."""
        if not self.keep_every:
            return False
        return int(name[6:].partition("_")[0].partition(".")[0]) % self.keep_every == 0

    def drop(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for name in self.dropped:
                (self.folder / name).unlink(missing_ok=True)

    def save_last(self, trainer: Trainer) -> None:
        self.step = trainer.global_step
        trainer.save_checkpoint(self.folder / LAST)

    def read_back(self, trainer: Trainer) -> None:
        """Open the last checkpoint as its readers will: no run ends successfully with one that does not open."""
        if trainer.is_global_zero and self.step:
            read_checkpoint(self.folder / LAST)

    def on_train_end(self, trainer: Trainer, module: VAEModule) -> None:
        signals.waits = False
        self.read_back(trainer)

    def on_exception(self, trainer: Trainer, module: VAEModule, exception: BaseException) -> None:
        signals.waits = False

    def state_dict(self) -> dict[str, Any]:
        ours = ("best", "step", "ranked", "dropped")
        return {name: getattr(self, name) for name in ours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises UserError if it names a file that is none of this callback's."""
        self.best, self.step = state_dict["best"], state_dict["step"]
        self.ranked = [list(pair) for pair in state_dict.get("ranked", [])]
        self.dropped = list(state_dict.get("dropped", []))
        if not all(len(pair) == 2 and isinstance(pair[1], float) and isfinite(pair[1]) for pair in self.ranked):
            raise UserError(f"the checkpoint's callbacks rank {self.ranked!r:.200}, which are no files with figures")
        for name in [*(pair[0] for pair in self.ranked), *self.dropped]:
            if not re.fullmatch(KEPT, str(name)):
                raise UserError(f"the checkpoint's callbacks name {name!r:.200}, which is no file of a kept epoch")


def require_bound(callbacks: Iterable[Callback], vae: VAE) -> None:
    """Raise ConfigError if best.ckpt would be chosen by figures of relaxed draws, which are no bounds."""
    for part in callbacks:
        if not isinstance(part, Checkpoints) or part.monitor == SELECTION:
            continue
        if vae.posterior.relaxed or vae.posterior.deterministic:
            why = "gradient=relaxed: the ELBO of its training steps is no bound"
            why = "posterior=deterministic: there is no ELBO" if vae.posterior.deterministic else f"posterior.{why}"
            allowed = f"{SELECTION} with {why}"
            raise ConfigError("callbacks.checkpoint.monitor", part.monitor, allowed)


class WholeCheckpoints(TorchCheckpointIO):
    """Save Lightning's checkpoints by `save`: Lightning itself leaves half a file when the disk is full.

    The first one is opened before it gets its name: `torch.save` takes anything, and what reads it takes data alone.
    """

    opened = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content, path = io.BytesIO(), Path(path)
        torch.save(checkpoint, content)
        check = None if self.opened else require_data
        save(path, content.getvalue(), path.with_name(PREVIOUS) if path.name == LAST else None, check)
        self.opened = True

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def require_data(file: Path) -> None:
    """Raise UserError unless a checkpoint can be opened."""
    try:
        read_checkpoint(file)
    except UserError as error:
        raise UserError(
            f"a checkpoint of this run could not be opened again, so it is not saved: {error}. What a callback, an "
            "optimizer or a schedule keeps (its state_dict) must be of numbers, texts and tensors, in lists and dicts"
        ) from error


def newest(run: Run, say: Callable[[str], Any] = log.debug) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is not damaged, with its content; None if the run has saved none. Changes nothing.

    say: is told which are damaged

    Raises:
        UserError: all are damaged; or the newest is whole and cannot be used, as one of another version.
        OSError: it cannot be read, whatever its content is: the one before it must not take its place.
    """
    damaged = []
    for file in (run.checkpoints / LAST, run.checkpoints / PREVIOUS):
        try:
            content = read_checkpoint(file)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged.append(str(error))
            continue
        if content.get("cvae", {}).get("format") != FORMAT:
            raise UserError(f"{file} is of an earlier version of cvae, whose runs cannot go on with this one")
        if "processes" not in content["cvae"]:
            why = "as of a run whose prior was fitted: there is no training to go on with"
            raise UserError(f"{file} has a model alone, {why}")
        for said in damaged:
            say(said)
        return file, content
    if damaged:
        raise UserError("\n".join([*damaged, f"{run}: no checkpoint can be read"]))
    return None


def last_good(run: Run) -> tuple[Path, dict[str, Any]] | None:
    """`newest`, for a run that goes on. A damaged last.ckpt gets another name: else it would take the place of the good
    one before it when the next is saved.
    """
    found, last = newest(run, log.warning), run.checkpoints / LAST
    if found and found[0] != last and last.exists():
        os.replace(last, last.with_name(f"{LAST}.damaged"))
    return found


def epochs_of(content: dict[str, Any]) -> int:
    """How many epochs of training a checkpoint has, an unfinished one not counted.

    Raises:
        UserError: it has no such number.
    """
    try:
        epochs = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except (KeyError, TypeError):
        epochs = None
    if type(epochs) is not int or epochs < 0:
        raise UserError("the checkpoint does not say how many epochs it has")
    return epochs


def last_saved(trainer: L.Trainer, run: Run) -> str:
    """Where the last checkpoint is."""
    saves = next((part for part in trainer.checkpoint_callbacks if isinstance(part, Checkpoints)), None)
    if not saves or not saves.step:
        return "No checkpoint is saved"
    return f"The last checkpoint, {run.checkpoints / LAST}, is of step {saves.step:,}"
