"""Whether the choices of a config go together, as far as their objects tell."""

import logging

from omegaconf import DictConfig

from cvae.data import OWN, ImageData
from cvae.errors import ConfigError, UserError
from cvae.models.vae import VAE
from cvae.objectives import Objective

KINDS = {"binary": "binary images", "levels": "images of 256 levels"}  # as a message says what `describes` holds

log = logging.getLogger(__name__)


def require_fit(cfg: DictConfig, vae: VAE, data: ImageData) -> None:
    """Raise UserError, naming both keys, unless the likelihood describes such data, and the step can be compiled."""
    describes = vae.likelihood.describes
    if data.kind not in describes:
        raise UserError(
            f"likelihood ({cfg.likelihood._target_}) and data.binarization={cfg.data.binarization} do not fit: this "
            f"likelihood is for {' or '.join(KINDS.get(kind, kind) for kind in describes)}, the data are "
            f"{KINDS.get(data.kind, data.kind)}. Choose another likelihood=, or another data.binarization="
        )
    if cfg.trainer.get("compile") is True and cfg.model.get("checkpointing") is True:
        allowed = "false with trainer.compile=true, which decides by itself what is computed again"
        raise ConfigError("model.checkpointing", True, allowed)
    own = str(cfg.data.get("_target_")).rpartition(".")[2] in OWN
    if own and str(cfg.likelihood._target_).endswith(".Gaussian") and cfg.likelihood.get("scale") == 1:
        wide = "as wide as from black to white, so z tells little and images come out blurred"
        log.info("likelihood.scale=1 is %s. likelihood.scale=global learns it", wide)


def require_objective(cfg: DictConfig, vae: VAE, objective: Objective) -> None:
    """Raise UserError, naming both keys, unless the objective fits posterior and trainer, and trains the prior."""
    if cfg.trainer.get("compile") is True and not objective.compiles:
        allowed = f"false with objective={cfg.objective._target_}, which takes gradients inside a step"
        raise ConfigError("trainer.compile", True, allowed)
    posterior, prior = f"posterior ({cfg.posterior._target_})", f"prior ({cfg.prior._target_})"
    target = f"objective ({cfg.objective._target_})"
    if objective.deterministic not in (None, vae.posterior.deterministic):
        why = (
            "deterministic goes with objective=autoencoder, wae, rae and aae, which ask for no density, and the first "
            "three go with it"
        )
        raise UserError(f"{posterior} and {target} do not fit: posterior={why} alone")
    learns = any(True for _ in vae.prior.parameters())
    if learns and (vae.posterior.deterministic or not objective.trains_prior):
        first = posterior if vae.posterior.deterministic else target
        raise UserError(
            f"{first} and {prior} do not fit: nothing would train this prior. Choose prior=none, or "
            "prior=standard_normal, and fit one afterwards: python -m cvae fit-prior RUN prior=gmm"
        )
