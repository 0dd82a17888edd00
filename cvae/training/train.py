"""A training run from its config to its results: assemble, fit, test, evaluate, publish."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy

from cvae.build import build_data, build_vae, make, read_images
from cvae.data import ImageData
from cvae.errors import ConfigError, NotFinite, Stopped, UserError
from cvae.evaluation import Figure, Settings
from cvae.evaluation.report import markdown, report, scalars
from cvae.runs.directory import AVERAGED, LAST, RAW, Run, first_process
from cvae.runs.modelled import remarks
from cvae.runs.small_files import read_config
from cvae.runtime.console import how_to_resume, quiet_libraries
from cvae.runtime.devices import keep_freed_memory, tell_torch_of_no_gpu
from cvae.runtime.noise import fixed_noise
from cvae.training.added import into_run, lightnings_errors, require_callbacks, require_figures, require_launcher
from cvae.training.checkpoints import epochs_of, last_good, last_saved, require_bound
from cvae.training.compatible import require_fit, require_objective
from cvae.training.early_stopping import why_early
from cvae.training.engine import (
    Trainer,
    accumulation,
    for_lightning,
    graphs_of,
    minibatches_of_a_step,
    require_own_step,
    watches_minibatches,
)
from cvae.training.gradients import clipping, without_wrapper
from cvae.training.initial import begin_with
from cvae.training.log_rewind import rewind
from cvae.training.loggers import close, forgiving, log_curves, log_start, log_table
from cvae.training.means import CHOOSING, selection, summed
from cvae.training.module import VAEModule
from cvae.training.options import check, require_batches
from cvae.training.pictures import Pictures
from cvae.training.processes import together
from cvae.training.progress import EpochLines, parameters, say_what_came_of_it
from cvae.training.rates import schedule
from cvae.training.restored import going_on
from cvae.training.same_data import list_data, require_same_data
from cvae.training.signals import REQUEUE, requeue, signals
from cvae.training.time_limit import time_limit

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """The objects of a run."""

    data: ImageData
    module: VAEModule
    trainer: Trainer
    settings: Settings | None  # of the evaluation at the end, None for none


def train(cfg: DictConfig, resume: bool = False) -> float:
    """Train and test as configured, into the run directory; returns the figure that a sweeper maximizes.

    That is the objective's bound on log p(x) (the ELBO, or for IWAE and other bounds their own; nats per image), or of
    an autoencoder minus the loss, on the validation split, or on the test set where there is none.

    Args:
        cfg: the whole config
        resume: go on from the last checkpoint in the run directory, or begin anew where there is none

    Raises:
        UserError: a value or a combination of choices is wrong (before any training), data cannot be had, a figure
            is not finite, or another run is writing into the run directory.
        Stopped: by a signal; what is needed to go on is saved.
    """
    with Run(cfg.run_dir).writing() if first_process() else nullcontext(), signals.handled():
        return train_claimed(cfg, resume)


def train_claimed(cfg: DictConfig, resume: bool) -> float:
    """`train`, once the run directory is claimed."""
    quiet_libraries()
    keep_freed_memory()
    tell_torch_of_no_gpu()
    for line in cfg.get("experiment", {}).get("left_out", []):
        log.info("Left out of the experiment: %s", line)
    parts = assemble(cfg)
    with lightnings_errors(), together(parts.trainer, Run(cfg.run_dir), resume) as part:
        return train_assembled(cfg, parts, resume, part)


def train_assembled(cfg: DictConfig, parts: Parts, resume: bool, part: Callable[[], None]) -> float:
    """`train`, with its parts. Calls `part` where this process needs no others any more."""
    run = Run(cfg.run_dir)
    data, module, trainer, _ = parts
    begin_with(cfg, module.vae, resume)  # here, so that a machine without that run ends the others
    try_a_step(cfg, module, data)
    require_figures(cfg, trainer, module, "validation" if data.validation else "test")
    require_batches(cfg, data, trainer.world_size)
    data.keep_on(trainer.strategy.root_device)
    announce(parts, run)
    checkpoint = go_back(trainer, run) if resume else None
    if trainer.is_global_zero:
        list_data(run, data)
        run.save_config(cfg)  # with what was left to the data, or what was changed for a run that goes on
    status, said = "failed", remarks(read_config(run.config_file), "", RAW if module.decay is None else AVERAGED)
    try:
        if not checkpoint:  # else what was logged then is still there
            log_start(trainer.loggers, cfg)
        with going_on(checkpoint, lambda: module.begun):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        publish(trainer, module)
        metrics = results(parts)
        part()  # no process waits while the first evaluates: on GPUs it would be ended after some minutes
        (selected,) = [metrics.pop(key) for key in CHOOSING.values() if key in metrics]
        if trainer.is_global_zero:
            run.save_metrics(metrics)  # before the evaluation, which can take long
            if parts.settings:
                figures = evaluation(parts, run)
                metrics |= scalars(figures)
                run.save_metrics(metrics)
                log_curves(trainer.loggers, scalars(figures), trainer.global_step)
                log_table(trainer.loggers, markdown(figures, parts.settings, said), trainer.global_step)
        status = "success"
    except Stopped as stop:
        if stop.after_step:
            publish(trainer, module)
        raise Stopped(stop.signum, how_to_go_on(stop, trainer, run), stop.after_step) from stop
    except NotFinite as error:
        raise NotFinite(f"{error} {last_saved(trainer, run)}") from error
    finally:
        close(trainer.loggers, status)
        module.around.close()  # else the noise of an evaluation that failed ends when Python frees it, in another run
    say_what_came_of_it(metrics, run, said)
    return selected


def go_back(trainer: L.Trainer, run: Run) -> Path | None:
    """The checkpoint that the run goes on from, or None; its curves are as they were then.

    Raises:
        UserError: no checkpoint can be read, or it is of no training, or of another number of processes.
    """
    file, content = last_good(run) or (None, {})
    if file and (before := len(content["cvae"]["processes"])) != trainer.world_size:
        raise UserError(
            f"trainer.devices: this run was trained by {before} processes and cannot go on with {trainer.world_size}: "
            "each has its share of the images and its own noise"
        )
    if file and (done := epochs_of(content)) > (trainer.max_epochs or 0):
        raise ConfigError("trainer.max_epochs", trainer.max_epochs, f"at least {done}: so many epochs are done")
    if trainer.is_global_zero:
        rewind(trainer.loggers, content["cvae"]["logs"] if file else None)
        if file:
            log.info("Goes on from %s, after step %s", file, f"{content['global_step']:,}")
        else:
            log.info("No checkpoint was saved: begins anew")
    return file


def publish(trainer: Trainer, module: VAEModule) -> None:
    """Draw the pictures of the run, or of the part that was trained."""
    for part in trainer.callbacks:
        if isinstance(part, Pictures):
            part.publish(trainer, module)


def how_to_go_on(stop: Stopped, trainer: L.Trainer, run: Run) -> str:
    """Say what is saved and how to resume; under SLURM, put the job into its queue again."""
    saved = f" after step {trainer.global_step:,}. {last_saved(trainer, run)}"
    if stop.signum == REQUEUE and trainer.is_global_zero and requeue():
        return f"{saved}. SLURM starts it again"
    return f"{saved}. Resume with: {how_to_resume(run)}"


def assemble(cfg: DictConfig) -> Parts:
    """Build all objects of a run, with every check that needs no images.

    Raises:
        UserError: a value or a combination of choices is wrong.
    """
    check(cfg)
    settings = evaluation_settings(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data, vae = build_data(cfg), build_vae(cfg)
    require_fit(cfg, vae, data)
    added, loggers = make(cfg, "callbacks"), [*map(forgiving, make(cfg, "logger").values())]
    require_callbacks(added, loggers)
    accumulated = accumulation(cfg, added)
    callbacks = [*time_limit(cfg), *into_run(added, Run(cfg.run_dir))]
    require_bound(callbacks, vae)
    saves = any(isinstance(part, L.callbacks.Checkpoint) for part in callbacks)  # else Lightning adds one of its own
    own = {"enable_checkpointing": saves, "default_root_dir": cfg.trainer.get("default_root_dir") or cfg.run_dir}
    trainer = make(for_lightning(cfg), "trainer", logger=loggers, callbacks=callbacks, **own)
    require_launcher(cfg, trainer)
    require_own_step(cfg, trainer)
    if isinstance(trainer.strategy, DDPStrategy):
        without_wrapper(trainer.strategy)
    watched = any(map(watches_minibatches, trainer.callbacks))
    data.minibatches = minibatches_of_a_step(cfg.trainer, watched)
    alike = not watched and all(accumulated(epoch) == 1 for epoch in range(cfg.trainer.get("max_epochs") or 0))
    limit = (cfg.trainer.get(f"gradient_clip_{key}") for key in ("val", "algorithm"))
    options = {
        "seed": cfg.seed, "compile": cfg.trainer.get("compile", False), "accumulation": accumulated, "watched": watched,
        "decay": OmegaConf.select(cfg, "averaging.decay"), "skip_above": cfg.trainer.get("skip_above"),
        "graphs": graphs_of(trainer, alike and cfg.trainer.get("cuda_graphs", False)),
        "clip": clipping(trainer.precision_plugin, *limit),
    }  # fmt: skip
    scheduler, stepped = schedule(cfg)
    objective, optimizer = (make(cfg, name) for name in ("objective", "optimizer"))
    require_objective(cfg, vae, objective)
    module = VAEModule(vae, objective, optimizer, scheduler, **options, **stepped)
    if not trainer.is_global_zero:  # only rank 0 speaks
        logging.getLogger("cvae").setLevel(logging.WARNING)
    return Parts(data, module, trainer, settings)


def evaluation_settings(cfg: DictConfig) -> Settings | None:
    """The settings of the evaluation at the end; None where evaluation.samples is 0."""
    samples = cfg.evaluation.samples
    none = type(samples) is int and samples == 0
    try:
        settings = Settings(**{**cfg.evaluation, "samples": 1 if none else samples}, seed=cfg.seed)
    except ConfigError as error:
        allowed = error.allowed + (", or 0 for no evaluation" if error.key == "samples" else "")
        raise ConfigError(f"evaluation.{error.key}", error.value, allowed) from error
    except TypeError as error:  # a key that there is not
        raise UserError(f"evaluation: {error}; it has {', '.join(field.name for field in fields(Settings))}") from error
    return None if none else settings


def try_a_step(cfg: DictConfig, module: VAEModule, data: ImageData) -> None:
    """Read the images and take the objective's terms of two of them: choices that do not fit fail before training."""
    read_images(cfg, data)
    require_same_data(cfg, data)
    module.objective.prepare(len(data.train))
    with fixed_noise(cfg.seed, torch.device("cpu")), torch.no_grad():
        module.names, _ = summed(module.terms(data.batch("train", range(min(2, len(data.train))))))


def announce(parts: Parts, run: Run) -> None:
    """A line on what is trained on what."""
    data, module, trainer, _ = parts
    sizes = [f"{len(split):,} {name}" for name in ("train", "validation", "test") if (split := getattr(data, name))]
    images = f"{', '.join(sizes)}, binarization {data.binarization}"
    device = trainer.strategy.root_device
    log.info("%s parameters; images: %s; on %s; into %s", f"{parameters(module):,}", images, device, run)
    if device.type == "cuda" and trainer.precision == "32-true" and torch.backends.cudnn.allow_tf32:
        log.info("Training's convolutions round what they read to the 10 bits of TF32; no reported figure does")


def results(parts: Parts) -> dict:
    """The figures of the last epoch and of the test set; a sweeper maximizes the one named in CHOOSING."""
    data, module, trainer, _ = parts
    steps, epochs = trainer.global_step, trainer.current_epoch
    if not steps:
        raise UserError("trainer: its limits leave no time for a step, so nothing is trained")
    trainer.test(module, datamodule=data, verbose=False)
    metrics: dict[str, Any] = dict(module.figures)
    of_test = selection({name: metrics[f"test/{name}"] for name in CHOOSING if f"test/{name}" in metrics})
    metrics = of_test | metrics  # what an epoch was chosen by, or where none was evaluated that of the test
    seconds = [second for part in trainer.callbacks if isinstance(part, EpochLines) for second in part.seconds]
    metrics |= {"train/seconds_per_epoch": seconds, "epochs": epochs, "steps": steps}
    metrics |= {"data": data.fingerprint} if data.fingerprint else {}
    return metrics | why_early(trainer) | {"parameters": parameters(module)}


def evaluation(parts: Parts, run: Run) -> dict[str, Figure]:
    """Evaluate the current model on as many test images as Lightning was told to test."""
    data, module, trainer, settings = parts
    assert settings is not None
    tested = int(sum(trainer.num_test_batches)) * data.eval_batch_size * trainer.world_size
    count = min(tested, len(data.test), settings.images or tested)
    vae = module.vae.to(trainer.strategy.root_device).eval()
    samples = "" if vae.posterior.deterministic else f"{settings.samples} importance samples for each of "
    log.info("Evaluation: %s%s test images", samples, f"{count:,}")
    checkpoint, weights = LAST if trainer.checkpoint_callback else "none", AVERAGED if module.averages else RAW
    with module.as_evaluated():
        return report(vae, data, run, replace(settings, images=count), checkpoint, trainer.global_step, weights)
