"""From a config to objects, from objects to a run directory, and from a run directory back to a model."""

import ctypes
import json
import logging
import platform
import re
import warnings
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from cvae.errors import ConfigError, UserError, is_int, number, one_of, positive_int, positive_number, seed_number
from cvae.files import save
from cvae.vae import VAE

log = logging.getLogger(__name__)


def make(cfg: DictConfig, group: str, **arguments):
    """The object that `cfg[group]` describes. Raises ConfigError, its key named from the root, if a value does not fit."""
    try:
        return instantiate(cfg[group], **arguments)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            found = re.search(r"full_key: (\S+)", str(error))  # of a nested object, as in objective.beta
            place = "data" if cause.key == "image_shape" else found[1] if found else group  # where the user sets it
            raise cause.inside(place) from error
        raise UserError(f"{group}: {cfg[group].get('_target_', group)} does not take its values: {cause}") from error


def build_vae(cfg: DictConfig) -> VAE:
    """The model of a config, untrained. Raises ConfigError if choices do not fit each other or a value is not allowed."""
    latent_dim = positive_int("model.latent_dim", cfg.model.latent_dim)
    channels, height, width = image_shape_of(cfg)
    if cfg.conditional and cfg.data.num_classes is None:
        raise ConfigError("data.num_classes", None, "set to the number of classes with conditional=true")
    num_classes = positive_int("data.num_classes", cfg.data.num_classes) if cfg.conditional else 0
    posterior = make(cfg, "posterior", latent_dim=latent_dim)
    likelihood = make(cfg, "likelihood", image_shape=(channels, height, width))
    encoder_input = (channels + num_classes, height, width)
    encoder, decoder = make(
        cfg,
        "model",
        image_shape=encoder_input,
        latent_dim=latent_dim + num_classes,  # what the decoder reads
        num_features=posterior.num_features,
        num_params=likelihood.num_params,
    )
    prior = make(cfg, "prior", latent_dim=latent_dim, image_shape=encoder_input, encode=nn.Sequential(encoder, posterior))
    vae = VAE(encoder, posterior, prior, decoder, likelihood, num_classes)
    return vae.to(memory_format=torch.channels_last)  # transposed convolutions are faster so, on CPU and GPU


def image_shape_of(cfg: DictConfig) -> tuple[int, int, int]:
    """(C, H, W), or ConfigError unless data.image_shape is three positive integers, C 1 or 3."""
    shape = cfg.data.image_shape
    shape = list(shape) if isinstance(shape, ListConfig) else shape  # list() puts in what it refers to
    if not isinstance(shape, list) or len(shape) != 3 or not all(is_int(size) and size > 0 for size in shape):
        raise ConfigError("data.image_shape", shape, "three positive integers, [channels, height, width]")
    one_of("data.image_shape[0]", shape[0], (1, 3))  # grey or RGB: others have no picture
    return tuple(shape)


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
        raise ConfigError("trainer.accelerator", accelerator, f"one that is in this machine: {usable} (try trainer=cpu)")


def load(run: str | Path, checkpoint: str = "last.ckpt", device: str = "cpu") -> VAE:
    """The trained model of a run directory, in eval mode: from the config and the weights that are saved in it.

    Raises:
        FileNotFoundError: `run` has no .hydra/config.yaml or no such checkpoint.
    """
    vae = build_vae(OmegaConf.load(Path(run) / ".hydra" / "config.yaml"))
    weights = torch.load(Path(run) / "checkpoints" / checkpoint, map_location=device, weights_only=True)["state_dict"]
    vae.load_state_dict({name.removeprefix("vae."): value for name, value in weights.items()})
    return vae.to(device).eval()


def train(cfg: DictConfig) -> float:
    """Train and test as configured, into the run directory; returns the figure that a sweeper maximizes.

    That is the ELBO, or for IWAE its bound (nats an image), on the validation split, or on the test set where there is none.
    """
    import pytorch_lightning as L

    from cvae.callbacks import EpochLines
    from cvae.module import VAEModule
    from cvae.noise import fixed_noise
    from cvae.report import report, scalars

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
    saves = any(isinstance(callback, L.callbacks.Checkpoint) for callback in callbacks)  # else Lightning adds one of its own
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
        module.objective(vae, *data.on_after_batch_transfer(data.train.__getitems__(list(range(min(2, len(data.train))))), 0))

    parameters = sum(p.numel() for p in vae.parameters())
    sizes = ", ".join(f"{len(split):,} {name}" for name in ("train", "validation", "test") if (split := getattr(data, name)))
    log.info("%s parameters; images: %s; on %s; into %s", f"{parameters:,}", sizes, trainer.strategy.root_device, cfg.run_dir)
    trainer.fit(module, datamodule=data)

    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    metrics |= trainer.test(module, datamodule=data, verbose=False)[0]
    tested = module.bound({name: metrics[f"test/{name}"] for name in ("elbo", "loss")})
    selection = metrics.pop("selection/bound", tested)
    seconds = [callback.seconds for callback in callbacks if isinstance(callback, EpochLines)]
    metrics |= {"train/seconds_per_epoch": sum(seconds, []), "epochs": trainer.current_epoch, "steps": trainer.global_step}
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
