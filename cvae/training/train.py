"""Assemble, fit, report."""

import ctypes
import json
import logging
import platform
import warnings
from pathlib import Path

import pytorch_lightning as L
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from cvae.build import build_vae, make
from cvae.checks import is_int, number, one_of, positive_int, positive_number, seed_number
from cvae.errors import ConfigError, UserError
from cvae.evaluation.report import report, scalars
from cvae.files import save
from cvae.noise import fixed_noise
from cvae.training.module import VAEModule
from cvae.training.progress import EpochLines

log = logging.getLogger(__name__)


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for values that go to libraries, whose own errors would not name the key."""
    seed_number("seed", cfg.seed)
    positive_number("optimizer.lr", cfg.optimizer.lr)
    one_of("conditional", cfg.conditional, (False, True))
    positive_int("trainer.max_epochs", cfg.trainer.max_epochs)
    positive_int("trainer.log_every_n_steps", cfg.trainer.log_every_n_steps)
    if cfg.trainer.get("limit_test_batches") == 0:
        raise ConfigError("trainer.limit_test_batches", 0, "above 0: a run ends with the figures of its test set")
    betas = cfg.optimizer.get("betas", ListConfig([0, 0]))
    if (
        not isinstance(betas, ListConfig)
        or len(betas) != 2
        or not all(isinstance(b, (int, float)) and 0 <= b < 1 for b in betas)
    ):
        raise ConfigError("optimizer.betas", betas, "two numbers, each at least 0 and below 1")
    if "T_max" in cfg.scheduler:
        positive_int("scheduler.T_max", cfg.scheduler.T_max)
    number("scheduler.eta_min", cfg.scheduler.get("eta_min", 0))
    try:
        optimizer = make(cfg, "optimizer")([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:  # of a torch optimizer, for values such as betas=[2,3]
        raise UserError(f"optimizer: {cfg.optimizer._target_} does not take its values: {error}") from error
    try:
        scheduler = make(cfg, "scheduler")(optimizer)
        optimizer.step(), scheduler.step()  # torch looks at some values only here
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"scheduler: {cfg.scheduler._target_} does not take its values: {error}") from error
    if not is_int(cfg.evaluation.samples) or cfg.evaluation.samples < 0:
        raise ConfigError("evaluation.samples", cfg.evaluation.samples, "an integer of at least 0; 0: no evaluation")
    positive_int("evaluation.aggregate_images", cfg.evaluation.aggregate_images)
    positive_int("evaluation.chunk", cfg.evaluation.chunk)
    available = {"cpu": True, "auto": True, "gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    accelerator = cfg.trainer.accelerator
    if not available.get(accelerator):
        usable = ", ".join(name for name, there in available.items() if there)
        raise ConfigError(
            "trainer.accelerator", accelerator, f"one that is in this machine: {usable} (try trainer=cpu)"
        )


def train(cfg: DictConfig) -> float:
    """Train and test as configured, into the run directory; returns the figure that a sweeper maximizes.

    That is the ELBO, or for IWAE its bound (nats an image), on the validation split, or on the test set where there is none.
    """
    quiet_libraries()
    keep_freed_memory()
    check(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    vae = build_vae(cfg)
    data = make(cfg, "data")
    if data.kind not in vae.likelihood.describes:
        describes = " or ".join(vae.likelihood.describes)
        raise UserError(
            f"likelihood ({cfg.likelihood._target_}) and data.binarization={cfg.data.binarization} do not fit: this likelihood "
            f"describes {describes} images, the data are {data.kind}. Choose another likelihood=, or another data.binarization="
        )
    module = VAEModule(vae, make(cfg, "objective"), make(cfg, "optimizer"), make(cfg, "scheduler"), cfg.seed)
    callbacks, loggers = list(make(cfg, "callbacks").values()), list(make(cfg, "logger").values())
    saves = any(
        isinstance(callback, L.callbacks.Checkpoint) for callback in callbacks
    )  # else Lightning adds one of its own
    trainer = make(cfg, "trainer", logger=loggers, callbacks=callbacks, enable_checkpointing=saves)
    if trainer.global_rank:  # the first process speaks for all; each draws its own noise
        logging.getLogger("cvae").setLevel(logging.WARNING)
        torch.manual_seed(cfg.seed + trainer.global_rank)
    data.prepare_data()
    data.setup()
    if cfg.objective.get("dataset_size", len(data.train)) != len(data.train):
        allowed = f"{len(data.train)}, the number of training images"
        raise ConfigError("objective.dataset_size", cfg.objective.dataset_size, allowed)
    with fixed_noise(cfg.seed, torch.device("cpu")), torch.no_grad():  # choices that do not fit each other say so now
        module.objective(
            vae, *data.on_after_batch_transfer(data.train.__getitems__(list(range(min(2, len(data.train))))), 0)
        )

    parameters = sum(p.numel() for p in vae.parameters())
    sizes = ", ".join(
        f"{len(split):,} {name}" for name in ("train", "validation", "test") if (split := getattr(data, name))
    )
    log.info(
        "%s parameters; images: %s; on %s; into %s", f"{parameters:,}", sizes, trainer.strategy.root_device, cfg.run_dir
    )
    trainer.fit(module, datamodule=data)

    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    metrics |= trainer.test(module, datamodule=data, verbose=False)[0]
    tested = module.bound({name: metrics[f"test/{name}"] for name in ("elbo", "loss")})
    selection = metrics.pop("selection/bound", tested)
    seconds = [callback.seconds for callback in callbacks if isinstance(callback, EpochLines)]
    metrics |= {
        "train/seconds_per_epoch": sum(seconds, []),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
    }
    metrics["parameters"] = parameters
    if trainer.is_global_zero:
        write = lambda: save(Path(cfg.run_dir) / "metrics.json", json.dumps(metrics, indent=2).encode())
        write()  # before the evaluation, which can take long
        if cfg.evaluation.samples:
            device = trainer.strategy.root_device
            figures = report(vae.to(device).eval(), data, Path(cfg.run_dir), device, **cfg.evaluation, seed=cfg.seed)
            metrics |= scalars(figures)
            write()
        final = {name: value for name, value in metrics.items() if "/" in name and not isinstance(value, list)}
        for logger in loggers:
            logger.log_hyperparams(hyperparameters(cfg), final, trainer.global_step)
    log.info("Test ELBO %.2f nats an image. The run is in %s", metrics["test/elbo"], cfg.run_dir)
    return selection


def hyperparameters(cfg: DictConfig) -> dict:
    """What can differ between two runs, for the HPARAMS tab: the config without paths, callbacks and loggers."""
    shown = OmegaConf.to_container(cfg, resolve=True)
    del shown["data"]["root"]
    return {group: shown[group] for group in shown if group not in ("callbacks", "logger", "run_dir", "evaluation")}


def keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse large blocks that a step frees, as CUDA's allocator does, not to give them back.

    Otherwise the kernel maps and zeroes the same megabytes anew at each step, about a quarter of the CPU time of the
    tutorial's step. Elsewhere (macOS, Windows, musl) nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, in bytes
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def quiet_libraries() -> None:
    """Lightning's hints on devices, workers and other products stay out of the terminal; its warnings of faults stay in."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.utilities._pytree")  # its own use of torch
    hints = (
        ".*does not have many workers.*",  # none are needed: a batch is one indexing operation
        ".*GPU available but not used.*",
        ".*sync_dist=True.*",  # our figures are reduced over the processes already
        ".*smaller than the logging interval.*",  # the rest of an epoch is logged at its end
    )
    for text in hints:
        warnings.filterwarnings("ignore", text)
