"""The LightningModule: steps, figures and optimizer. It owns no maths."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.trainer.call import _call_callback_hooks
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cvae.models.vae import VAE
from cvae.objectives import Objective, Terms
from cvae.runtime.devices import float32
from cvae.runtime.noise import fixed_noise, seed_step
from cvae.training import restored
from cvae.training.averages import Averages
from cvae.training.engine import Compiled, Trainer, count_step, training_terms
from cvae.training.finite import in_training, require_finite
from cvae.training.gradients import Clip, as_in_first_process, average, sum_over_processes
from cvae.training.graphs import Graphed, capturable
from cvae.training.guard import Guard
from cvae.training.loggers import log_curves
from cvae.training.means import Totals, counted_codes, named, of_training, selection, summed
from cvae.training.rates import Rates, length, of_length


class VAEModule(L.LightningModule):
    """One VAE under one objective.

    Args:
        vae: the model
        objective: (vae, x, y, step) -> Terms
        optimizer: parameter groups -> torch optimizer
        scheduler: torch optimizer -> torch learning rate scheduler
        by_step: whether the scheduler is stepped after each optimizer step, not after each epoch
        skip_above: the norm of a gradient above which a step is left out, see `Guard`
        warmup_steps: in which the learning rates rise to the scheduler's, see `Rates`
        seed: of all noise, which differs by process and, in training alone, by epoch and minibatch
        compile: whether torch.compile makes one program of the terms of a training step
        graphs: whether steps are CUDA graphs
        clip: what is done to the gradients before an optimizer step
        accumulation: epoch -> how many minibatches share an optimizer step
        decay: of the averages of the weights, which then are what is evaluated, see `Averages`; None for none
        watched: whether a callback sees each minibatch, which then is a batch of Lightning's
    """

    automatic_optimization = False  # the module takes the steps itself
    trainer: Trainer
    averages: Averages | None

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        optimizer: Callable,
        scheduler: Callable,
        seed: int = 0,
        compile: bool = False,
        graphs: bool = False,
        clip: Clip | None = None,
        accumulation: Callable[[int], int] = lambda epoch: 1,
        decay: float | None = None,
        watched: bool = True,
        by_step: bool = False,
        warmup_steps: int = 0,
        skip_above: float | None = None,
    ) -> None:
        super().__init__()
        self.training_terms = Compiled(training_terms) if compile else training_terms
        self.graphs, self.clip, self.accumulation, self.watched = graphs, clip, accumulation, watched
        self.decay, self.averages, self.averaged = decay, None, None  # the last: of a checkpoint
        self.share, self.begins, self.ends = 1, True, True  # minibatches of a step; whether this is its first, its last
        self.vae, self.objective, self.seed = vae, objective, seed
        self.make_optimizer, self.scheduler = optimizer, scheduler
        self.by_step, self.warmup_steps = by_step, warmup_steps
        self.guard, self.measured = Guard(skip_above), False  # the latter: whether this step's gradient norm is noted
        self.window, self.epoch, self.evaluation = Totals(), Totals(), Totals()
        self.recent: dict[str, float] = {}  # the means since the last log, for the progress bar
        self.figures: dict[str, float] = {}  # the latest of whole epochs and of evaluations, as metrics.json has them
        self.points: dict[str, int] = {}  # curve -> the optimizer steps made at its last point
        self.sums: dict[str, dict] = {}  # of a checkpoint, for window and epoch
        self.planned: int | None = None  # epochs, when the checkpoint was saved
        self.names: tuple[str, ...] = ()  # of a step's figures
        self.around = ExitStack()  # what is in force during an evaluation
        self.stopping = False  # whether a callback had ended the training when the checkpoint was saved
        self.begun = False  # whether everything that the checkpoint holds is restored

    def configure_optimizers(self) -> tuple[list, list]:
        """One optimizer; a second parameter group where the objective has parameters of its own (a critic)."""
        groups = [list(self.vae.parameters()), list(self.objective.parameters())]
        optimizer = self.make_optimizer([{"params": parameters} for parameters in groups if parameters])
        if self.decay is not None:  # here the model is on its device, also where no step is left
            self.averages = Averages(self.vae, self.decay, self.averaged)
        interval = "step" if self.by_step or self.warmup_steps else "epoch"  # when LearningRateMonitor looks
        return [optimizer], [{"scheduler": self.make_scheduler(optimizer), "interval": interval}]

    def make_scheduler(self, optimizer: Optimizer) -> LRScheduler:
        return of_length(self.scheduler, optimizer, lambda: length(self.trainer, self.accumulation, self.by_step))

    @property
    def optimizer(self) -> Optimizer:
        """The one optimizer, as it is: without Lightning's wrapper."""
        return self.optimizers(use_pl_optimizer=False)  # type: ignore[return-value]

    def terms(self, batch: tuple[Tensor, Tensor]) -> Terms:
        return self.objective(self.vae, batch[0], self.vae.labels(batch[1]), self.global_step)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Train with each minibatch of a batch. Returns the loss for callbacks, if these see single minibatches."""
        data, trainer = self.trainer.datamodule, self.trainer
        self.share, minibatches = self.accumulation(self.current_epoch), list(data.minibatches_of(batch))
        if self.watched:
            trainer.accumulate_grad_batches = self.share  # by this Lightning numbers the points of its callbacks
        with torch.autocast(self.device.type, enabled=False):  # Lightning turns it on for all of this, see `optimize`
            for number, (pixels, y) in enumerate(minibatches, batch_idx * data.minibatches):
                last = trainer.is_last_batch and number % data.minibatches == len(minibatches) - 1
                self.begins, self.ends = number % self.share == 0, last or (number + 1) % self.share == 0
                step = self.before_step(number)
                sums = self.step(pixels, y, step)
                self.window.add_sums(self.names, sums, len(pixels))
                if self.ends:
                    count_step(trainer)
                    self.rates.after_step(step + 1)
                    self.guard.fresh = self.measured
        return (sums[self.names.index("loss")] / len(pixels) / self.share).float() if self.watched else None

    def before_step(self, number: int) -> int:
        """Close a full window, which alone waits for the device; seed a minibatch's noise; return the steps made."""
        trainer, step = self.trainer, self.global_step
        if self.begins and step % trainer.log_every_n_steps == 0:
            self.close_window()
        self.measured = self.graphs or self.guard.wants(step + 1, trainer.log_every_n_steps)
        seed_step(self.seed, self.global_rank, trainer.current_epoch, number, device=self.device)
        return step

    def optimize(self, pixels: Tensor, y: Tensor, step: int | Tensor) -> Tensor:
        """Train with a minibatch: a step, or a part of one. Returns the sums of its figures over the images (figures,).

        What differs from step to step is in the arguments, in the parameters and in the device's random numbers, so
        that a CUDA graph can repeat it.
        """
        optimizer = self.optimizer
        if self.begins:
            self.tell("on_before_zero_grad", optimizer)
            optimizer.zero_grad()
        with self.low_precision():
            loss, terms = self.loss(pixels, y, step)
        loss = self.scaler.scale(loss if self.share == 1 else loss / self.share)
        self.tell("on_before_backward", loss)
        loss.backward()
        if self.ends and self.sum:
            average(optimizer, self.sum)
        self.tell("on_after_backward")
        if self.ends:
            self.scaler.unscale_(optimizer)
            self.tell("on_before_optimizer_step", optimizer)
            if self.measured:
                self.guard.measure(optimizer)
            if self.clip:
                self.clip(optimizer)
            with self.guard.watching(optimizer, self.averages.buffers() if self.averages else ()):
                self.scaler.step(optimizer)
                self.scaler.update()
                if self.averages:
                    self.averages.update(step)
            as_in_first_process(map(self.get_buffer, self.learned))
        self.names, sums = summed(terms)
        return sums

    def tell(self, hook: str, *given: Any) -> None:
        """Call a hook of the callbacks within a step, as Lightning does if it takes the step itself."""
        if self.watched:
            _call_callback_hooks(self.trainer, hook, *given)

    def on_validation_model_zero_grad(self) -> None:
        """Nothing: an evaluation may come between the minibatches of a step."""

    def loss(self, pixels: Tensor, y: Tensor, step: int | Tensor) -> tuple[Tensor, Terms]:
        """What is minimized, for pixels uint8 (B, C, H, W) and labels y (B,), and the terms that it is the mean of."""
        data = self.trainer.datamodule
        x, y = data.as_seen((data.augment(pixels), y))
        terms = self.training_terms(self.objective, self.vae, x, self.vae.labels(y), step)
        return terms.loss.mean(), terms  # the one place where the mean over the batch is taken

    def close_window(self) -> None:
        """Log the means since the last time, add them to the epoch's, and stop the run if they are not finite."""
        if not self.window.count:
            return
        self.require_finite_window()
        self.recent = of_training(self.window.means(), self.vae)
        self.epoch.merge(self.window)
        self.window.reset()
        self.draw_curves(named("train", self.recent) | self.guard.curves())
        if self.rates.change(self.global_step):
            self.draw_rate()

    def draw_rate(self) -> None:
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.draw_curves({"train/lr": self.learning_rate})

    def require_finite_window(self) -> None:
        if bad := self.window.not_finite():
            number, figures = bad
            first = self.global_step + (not self.ends) - math.ceil(len(self.window.sums) / self.share)
            raise in_training(figures, self.current_epoch + 1, first + number // self.share + 1, self.learning_rate)

    def require_finite_weights(self) -> None:
        """Raise NotFinite where the figures or the gradients of the last steps are not finite; waits for the device."""
        self.require_finite_window()
        if not torch.stack([p.detach().isfinite().all() for p in self.parameters()]).all():
            raise in_training({"a gradient": math.nan}, self.current_epoch + 1, self.global_step, self.learning_rate)

    def draw_curves(self, figures: dict[str, float]) -> None:
        """A point of each curve at the number of optimizer steps made, unless it has one there."""
        step = self.global_step
        if new := {name: value for name, value in figures.items() if self.points.get(name) != step}:
            self.points |= dict.fromkeys(new, step)
            log_curves(self.loggers, new, step)

    def keep(self, figures: dict[str, float]) -> None:
        """Keep figures for metrics.json, and for callbacks that monitor one."""
        self.figures |= figures
        self.log_dict(figures, logger=False)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add what resuming needs beside what Lightning saves. Lightning calls it in every process."""
        restored.complete(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore the module as it was when the checkpoint was saved."""
        restored.give_back(checkpoint, self)

    def on_train_start(self) -> None:
        optimizer, precision = self.optimizer, self.trainer.precision_plugin
        self.low_precision = precision.forward_context if isinstance(precision, MixedPrecision) else nullcontext
        self.scaler = getattr(precision, "scaler", None) or torch.amp.GradScaler(enabled=False)
        self.learned = [name for name, _ in self.named_buffers() if name in self.state_dict()]
        if self.planned is not None:  # the training goes on
            restored.take_up(self, optimizer)
        capturable(optimizer, self.graphs or self.guard.decides_on(self.device))
        self.guard.prepare(optimizer)
        self.sum = sum_over_processes(self.trainer.strategy)
        self.step = Graphed(self.optimize, optimizer, self.device, self) if self.graphs else self.optimize
        schedule = self.trainer.lr_scheduler_configs[0].scheduler
        self.rates = Rates(schedule, self.by_step, self.warmup_steps, self.objective.lr_share)
        self.rates.write(self.global_step)
        self.learning_rate = optimizer.param_groups[0]["lr"]
        self.begun = True

    def on_train_epoch_start(self) -> None:
        self.epoch.reset()
        self.draw_rate()

    def on_train_epoch_end(self) -> None:
        if self.trainer.is_last_batch:  # else max_steps or a callback ends the training within an epoch
            self.rates.after_epoch(self.global_step)
        self.close_window()
        figures = named("train_epoch", of_training(self.epoch.means_of_all_processes(), self.vae))
        self.draw_curves(figures := figures | self.guard.of_epoch(self.global_step))
        self.keep(figures)

    def on_train_end(self) -> None:
        self.step = self.optimize  # the memory of CUDA graphs is free for the evaluation

    def on_validation_epoch_start(self) -> None:
        if not self.trainer.testing:
            self.require_finite_weights()
        self.evaluation.reset()
        # The same noise at every evaluation, and training goes on as if there had been none.
        self.codes = self.around.enter_context(counted_codes(self.vae))
        self.around.enter_context(fixed_noise(self.seed + self.global_rank, self.device))
        self.around.enter_context(self.as_evaluated())

    def as_evaluated(self) -> AbstractContextManager[None]:
        """Inside this context the model has the weights that are evaluated: the averages, if there are some."""
        return self.averages.in_use() if self.averages else nullcontext()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with float32(self.device):  # trainer.precision is for training: what is reported is of the model as it is saved
            self.evaluation.add(self.terms(self.trainer.datamodule.as_seen(batch)))

    def on_validation_epoch_end(self) -> None:
        self.around.close()
        split = "validation" if self.trainer.datamodule.validation and not self.trainer.testing else "test"
        means = self.evaluation.means_of_all_processes()
        if self.codes:
            means |= self.codes.figures_of_all_processes()
        require_finite(means, f"{split} set, epoch {self.current_epoch + 1}")
        self.draw_curves(named(split, means))
        self.keep({f"{split}/{name}": value for name, value in means.items()})
        if not self.trainer.testing:
            self.keep(selection(means))

    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step  # measured like the set between epochs
    on_test_epoch_end = on_validation_epoch_end
