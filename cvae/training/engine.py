"""The fast path: several minibatches to one step of Lightning's loop, whose own work is then done once for all."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Checkpoint, GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.plugins import Precision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from cvae.models.vae import VAE
from cvae.objectives import Objective, Terms
from cvae.training.graphs import on_device

log = logging.getLogger(__name__)

MINIBATCHES = 10  # of a step of Lightning's loop, which takes about 1 ms itself

# What a callback may do with a single minibatch.
WATCHING = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


# Keys of the trainer that do not change what a training step is, beside those that choose a device, and those that the
# module sees to. Others may count minibatches or average gradients: then each minibatch is a step of Lightning's loop.
HARMLESS = {
    "_target_", "accelerator", "devices", "strategy", "compile", "cuda_graphs", "max_epochs", "log_every_n_steps",
    "num_sanity_val_steps", "enable_progress_bar", "enable_model_summary", "plugins", "use_distributed_sampler",
    "check_val_every_n_epoch", "limit_val_batches", "limit_test_batches", "deterministic", "benchmark",
    "precision", "gradient_clip_val", "gradient_clip_algorithm",
}  # fmt: skip

Clip = Callable[[Optimizer], Any]  # changes the gradients of the optimizer's parameters


def minibatches_of_a_step(trainer: L.Trainer, options: Iterable[str]) -> int:
    """MINIBATCHES, or 1 where Lightning has to see each one. Both ways give the same results.

    options: the keys that the trainer was made with.
    """
    one_device = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.precision != "16-mixed"
    watched = any(watches_minibatches(callback) for callback in trainer.callbacks)
    return MINIBATCHES if one_device and not watched and HARMLESS.issuperset(options) else 1


def watches_minibatches(callback: L.Callback) -> bool:
    """Whether a callback does something at single minibatches. A callback says itself if whole steps are enough."""
    if isinstance(callback, ModelCheckpoint):
        return bool(callback._every_n_train_steps or callback._train_time_interval)
    if isinstance(callback, GradientAccumulationScheduler):
        return True
    if isinstance(callback, Checkpoint) or getattr(callback, "steps_are_enough", False):
        return False
    return any(getattr(type(callback), name) is not getattr(L.Callback, name) for name in WATCHING)


def training_terms(objective: Objective, vae: VAE, x: Tensor, y: Tensor | None, step: int | Tensor) -> Terms:
    """The objective's terms. Only the loss has a gradient: the figures beside it are for curves."""
    terms = objective(vae, x, y, step)
    parts = {name: part.detach() for name, part in terms.parts.items()}
    return Terms(terms.loss, terms.bound.detach(), terms.rate.detach(), terms.distortion.detach(), parts)


class Compiled:
    """`training_terms` by torch.compile, or as it is where this machine or this model cannot compile it.

    torch keeps what it has compiled in a cache on disk, so only the first run of a model with a batch size waits.
    """

    def __init__(self, terms: Callable[..., Terms]) -> None:
        self.plain = terms
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        self.refusals = (TorchDynamoException, ImportError, OSError)
        # The same random numbers as without. One program for each size: an epoch's last minibatch may be smaller.
        self.compiled = torch.compile(terms, dynamic=False, options={"fallback_random": True})

    def __call__(self, objective: Objective, vae: VAE, x: Tensor, y: Tensor | None, step: int | Tensor) -> Terms:
        if self.compiled is None:
            return self.plain(objective, vae, x, y, step)
        try:  # the step as a tensor: as a number it would be part of the program
            return self.compiled(objective, vae, x, y, on_device(step, x.device))
        except self.refusals as error:
            reason = " ".join(str(error).strip().split("\n\n")[0].split())
            log.warning("trainer.compile=true: training goes on without, since torch cannot compile it: %s", reason)
            self.compiled = None
            return self.plain(objective, vae, x, y, step)


def clipping(precision: Precision, value: float | None, algorithm: str | None) -> Clip | None:
    """How gradients are clipped before an optimizer step; None where value is None. It waits for no device.

    The functions are Lightning's. The module calls them, for the trainer refuses to clip where `training_step` takes
    several optimizer steps, and in bfloat16 it refuses fused optimizers.

    Args:
        value: the largest norm of all gradients together, or with algorithm="value" the largest size of each number in
            them
    """
    if value is None:
        return None
    clip = precision.clip_grad_by_value if algorithm == "value" else precision.clip_grad_by_norm
    return lambda optimizer: clip(optimizer, value)


def take_step(loss: Callable[[], tuple[Tensor, Terms]], optimizer: Optimizer, clip: Clip | None = None) -> Terms:
    """One optimizer step, as Lightning takes it in full precision and in bfloat16, without its hooks."""
    optimizer.zero_grad()
    mean, terms = loss()
    mean.backward()
    if clip:
        clip(optimizer)
    optimizer.step()
    torch.clear_autocast_cache()  # which holds the weights from before the step
    return terms


def graphs_of(trainer: L.Trainer, wanted: bool) -> bool:
    """Whether steps that Lightning does not have to see can be CUDA graphs."""
    return wanted and trainer.strategy.root_device.type == "cuda"


def count_step(trainer: L.Trainer) -> None:
    """Count an optimizer step in trainer.global_step, which checkpoints have too."""
    steps = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    steps.increment_ready()
    steps.increment_completed()
