"""Build objects from a config or a run directory, and check that the choices of a config fit each other."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from cvae.checks import image_shape, one_of, positive_int
from cvae.data import ImageData
from cvae.data.contents import difference
from cvae.errors import ConfigError, DataError, UserError
from cvae.models.ladder import kind_of
from cvae.models.vae import VAE
from cvae.posteriors import Posterior
from cvae.runs.checkpoint import Budget, read_checkpoint, weights_in
from cvae.runs.directory import LAST, Run
from cvae.runs.trust import PARTS, require_inside, require_parts, root_is_chosen
from cvae.runtime.devices import DEVICES, available

log = logging.getLogger(__name__)

MOVED = {  # what saved configs may call a part, and what it is called today
    "cvae.mnist.MNIST": "cvae.data.mnist.MNIST",
    "cvae.sources.IdxFiles": "cvae.data.idx_files.IdxFiles",
    "cvae.sources.CIFAR10": "cvae.data.cifar10.CIFAR10",
    "cvae.sources.image_folder": "cvae.data.folder.image_folder",
    "cvae.sources.Synthetic": "cvae.data.synthetic.Synthetic",
    "cvae.runtime.vgg.vgg16": "cvae.runs.vgg.vgg16",
}


def make(cfg: DictConfig, group: str, **arguments: Any) -> Any:
    """The object that `cfg[group]` describes, given `arguments` too; of callbacks and loggers {name: object}, without
    those that are null.

    Of a run that the user does not trust only parts of the group are made: see `cvae.runs.trust`.

    Raises:
        ConfigError: a value does not fit; its key is named from the root.
        UserError: anything else that keeps the object from being made.
    """
    if cfg._get_flag("foreign"):
        require_parts(OmegaConf.to_container(cfg), group)
    several = "_target_" not in cfg[group]
    if several and not all(part is None or isinstance(part, DictConfig) for part in cfg[group].values()):
        raise UserError(f"{group}: its file names no class (_target_)")
    try:
        # Plain lists and dicts: OmegaConf's own would end up in what parts save, and no checkpoint with them is opened.
        made = instantiate(cfg[group], _convert_=cfg[group].get("_convert_", "all"), **arguments)
        return {name: part for name, part in made.items() if part is not None} if several else made
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            if cause.key == "image_shape":  # the user sets it with the data, without the planes of the labels
                shape = OmegaConf.select(cfg, "data.image_shape") or cause.value
                raise ConfigError("data.image_shape", resolved(shape), cause.allowed) from error
            found = re.search(r"full_key: (\S+)", str(error))  # of a nested object, as in objective.beta
            raise cause.inside(found[1] if found else group) from error
        if isinstance(cause, UserError):  # data that are missing or damaged
            raise cause from error
        target = cfg[group].get("_target_", group)
        if isinstance(cause, ImportError):
            where = "A file of your own must lie in the folder of --config-dir, or in one of PYTHONPATH"
            raise UserError(f"{group}: {target} cannot be imported. {where}. {cause}") from error
        raise UserError(f"{group}: {target} does not take its values: {cause}") from error


def build_vae(cfg: DictConfig) -> VAE:
    """The model of a config, untrained. That of a run which is not trusted is no larger than its checkpoints.

    Raises:
        ConfigError: choices do not fit each other, or a value is not allowed.
        UserError: a part cannot be made.
    """
    with Budget(Run(cfg.run_dir).checkpoints.glob("*.ckpt")) if cfg._get_flag("foreign") else nullcontext():
        return vae_of_parts(cfg)


def vae_of_parts(cfg: DictConfig) -> VAE:
    """`build_vae`, of any size."""
    latent_dim = positive_int("model.latent_dim", cfg.model.latent_dim)
    channels, height, width = image_shape("data.image_shape", resolved(cfg.data.image_shape))
    num_classes = 0
    if one_of("conditional", cfg.conditional, (False, True)):
        if cfg.data.num_classes is None:
            raise ConfigError("data.num_classes", None, "set to the number of classes with conditional=true")
        num_classes = positive_int("data.num_classes", cfg.data.num_classes)
    posterior = make(cfg, "posterior", latent_dim=latent_dim)
    likelihood = make(cfg, "likelihood", image_shape=(channels, height, width))
    encoder_input = (channels + num_classes, height, width)
    encoder, decoder = make(
        cfg,
        "model",
        image_shape=encoder_input,
        latent_dim=latent_dim * posterior.width + num_classes,  # what the decoder reads
        num_features=posterior.num_features,
        num_params=likelihood.num_params,
    )
    require_same_latents(cfg, posterior)
    codes = {} if posterior.num_codes is None else {"num_codes": posterior.num_codes}
    codes_or_numbers = latent_dim * posterior.quantizers
    prior = make(cfg, "prior", latent_dim=codes_or_numbers, image_shape=encoder_input, **codes)
    vae = kind_of(decoder)(encoder, posterior, prior, decoder, likelihood, num_classes)
    return vae.to(memory_format=torch.channels_last)  # transposed convolutions are faster so, on CPU and GPU


def build_data(cfg: DictConfig) -> ImageData:
    """The data of a config; nothing is read yet.

    What the config leaves open and the model needs is put into cfg: the images' shape as the data have it, and for a
    conditional model the number of classes as the source counts them.

    Raises:
        ConfigError: a value is not allowed.
        DataError: the data are to be asked and the files are missing.
    """
    data = make(cfg, "data")
    if cfg.data.image_shape is None:
        cfg.data.image_shape = list(data.image_shape)
    if cfg.conditional is True and cfg.data.num_classes is None:
        cfg.data.num_classes = data.classes()
    return data


def require_same_latents(cfg: DictConfig, posterior: Posterior) -> None:
    """Raise UserError, naming both keys, unless posterior and prior are both of codes, of a sphere, or of numbers."""
    of_prior = make(cfg, "prior", _partial_=True).func
    of_codes = getattr(of_prior, "of_codes", False)
    both = f"posterior ({cfg.posterior._target_}) and prior ({cfg.prior._target_}) do not fit"
    if of_codes != (posterior.num_codes is not None):
        kinds = {False: "numbers", True: "codes"}
        raise UserError(
            f"{both}: this posterior is of "
            f"{kinds[not of_codes]}, the prior of {kinds[of_codes]}. Of codes are posterior=categorical, fsq "
            "and vq, with prior=uniform and autoregressive; the others are of numbers"
        )
    if getattr(of_prior, "sphere", False) != posterior.sphere:
        raise UserError(f"{both}: posterior=power_spherical and prior=uniform_sphere go with each other alone")
    if getattr(of_prior, "ball", False) and not posterior.curvature:
        raise UserError(f"{both}: prior=wrapped_normal goes with posterior=wrapped_normal alone")
    if cfg.prior._target_.endswith(".NoPrior") and not posterior.deterministic:
        raise UserError(f"{both}: prior=none goes with posterior=deterministic alone, as a rate needs a p(z)")


def resolved(value: Any) -> Any:
    """A list of a config as a plain list, with what it refers to put in."""
    return list(value) if isinstance(value, ListConfig) else value


def saved_config(run: Run) -> DictConfig:
    """The config of a run, in today's words.

    Raises:
        UserError: this is no run directory, or its config is damaged.
    """
    cfg = run.config()
    for node in nodes(cfg):
        if (target := node.get("_target_")) in MOVED:
            node._target_ = MOVED[target]
    if missing := [
        key for key in ("model", "posterior", "prior", "likelihood", "data", "conditional") if key not in cfg
    ]:
        raise UserError(f"{run.config_file} is not the config of a run: it lacks {', '.join(missing)}")
    return cfg


def config_to_go_on(run: Run) -> DictConfig:
    """The config of a run whose training is to go on: of a run that is not trusted, all of it is checked here.

    Raises:
        UserError: as `saved_config`, or the config names what is no part of cvae, or a link leads out of the run.
    """
    cfg = saved_config(run)
    if not run.trust:
        require_inside(run.path, files=True)
        for group in PARTS:
            require_parts(OmegaConf.to_container(cfg), group)
    return cfg


def nodes(cfg: DictConfig) -> list[DictConfig]:
    """A config and all the dictionaries in it."""
    inner = [child for key in cfg if isinstance(child := cfg._get_node(key), DictConfig) and not child._is_none()]
    return [cfg, *(node for child in inner for node in nodes(child))]


def load(
    run: str | Path, checkpoint: str = LAST, device: str = "cpu", trust: bool = False, weights: str | None = None
) -> VAE:
    """The trained model of a run directory, in eval mode: from the config and the weights that are saved in it.

    Examples:
        >>> import cvae
        >>> vae = cvae.load(RUN)  # RUN: a run directory, such as "outputs/tf_tutorial/2026-01-31_12-00-00"
        >>> vae.sample(4).shape
        torch.Size([4, 1, 8, 8])

    Args:
        run: the run directory
        checkpoint: last.ckpt or best.ckpt
        device: the device for the model
        trust: whether the config may name any class or function, which is then called, and not only cvae's own parts:
            only for a run whose maker you trust
        weights: averaged or raw, of a run with averages (averaging.decay); None: the averages where there are some

    Raises:
        UserError: run or checkpoint is missing, damaged or another model's, or the config names what is not of cvae.
    """
    return load_with_step(Run(run, trust), checkpoint, device, weights)[0]


class Loaded(NamedTuple):
    vae: VAE  # in eval mode
    step: int  # how many optimizer steps it has had
    weights: str  # averaged or raw


def load_with_step(run: Run, checkpoint: str, device: str, weights: str | None = None) -> Loaded:
    """The trained model of a checkpoint. Raises as `load` does."""
    available("device", device.partition(":")[0], DEVICES)
    cfg, file = saved_config(run), run.checkpoint(checkpoint)
    content = read_checkpoint(file, device)
    with described(run, "model"):
        vae = build_vae(cfg)
    try:
        found, weights = weights_in(file, content, weights)
        vae.load_state_dict(found)
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{file} does not hold the weights of the model in {run.config_file}: {error}") from error
    if not all(part.isfinite().all() for part in vae.parameters()):
        raise UserError(f"{file} has weights that are no finite numbers, which no training saves")
    return Loaded(vae.to(device).eval(), content.get("global_step", 0), weights)


def load_data(run: Run, root: str | None = None) -> ImageData:
    """The data of a run, read and ready for use.

    Args:
        run: the run
        root: the folder of the data, if it is not the one in the run's config

    Raises:
        UserError: the data are missing or damaged, or the config names what is no part of cvae.
    """
    cfg = saved_config(run)
    if root:
        choose(cfg, "root", root)
    with described(run, "data"):
        data = make(cfg, "data")
        read_images(cfg, data)
        if said := difference(run, cfg.data.get("fingerprint"), data.contents):
            log.warning("%s: %s. Its figures are of others", data.root, said)
    return data


def choose(cfg: DictConfig, key: str, value: str | None) -> None:
    """Let data.root or data.cache be a folder that the user names, whatever the config says."""
    OmegaConf.update(cfg, f"data.{key}", value, force_add=True)
    cfg.data._get_node(key)._set_flag("foreign", False)


def read_images(cfg: DictConfig, data: ImageData) -> None:
    """Fetch files that are missing, and read the images.

    They are fetched only into a folder that the user chose, on the command line or by CVAE_DATA: nothing is written
    where only the config of somebody else's run says so.

    Raises:
        UserError: files are missing or damaged, or a value does not fit the images.
    """
    cache, chosen = cfg.data._get_node("cache") if "cache" in cfg.data else None, root_is_chosen(cfg)
    if cache is not None and cache._get_flag("foreign") and cache._value() != "auto":
        data.source.keeps = False  # images are decoded only into a folder that the user chose, too
    try:
        if chosen:
            data.prepare_data()
        data.setup()
    except DataError as error:
        advice = "" if chosen else "\nNothing is fetched into a folder that only the run names: give it as --data-root"
        raise DataError(f"{error}{advice}") from error


@contextmanager
def described(run: Run, what: str) -> Iterator[None]:
    """Values of any type are in a saved config, and make the parts raise almost anything: a UserError in its place."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{run.config_file} describes no {what}: {type(error).__name__}: {error}") from error
