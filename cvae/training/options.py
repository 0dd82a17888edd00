"""Check values that go straight to libraries: the libraries' own errors would not name the key."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cvae.build import make
from cvae.checks import number, one_of, positive_int, positive_number, seed_number
from cvae.data import ImageData
from cvae.errors import ConfigError, UserError
from cvae.runtime.devices import available
from cvae.training.guard import require_exact
from cvae.training.rates import REFUSALS, of_length, schedule

MANY = 10**6 + 3  # steps of a training whose number is not known yet: no share of them is a step or less


def two_decays(key: str, value: Any) -> None:
    """Adam's betas."""
    pair = list(value) if isinstance(value, ListConfig) else value
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(b) in (int, float) and 0 <= b < 1 for b in pair):
        raise ConfigError(key, value, "two numbers, each at least 0 and below 1")


def decay(key: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ConfigError(key, value, "a number of at least 0 and below 1, as 0.999; or null for none")


def or_null(rule: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """The same rule for a key that may also be null."""
    return lambda key, value: None if value is None else rule(key, value)


def some_batches(key: str, value: Any) -> None:
    """A limit of Lightning's: a number of batches, or a share of them."""
    if type(value) not in (int, float) or value <= 0 or (type(value) is float and value > 1):
        raise ConfigError(
            key, value, "a positive integer (batches) or a number above 0 and at most 1 (a share of them)"
        )


def share(key: str, value: Any) -> None:
    if type(value) is not float or not 0 < value < 1:
        raise ConfigError(key, value, "a number above 0 and below 1, as 0.3")


def at_least(least: int) -> Callable[[str, Any], Any]:
    """A rule for integers."""

    def rule(key: str, value: Any) -> None:
        if type(value) is not int or value < least:
            raise ConfigError(key, value, f"an integer of at least {least}")

    return rule


def precision(key: str, value: Any) -> None:
    """Weights are always float32: what is saved, measured and compared is."""
    if type(value) not in (int, str) or str(value) not in PRECISIONS:
        raise ConfigError(key, value, "one of 32-true, bf16-mixed, 16-mixed: weights stay in float32")


def strategy(key: str, value: Any) -> None:
    """A name, or an object of a Lightning class, which is checked once it is built."""
    if not isinstance(value, DictConfig) and value not in STRATEGIES:
        raise ConfigError(key, value, "auto or ddp (trainer.devices with a copy of the model each)")


def evaluations_of_an_epoch(key: str, value: Any) -> None:
    """Lightning's val_check_interval: minibatches, a share of the epoch, or a time."""
    if isinstance(value, (str, DictConfig)):  # a time, which Lightning reads
        return
    if type(value) not in (int, float) or value <= 0 or (type(value) is float and value > 1):
        allowed = "a positive integer (minibatches), a number above 0 and at most 1 (of an epoch), or a time"
        raise ConfigError(key, value, allowed)


def steps_or_no_limit(key: str, value: Any) -> None:
    if type(value) is not int or (value != -1 and value < 1):
        raise ConfigError(key, value, "a positive integer, or -1 for no limit")


def time(key: str, value: Any) -> None:
    """As Lightning's Timer takes it, which also takes a mapping, as {hours: 8}."""
    if not isinstance(value, DictConfig) and not (type(value) is str and re.fullmatch(r"\d+(:\d\d){3}", value)):
        raise ConfigError(key, value, "days:hours:minutes:seconds, as 00:08:30:00; or null for no limit")


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")  # Lightning's, the last three its older names
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
FLAG = partial(one_of, allowed=(False, True))

RULES: dict[str, Callable[[str, Any], Any]] = {  # for the keys that a config has; null is checked too
    "seed": seed_number,
    "conditional": FLAG,
    "averaging.decay": or_null(decay),
    "trainer.accelerator": available,
    "trainer.compile": FLAG,
    "trainer.cuda_graphs": FLAG,
    "trainer.precision": or_null(precision),
    "trainer.strategy": strategy,
    "trainer.max_epochs": positive_int,
    "trainer.min_epochs": or_null(positive_int),
    "trainer.min_steps": or_null(positive_int),
    "trainer.accumulate_grad_batches": positive_int,
    "trainer.check_val_every_n_epoch": or_null(positive_int),
    "trainer.val_check_interval": or_null(evaluations_of_an_epoch),
    "trainer.num_sanity_val_steps": or_null(at_least(-1)),
    "trainer.enable_progress_bar": or_null(FLAG),
    "trainer.enable_model_summary": or_null(FLAG),
    "trainer.detect_anomaly": FLAG,
    "trainer.inference_mode": FLAG,
    "trainer.sync_batchnorm": FLAG,
    "trainer.use_distributed_sampler": FLAG,
    "trainer.deterministic": partial(one_of, allowed=(False, True, "warn", None)),
    "trainer.max_steps": steps_or_no_limit,
    "trainer.max_time": or_null(time),
    "trainer.log_every_n_steps": positive_int,
    "trainer.limit_train_batches": some_batches,
    "trainer.limit_val_batches": some_batches,
    "trainer.limit_test_batches": some_batches,
    "trainer.gradient_clip_val": or_null(positive_number),
    "trainer.skip_above": or_null(positive_number),
    "trainer.gradient_clip_algorithm": partial(one_of, allowed=("norm", "value", None)),
    "optimizer.lr": positive_number,
    "optimizer.eps": positive_number,
    "optimizer.weight_decay": number,
    "optimizer.betas": two_decays,
    "optimizer.fused": FLAG,
    "scheduler.interval": partial(one_of, allowed=("epoch", "step")),
    "scheduler.warmup_steps": at_least(0),
    "scheduler.T_max": or_null(positive_int),
    "scheduler.total_steps": or_null(positive_int),
    "scheduler.max_lr": positive_number,
    "scheduler.pct_start": share,
    "scheduler.div_factor": positive_number,
    "scheduler.final_div_factor": positive_number,
    "scheduler.eta_min": number,
    "scheduler.step_size": positive_int,
    "scheduler.gamma": positive_number,
}


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if a value breaks a rule, UserError if the optimizer or the scheduler refuses one."""
    for key, rule in RULES.items():
        group, _, name = key.rpartition(".")
        if name in (cfg.get(group, {}) if group else cfg):
            rule(key, OmegaConf.select(cfg, key))
    new = make(cfg, "optimizer")
    try:
        optimizer = new([{"params": [nn.Parameter(torch.zeros(1))]}])
    except REFUSALS as error:
        raise UserError(f"optimizer: {cfg.optimizer._target_} does not take its values: {error}") from error
    try_schedule(cfg, optimizer)
    if above := cfg.trainer.get("skip_above"):
        require_exact(above, new, cfg.optimizer._target_)


def try_schedule(cfg: DictConfig, optimizer: Optimizer) -> None:
    """Raise UserError if torch refuses a value of the schedule, or if it changes more than learning rates."""
    kind, group = cfg.scheduler._target_, optimizer.param_groups[0]
    epochs = min(cfg.trainer.get("max_epochs") or 1, 1000)
    make_scheduler, stepped = schedule(cfg)
    # How many steps a training has is known when the images are; max_steps can end it before its last epoch.
    known = not stepped["by_step"] and cfg.trainer.get("max_steps") in (None, -1)
    before = {key: value for key, value in group.items() if key != "lr"}
    scheduler = of_length(make_scheduler, optimizer, lambda: epochs if known else MANY, ends=known)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise UserError(
            f"scheduler: {kind} follows a figure; here schedules are functions of the epoch or the step, as "
            "scheduler=constant, cosine, exponential, step and one_cycle are"
        )
    try:
        optimizer.step()  # torch looks at some values only here
        for _ in range(epochs if known else 1):
            scheduler.step()
    except REFUSALS as error:
        raise UserError(f"scheduler: {kind} does not take its values: {error}") from error
    if changed := [key for key, value in before.items() if group[key] is not value]:
        raise UserError(
            f"scheduler: {kind} changes {changed[0]}; here a schedule changes the learning rate alone "
            "(scheduler.cycle_momentum=false)"
        )


def require_batches(cfg: DictConfig, data: ImageData, processes: int = 1) -> None:
    """Raise ConfigError if a process has no image, or a limit of Lightning's does not fit the batches."""
    require_an_image_each(cfg, data, processes)
    loaders = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}
    for name, loader in loaders.items():
        key = f"limit_{name}_batches"
        share, count = cfg.trainer.get(key), len(loader())
        if isinstance(share, float) and int(share * count) == 0:
            raise ConfigError(f"trainer.{key}", share, f"at least {1 / count:.3g}: there are {count} batches")
    most = math.ceil(math.ceil(len(data.train) / processes) / data.batch_size)
    limit, interval = cfg.trainer.get("limit_train_batches"), cfg.trainer.get("val_check_interval")
    most = min(most, limit) if type(limit) is int else int(most * limit) if limit else most
    if type(interval) is int and interval > most and cfg.trainer.get("check_val_every_n_epoch", 1):
        allowed = f"at most {most}, the minibatches of an epoch, unless trainer.check_val_every_n_epoch=null"
        raise ConfigError("trainer.val_check_interval", interval, allowed)


def require_an_image_each(cfg: DictConfig, data: ImageData, processes: int) -> None:
    """Raise ConfigError if a process has no image."""
    for name, images in {"training": data.train, "validation": data.validation, "test": data.test}.items():
        if images and len(images) < processes:
            allowed = f"at most {len(images)} in all: there are {len(images)} {name} images, and each process needs one"
            raise ConfigError("trainer.devices", cfg.trainer.get("devices"), allowed)
