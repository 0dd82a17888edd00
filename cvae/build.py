"""From a config, or a run directory, to objects."""

import re
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from cvae.checks import is_int, one_of, positive_int
from cvae.errors import ConfigError, UserError
from cvae.vae import VAE


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
    prior = make(cfg, "prior", latent_dim=latent_dim, image_shape=encoder_input)
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


def load(run: str | Path, checkpoint: str = "last.ckpt", device: str = "cpu") -> VAE:
    """The trained model of a run directory, in eval mode: from the config and the weights that are saved in it.

    Raises:
        FileNotFoundError: `run` has no .hydra/config.yaml or no such checkpoint.
    """
    vae = build_vae(OmegaConf.load(Path(run) / ".hydra" / "config.yaml"))
    weights = torch.load(Path(run) / "checkpoints" / checkpoint, map_location=device, weights_only=True)["state_dict"]
    vae.load_state_dict({name.removeprefix("vae."): value for name, value in weights.items()})
    return vae.to(device).eval()
