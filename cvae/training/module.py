"""The LightningModule: steps, figures and optimizer. It owns no maths."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from cvae.errors import NotFinite
from cvae.models.vae import VAE
from cvae.objectives import Objective, Terms
from cvae.runs.checkpoint import FORMAT
from cvae.runtime.devices import float32
from cvae.runtime.noise import fixed_noise, noise_of
from cvae.training.engine import Clip, Compiled, count_step, take_step, training_terms
from cvae.training.graphs import Graphed
from cvae.training.log_rewind import positions
from cvae.training.loggers import log_curves
from cvae.training.means import CodeCounts, Totals, of_all_processes, summed
from cvae.training.restored import require_optimizer, require_state, require_sums
from cvae.version import VERSION

ADVICE = "Often a smaller optimizer.lr helps."
SELECTION = "selection/bound"  # what the best checkpoint and a sweeper are chosen by


class VAEModule(L.LightningModule):
    """One VAE under one objective.

    Args:
        vae: the model
        objective: (vae, x, y, step) -> Terms
        optimizer: parameter groups -> torch optimizer
        scheduler: torch optimizer -> torch learning rate scheduler, stepped after each epoch
        seed: of the noise: at evaluation, where every epoch is measured with the same draws, and of training, where it
            is a function of the seed, the process, the epoch and the number of the minibatch in it
        minibatches: how many a batch of Lightning's has. With 1 it optimizes; with more `training_step` does
        compile: whether torch.compile makes one program of the terms of a training step
        graphs: whether the steps of several minibatches are CUDA graphs
        clip: what is done to the gradients before an optimizer step
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        optimizer: Callable,
        scheduler: Callable,
        seed: int = 0,
        minibatches: int = 1,
        compile: bool = False,
        graphs: bool = False,
        clip: Clip | None = None,
    ) -> None:
        super().__init__()
        self.training_terms = Compiled(training_terms) if compile else training_terms
        self.automatic_optimization, self.graphs, self.clip = minibatches == 1, graphs, clip
        self.vae, self.objective, self.seed = vae, objective, seed
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.window, self.epoch, self.evaluation = Totals(), Totals(), Totals()
        self.recent: dict[str, float] = {}  # the means since the last log, for the progress bar
        self.figures: dict[str, float] = {}  # the latest of whole epochs and of evaluations, as metrics.json has them
        self.points: dict[str, int] = {}  # curve -> the optimizer steps made at its last point
        self.sums: dict[str, dict] = {}  # of a checkpoint, for window and epoch
        self.planned: int | None = None  # epochs, when the checkpoint was saved
        self.names: tuple[str, ...] = ()  # of a step's figures
        self.begun = False  # whether all that a checkpoint gives back is taken

    def configure_optimizers(self) -> tuple[list, list]:
        """One optimizer; a second parameter group where the objective has parameters of its own (a critic)."""
        groups = [list(self.vae.parameters()), list(self.objective.parameters())]
        optimizer = self.make_optimizer([{"params": parameters} for parameters in groups if parameters])
        return [optimizer], [self.make_scheduler(optimizer)]

    def terms(self, batch: tuple[Tensor, Tensor]) -> Terms:
        x, y = batch
        return self.objective(self.vae, x, self.vae.labels(y), self.global_step)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        if self.automatic_optimization:
            self.before_step(batch_idx)
            loss, terms = self.loss(*batch, self.global_step)
            self.window.add(terms)
            return loss
        data = self.trainer.datamodule
        for number, (levels, y) in enumerate(data.minibatches_of(batch), batch_idx * data.minibatches):
            self.before_step(number)
            sums = self.step(levels, y, self.global_step)
            self.window.add_sums(self.names, sums, len(levels))
            count_step(self.trainer)
        return None

    def before_step(self, number: int) -> None:
        """Close the window if it is full, and seed the noise of minibatch `number` of the epoch."""
        # Within an epoch only this waits for the device, every log_every_n_steps.
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.close_window()
        noise_of(self.seed, self.global_rank, self.current_epoch, number, device=self.device)

    def optimize(self, levels: Tensor, y: Tensor, step: int | Tensor) -> Tensor:
        """Take an optimizer step with a minibatch; returns the sums of its figures over the images (figures,).

        What differs from step to step is in the arguments, in the parameters and in the device's random numbers, so
        that a CUDA graph can repeat it.
        """
        terms = take_step(lambda: self.loss(levels, y, step), self.optimizers(use_pl_optimizer=False), self.clip)
        self.names, sums = summed(terms)
        return sums

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Where each minibatch is a step of Lightning's loop, which calls this before the optimizer's step."""
        if self.clip:
            self.clip(optimizer)

    def loss(self, levels: Tensor, y: Tensor, step: int | Tensor) -> tuple[Tensor, Terms]:
        """What is minimized, for levels uint8 (B, C, H, W) and labels y (B,), and the terms that it is the mean of."""
        data = self.trainer.datamodule
        x, y = data.as_seen((data.augment(levels), y))
        terms = self.training_terms(self.objective, self.vae, x, self.vae.labels(y), step)
        return terms.loss.mean(), terms  # the one place where the mean over the batch is taken

    def close_window(self) -> None:
        """Log the means since the last time, add them to the epoch's, and stop the run if they are not finite."""
        if not self.window.count:
            return
        self.require_finite_window()
        self.recent = self.of_training(self.window.means())
        self.epoch.merge(self.window)
        self.window.reset()
        self.draw_curves(named("train", self.recent))

    def of_training(self, means: dict[str, float]) -> dict[str, float]:
        """The means over training images; of relaxed draws, whose ELBO can lie above log p(x), by other names."""
        if not self.vae.posterior.relaxed:
            return means
        return {name if name == "loss" else f"relaxed_{name}": mean for name, mean in means.items() if name != "bound"}

    def require_finite_window(self) -> None:
        if bad := self.window.not_finite():
            number, figures = bad
            raise self.not_finite(self.global_step - len(self.window.sums) + number + 1, figures)

    def require_finite_weights(self) -> None:
        """Raise NotFinite where the figures or the gradients of the last steps are not finite; waits for the device."""
        self.require_finite_window()
        if not torch.stack([p.detach().isfinite().all() for p in self.parameters()]).all():
            raise self.not_finite(self.global_step, {"a gradient": math.nan})

    def not_finite(self, step: int, figures: dict[str, float]) -> NotFinite:
        """The error of training step `step`, counted from 1."""
        said = ", ".join(f"{name} is {value}" for name, value in figures.items())
        if {"rate", "distortion"} <= figures.keys() and step > 1:
            said += f" (all of them: a gradient of step {step - 1} was not finite, or the step too large)"
        where = f"training, epoch {self.current_epoch + 1}, step {step}, learning rate {self.learning_rate:g}"
        return NotFinite(f"{where}: {said}. {ADVICE}")

    def draw_curves(self, figures: dict[str, float]) -> None:
        """A point of each curve at the number of optimizer steps made, unless it has one there."""
        step = self.global_step
        new = {name: value for name, value in figures.items() if self.points.get(name) != step}
        if new:
            self.points |= dict.fromkeys(new, step)
            log_curves(self.loggers, new, step)

    def keep(self, figures: dict[str, float]) -> None:
        """Take figures up, for metrics.json and for callbacks that watch a figure."""
        self.figures |= figures
        self.log_dict(figures, logger=False)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """What a run needs to go on besides what Lightning saves; called in every process."""
        own = {"window": self.window.state_dict(), "epoch": self.epoch.state_dict()}
        checkpoint["cvae"] = {
            "format": FORMAT,
            "version": VERSION,
            "processes": of_all_processes(own),
            "figures": self.figures,
            "points": self.points,
            "max_epochs": self.trainer.max_epochs,
            "logs": positions(self.loggers) if self.trainer.is_global_zero else [],
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Be as the module was when the checkpoint was saved."""
        require_state(self.trainer, checkpoint)
        saved = checkpoint["cvae"]
        self.figures, self.points = dict(saved["figures"]), dict(saved["points"])
        self.sums, self.planned = saved["processes"][self.global_rank], saved["max_epochs"]

    def on_train_start(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        if self.planned is not None:  # the training goes on
            scheduler = self.trainer.lr_scheduler_configs[0].scheduler
            require_optimizer(optimizer, scheduler, self.make_optimizer, self.make_scheduler)
            require_sums(self.sums, self.names)
        self.learning_rate = optimizer.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            if "capturable" in group:  # here, as a checkpoint may come from another device
                group["capturable"] = self.graphs
        self.step = Graphed(self.optimize, optimizer, self.device) if self.graphs else self.optimize
        if self.sums:  # not before: the module was not yet on its device
            self.window.load_state_dict(self.sums["window"], self.device)
            self.epoch.load_state_dict(self.sums["epoch"], self.device)
        if self.planned not in (None, self.trainer.max_epochs):
            self.schedule_anew()
            self.learning_rate = self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"]
        self.begun = True

    def schedule_anew(self) -> None:
        """The learning rate of this epoch in a run of so many epochs: schedules may depend on their number."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        scheduler = self.make_scheduler(optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")  # the steps in between were taken before
            for _ in range(self.trainer.current_epoch):
                scheduler.step()
        self.trainer.lr_scheduler_configs[0].scheduler = scheduler

    def on_train_epoch_start(self) -> None:
        self.epoch.reset()
        self.learning_rate = self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"]
        self.draw_curves({"train/lr": self.learning_rate})

    def on_train_epoch_end(self) -> None:
        if not self.automatic_optimization:
            self.lr_schedulers().step()
        self.close_window()
        figures = named("train_epoch", self.of_training(self.epoch.means_of_all_processes()))
        self.draw_curves(figures)
        self.keep(figures)

    def on_validation_epoch_start(self) -> None:
        if not self.trainer.testing:
            self.require_finite_weights()
        self.evaluation.reset()
        if self.vae.posterior.num_codes is not None:
            self.codes = CodeCounts()
            self.hook = self.vae.register_forward_hook(self.codes)
        # The same noise at every evaluation, and training goes on as if there had been none.
        self.noise = fixed_noise(self.seed + self.global_rank, self.device)
        self.noise.__enter__()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with float32(self.device):  # trainer.precision is for training: what is reported is of the model as it is saved
            self.evaluation.add(self.terms(self.trainer.datamodule.as_seen(batch)))

    def on_validation_epoch_end(self) -> None:
        self.noise.__exit__(None, None, None)
        split = "validation" if self.trainer.datamodule.validation and not self.trainer.testing else "test"
        means = self.evaluation.means_of_all_processes()
        if self.vae.posterior.num_codes is not None:
            self.hook.remove()
            means |= self.codes.figures_of_all_processes()
        require_finite(means, f"{split} set, epoch {self.current_epoch + 1}")
        self.draw_curves(named(split, means))
        self.keep({f"{split}/{name}": value for name, value in means.items()})
        if not self.trainer.testing:
            self.keep({SELECTION: means["bound"]})

    # The test set at the end is measured like the one between epochs.
    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step
    on_test_epoch_end = on_validation_epoch_end


def named(split: str, means: dict[str, float]) -> dict[str, float]:
    """The figures as curves are called. The bound has none: it is the ELBO, or for IWAE the negative loss."""
    return {f"{split}/{name}": value for name, value in means.items() if name != "bound"}


def require_finite(means: dict[str, float], where: str) -> None:
    """Raise NotFinite, naming the figures, unless all are finite."""
    bad = [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]
    if bad:
        raise NotFinite(f"{where}: {', '.join(bad)}. {ADVICE}")
