"""A prior fitted to the aggregate posterior of a run."""

import argparse
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cvae.commands.inputs import BATCH, data_of, said, watched
from cvae.errors import ConfigError, UserError
from cvae.runs.directory import Run
from cvae.runs.storage import save

if TYPE_CHECKING:
    from torch import Tensor

    from cvae.data import ImageData
    from cvae.models.vae import VAE
    from cvae.priors import Prior

NUMBERS: dict[str, dict[str, Any]] = {  # what can be fitted to latents that are numbers -> the part, as in a config
    "gmm": {"_target_": "cvae.priors.MixtureOfGaussians", "components": 50},
    "flow": {"_target_": "cvae.priors.Standardized", "prior": {"_target_": "cvae.priors.FlowPrior", "_partial_": True}},
    "two_stage": {
        "_target_": "cvae.priors.Standardized",
        "prior": {"_target_": "cvae.priors.TwoStage", "_partial_": True},
    },
}
CODES: dict[str, dict[str, Any]] = {"autoregressive": {"_target_": "cvae.priors.AutoregressiveCodes"}}  # the same
KINDS = (*NUMBERS, *CODES)
ROUNDS = 50  # of fitting, at most


def fitted(kind: str, args: argparse.Namespace, vae: "VAE", step: int, weights: str) -> "Prior":
    """p(z) of this kind, fitted to one draw of q(z|x) for each training image.

    That of a checkpoint is kept in the run, under a name of the checkpoint, its step and its weights (averaged or raw).

    Raises:
        UserError: it is not there yet, and the data are missing; or the file is damaged or another model's; or it is no
            prior of such latents.
    """
    import torch

    from cvae.evaluation.fit import fit
    from cvae.runs.checkpoint import read_checkpoint
    from cvae.runtime.noise import fixed_noise

    part = part_of(kind, vae, "--prior")
    file = Run(args.run).fitted_prior(kind, args.checkpoint, step, weights)
    with fixed_noise(0, torch.device("cpu")):
        if not file.exists():
            prior = unfitted(part, vae)
            z = posterior_draws(vae, data_of(args))
            found = fit(prior, z, watched(range(ROUNDS), f"fitting {kind}", ROUNDS))
            content = io.BytesIO()
            torch.save(prior.state_dict(), content)
            save(file, content.getvalue())
            said(f"{kind} fitted to the aggregate posterior: -log p(z) of draws held out is {found:.2f} nats")
            say_what_was_kept(part, prior, vae)
    try:
        state = read_checkpoint(file)
        prior = unfitted(of_size(part, state), vae)
        prior.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{file} does not hold a density for this model; delete it: {error}") from error
    return prior.eval()


def part_of(kind: str, vae: "VAE", key: str) -> dict[str, Any]:
    """The part of a config that makes a prior of this kind. Raises ConfigError unless it is one of such latents."""
    if vae.posterior.sphere:
        raise ConfigError(key, kind, "left out: latents on a sphere keep prior=uniform_sphere")
    parts, latents = (NUMBERS, "numbers") if vae.posterior.num_codes is None else (CODES, "codes")
    if kind not in parts:
        raise ConfigError(key, kind, f"{' or '.join(parts)}: the latents of this model are {latents}")
    return parts[kind]


def of_size(part: Mapping[str, Any], weights: Mapping[str, "Tensor"]) -> dict[str, Any]:
    """The part with as many components as the fit has kept."""
    return {**part, "components": len(weights["logits"])} if "components" in part else {**part}


def say_what_was_kept(part: Mapping[str, Any], prior: "Prior", vae: "VAE") -> None:
    """Say so if less was kept or fitted than one might expect: fewer components, or one group of several."""
    if (kept := of_size(part, prior.state_dict())) != part:
        said(f"{kept['components']} of {part['components']} components are kept, as suits draws held out best")
    if vae.groups > 1:
        said(f"Of {vae.groups} groups of latents the top one alone has the fitted prior; those below keep theirs")


def unfitted(part: Mapping[str, Any], vae: "VAE") -> "Prior":
    """The prior that a part of a config describes, of the latents of a model."""
    from omegaconf import OmegaConf

    from cvae.build import make

    codes = {} if vae.posterior.num_codes is None else {"num_codes": vae.posterior.num_codes}
    latent_dim = vae.shapes[0][0] // vae.posterior.width
    return make(OmegaConf.create({"prior": part}), "prior", latent_dim=latent_dim, image_shape=None, **codes)


def posterior_draws(vae: "VAE", data: "ImageData") -> "Tensor":
    """One draw of q(z|x) for each training image, as a prior scores it: z (N, D), or codes (N, M)."""
    import torch

    parts = []
    with torch.no_grad():
        batches = torch.arange(len(data.train)).split(BATCH)
        for rows in watched(batches, "encoding", len(batches)):
            x, y = data.batch("train", rows.tolist(), next(vae.parameters()).device)
            parts.append(vae.posterior.read(vae.encode(x, vae.labels(y)).sample()))
    return torch.cat(parts)
