"""Objectives: (vae, x, y, step) -> Bound, named per-example tensors (B,) in nats.

x (B, C, H, W) images, y (B,) class labels (read only by a conditional VAE), step: how many optimizer steps were made, for
schedules. The mean over the batch is taken by the caller.
"""

from cvae.objectives.beta_tcvae import BetaTCVAE
from cvae.objectives.bound import Bound
from cvae.objectives.elbo import ELBO
from cvae.objectives.infovae import InfoVAE
from cvae.objectives.iwae import IWAE

__all__ = ["ELBO", "IWAE", "BetaTCVAE", "Bound", "InfoVAE"]
