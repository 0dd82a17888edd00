"""Rules for values that go straight to libraries, whose own errors would not name the key."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning import Trainer
from torch import nn

from cvae.build import make
from cvae.checks import number, one_of, positive_int, positive_number, seed_number
from cvae.data import ImageData
from cvae.errors import ConfigError, UserError
from cvae.runtime.devices import available


def two_decays(key: str, value: Any) -> None:
    """Adam's betas."""
    pair = list(value) if isinstance(value, ListConfig) else value
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(b) in (int, float) and 0 <= b < 1 for b in pair):
        raise ConfigError(key, value, "two numbers, each at least 0 and below 1")


def or_null(rule: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """The rule, for a key that may be null too."""
    return lambda key, value: None if value is None else rule(key, value)


def some_batches(key: str, value: Any) -> None:
    """A limit of Lightning's: a number of batches, or a share of them."""
    if type(value) not in (int, float) or value <= 0 or (type(value) is float and value > 1):
        raise ConfigError(
            key, value, "a positive integer (batches) or a number above 0 and at most 1 (a share of them)"
        )


def steps_or_no_limit(key: str, value: Any) -> None:
    if type(value) is not int or (value != -1 and value < 1):
        raise ConfigError(key, value, "a positive integer, or -1 for no limit")


REFUSALS = (
    TypeError,
    ValueError,
    RuntimeError,
    ArithmeticError,
    LookupError,
)  # what torch raises for values that it does not take

RULES: dict[str, Callable[[str, Any], Any]] = {  # for the keys that a config has; null is checked too
    "seed": seed_number,
    "conditional": partial(one_of, allowed=(False, True)),
    "trainer.accelerator": available,
    "trainer.compile": partial(one_of, allowed=(False, True)),
    "trainer.cuda_graphs": partial(one_of, allowed=(False, True)),
    "trainer.max_epochs": positive_int,
    "trainer.max_steps": steps_or_no_limit,
    "trainer.log_every_n_steps": positive_int,
    "trainer.limit_train_batches": some_batches,
    "trainer.limit_val_batches": some_batches,
    "trainer.limit_test_batches": some_batches,
    "trainer.gradient_clip_val": or_null(positive_number),
    "trainer.gradient_clip_algorithm": partial(one_of, allowed=("norm", "value", None)),
    "optimizer.lr": positive_number,
    "optimizer.eps": positive_number,
    "optimizer.weight_decay": number,
    "optimizer.betas": two_decays,
    "optimizer.fused": partial(one_of, allowed=(False, True)),
    "scheduler.T_max": positive_int,
    "scheduler.eta_min": number,
    "scheduler.step_size": positive_int,
    "scheduler.gamma": positive_number,
}


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if a value breaks a rule, UserError if the optimizer or the scheduler refuses one."""
    for key, rule in RULES.items():
        group, _, name = key.rpartition(".")
        if name in (cfg[group] if group else cfg):
            rule(key, OmegaConf.select(cfg, key))
    optimizer = tried(cfg, "optimizer", [{"params": [nn.Parameter(torch.zeros(1))]}])
    scheduler = tried(cfg, "scheduler", optimizer)
    try:
        optimizer.step(), scheduler.step()  # torch looks at some values only here
    except REFUSALS as error:
        raise UserError(f"scheduler: {cfg.scheduler._target_} does not take its values: {error}") from error


def require_batches(cfg: DictConfig, data: ImageData) -> None:
    """Raise ConfigError where a limit of Lightning's, a share of the batches, leaves none."""
    loaders = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}
    for name, loader in loaders.items():
        key = f"limit_{name}_batches"
        share, count = cfg.trainer.get(key), len(loader())
        if isinstance(share, float) and int(share * count) == 0:
            raise ConfigError(f"trainer.{key}", share, f"at least {1 / count:.3g}: there are {count} batches")


def require_unscaled(cfg: DictConfig, trainer: Trainer) -> None:
    """Raise ConfigError where gradients are to be clipped that the optimizer unscales only within its step."""
    if trainer.precision == "16-mixed" and cfg.trainer.get("gradient_clip_val") and cfg.optimizer.get("fused"):
        raise ConfigError(
            "optimizer.fused", True, "false with trainer.precision=16-mixed and trainer.gradient_clip_val"
        )


def tried(cfg: DictConfig, group: str, argument: Any) -> Any:
    """The torch object of a group, made of `argument`; UserError where torch refuses its values, such as eps=-1."""
    try:
        return make(cfg, group)(argument)
    except REFUSALS as error:
        raise UserError(f"{group}: {cfg[group]._target_} does not take its values: {error}") from error
