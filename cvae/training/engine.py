"""Around a training step: how many minibatches Lightning hands over at once, accumulation, torch.compile, counting."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint, GradientAccumulationScheduler, ModelCheckpoint, Timer
from pytorch_lightning.plugins import MixedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from cvae.data import ImageData
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives import Objective, Terms
from cvae.training.gpus import devices
from cvae.training.graphs import on_device

log = logging.getLogger(__name__)

MINIBATCHES = 10  # of a step of Lightning's loop, which takes about 1 ms itself

# Keys of the trainer that are ours, not Lightning's.
OURS = (
    "compile", "cuda_graphs", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "skip_above",
    "max_time",
)  # fmt: skip

# What a callback may do with a single minibatch.
WATCHING = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)

# Keys of the trainer by which Lightning counts the steps of its own loop.
COUNTING = ("limit_train_batches", "overfit_batches", "val_check_interval", "max_steps", "min_steps", "fast_dev_run")


def for_lightning(cfg: DictConfig) -> DictConfig:
    """The config without the trainer's keys that are ours."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    for key in OURS:
        cfg.trainer.pop(key, None)
    if "devices" in cfg.trainer:
        cfg.trainer.devices = devices(cfg.trainer)
    return cfg


def minibatches_of_a_step(options: Mapping[str, Any], watched: bool) -> int:
    """MINIBATCHES, or 1 if Lightning counts minibatches or a callback sees each. Results are the same.

    options: the trainer's
    """
    return 1 if watched or any(options.get(key) not in (None, -1) for key in COUNTING) else MINIBATCHES


def watches_minibatches(callback: L.Callback) -> bool:
    """Whether a callback acts on single minibatches. One with `steps_are_enough` says that it does not."""
    if isinstance(callback, ModelCheckpoint):
        return bool(callback._every_n_train_steps or callback._train_time_interval)
    if isinstance(callback, Checkpoint | Timer) or getattr(callback, "steps_are_enough", False):
        return False
    return any(getattr(type(callback), name) is not getattr(L.Callback, name) for name in WATCHING)


def require_own_step(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Raise ConfigError for settings by which Lightning would change a step: our loop would ignore them silently."""
    strategy, given = trainer.strategy, cfg.trainer.get("strategy")
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
        raise ConfigError("trainer.strategy", given, "auto or ddp: trainer.devices have a copy of the model each")
    if isinstance(strategy, DDPStrategy) and (strategy._ddp_comm_hook or strategy._ddp_comm_state):
        raise ConfigError(
            "trainer.strategy", given, "one without ddp_comm_hook and ddp_comm_state: gradients are averaged by cvae"
        )
    if type(trainer.precision_plugin) not in (Precision, MixedPrecision):
        raise ConfigError("trainer.plugins", cfg.trainer.get("plugins"), "without precision: trainer.precision says it")


def accumulation(cfg: DictConfig, callbacks: dict[str, L.Callback]) -> Callable[[int], int]:
    """epoch -> how many minibatches share an optimizer step. Takes Lightning's scheduler of it out of the callbacks.

    Raises:
        ConfigError: it is said twice.
    """
    given = cfg.trainer.get("accumulate_grad_batches")
    for name, part in list(callbacks.items()):
        if isinstance(part, GradientAccumulationScheduler):
            if given not in (None, 1):
                raise ConfigError(
                    "trainer.accumulate_grad_batches", given, f"1 with callbacks.{name}, which sets it by epoch"
                )
            del callbacks[name]
            return part.get_accumulate_grad_batches
    return lambda epoch: given or 1


def training_terms(objective: Objective, vae: VAE, x: Tensor, y: Tensor | None, step: int | Tensor) -> Terms:
    """The objective's terms. Only the loss has a gradient: the figures beside it are for curves."""
    terms = objective(vae, x, y, step)
    parts = {name: part.detach() for name, part in terms.parts.items()}
    bound, rate = (None if part is None else part.detach() for part in (terms.bound, terms.rate))
    return Terms(terms.loss, bound, rate, terms.distortion.detach(), parts)


class Trainer(L.Trainer):
    """Lightning's Trainer, with the attributes that it gets while it is made: for type checkers alone."""

    datamodule: ImageData
    callbacks: list[L.Callback]
    log_every_n_steps: int


class Compiled:
    """`training_terms` by torch.compile; uncompiled if torch cannot compile this model on this machine.

    torch caches compiled programs on disk, so only the first run of a model and batch size waits.
    """

    def __init__(self, terms: Callable[..., Terms]) -> None:
        self.plain = terms
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        self.refusals = (TorchDynamoException, ImportError, OSError)
        # The same random numbers as without. One program for each size: an epoch's last minibatch may be smaller.
        self.compiled: Callable[..., Terms] | None = torch.compile(
            terms, dynamic=False, options={"fallback_random": True}
        )

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


def graphs_of(trainer: L.Trainer, wanted: bool) -> bool:
    """Whether steps can be CUDA graphs: on one GPU, without float16's scaler, which reads a number back each step."""
    one = trainer.world_size == 1 and trainer.strategy.root_device.type == "cuda"
    return wanted and one and trainer.precision != "16-mixed"


def count_step(trainer: L.Trainer) -> None:
    """Count an optimizer step in trainer.global_step, which checkpoints have too."""
    steps = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    steps.increment_ready()
    steps.increment_completed()
