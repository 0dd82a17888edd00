"""A density fitted to the aggregate posterior of a run: the one that is kept in it, or a new one."""

import argparse
import io
from typing import TYPE_CHECKING

from cvae.commands.inputs import BATCH, data_of, said, watched
from cvae.errors import ConfigError, UserError
from cvae.files import save
from cvae.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from cvae.data import ImageData
    from cvae.priors import Prior
    from cvae.vae import VAE

KINDS = ("gmm", "flow")
COMPONENTS = 50  # of the mixture, whose Gaussians have diagonal covariances
ROUNDS = 50  # of fitting, at most


def fitted(kind: str, args: argparse.Namespace, vae: "VAE", step: int) -> "Prior":
    """p(z) of this kind, fitted to one draw of q(z|x) for each training image.

    The density of a checkpoint is kept in the run, under a name of the checkpoint and its step.

    Raises:
        UserError: it is not there yet, and the data are missing; or the file is damaged or another model's.
    """
    import torch

    from cvae.checkpoint import read_checkpoint
    from cvae.distributions import is_discrete
    from cvae.evaluation.fit import fit
    from cvae.noise import fixed_noise

    if is_discrete(vae.p_z()):
        raise ConfigError("--prior", kind, "left out: the latents of this model are codes, which have no density")
    file = Run(args.run).fitted_prior(kind, args.checkpoint, step)
    with fixed_noise(0, torch.device("cpu")):
        prior = unfitted(kind, vae.shapes[0][0])
        if not file.exists():
            z = posterior_draws(vae, data_of(args))
            found = fit(prior, z, watched(range(ROUNDS), f"fitting {kind}", ROUNDS))
            content = io.BytesIO()
            torch.save(prior.state_dict(), content)
            save(file, content.getvalue())
            said(f"{kind} fitted to the aggregate posterior: -log p(z) of draws held out is {found:.2f} nats")
    try:
        prior.load_state_dict(read_checkpoint(file))
    except RuntimeError as error:
        raise UserError(f"{file} does not hold a density for this model; delete it: {error}") from error
    return prior.eval()


def unfitted(kind: str, latent_dim: int) -> "Prior":
    from cvae.evaluation.fit import Standardized
    from cvae.priors import FlowPrior, MixtureOfGaussians

    if kind == "gmm":
        return MixtureOfGaussians(latent_dim, components=COMPONENTS)
    return Standardized(FlowPrior(latent_dim), latent_dim)


def posterior_draws(vae: "VAE", data: "ImageData") -> "Tensor":
    """One draw of q(z|x) for each training image: (N, D)."""
    import torch

    parts = []
    with torch.no_grad():
        batches = torch.arange(len(data.train)).split(BATCH)
        for rows in watched(batches, "encoding", len(batches)):
            x, y = data.batch("train", rows.tolist())
            parts.append(vae.encode(x, vae.labels(y)).sample())
    return torch.cat(parts)
