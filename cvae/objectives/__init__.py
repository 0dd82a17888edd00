"""Objectives: from a model and a batch to named per-example terms in nats. The caller takes the mean over the batch."""

from cvae.objectives.autoencoder import RAE, Autoencoder
from cvae.objectives.beta_tcvae import BetaTCVAE
from cvae.objectives.capacity import Capacity
from cvae.objectives.dip_vae import DIPVAE
from cvae.objectives.elbo import ELBO
from cvae.objectives.factor_vae import FactorVAE
from cvae.objectives.infovae import InfoVAE
from cvae.objectives.iwae import IWAE
from cvae.objectives.miwae import CIWAE, MIWAE, PIWAE
from cvae.objectives.renyi import Renyi
from cvae.objectives.terms import Objective, Terms
from cvae.objectives.wae import WAE

__all__ = [
    "CIWAE", "DIPVAE", "ELBO", "IWAE", "MIWAE", "PIWAE", "RAE", "WAE", "Autoencoder", "BetaTCVAE", "Capacity",
    "FactorVAE", "InfoVAE", "Objective", "Renyi", "Terms",
]  # fmt: skip
