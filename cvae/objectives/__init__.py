"""Objectives: from a model and a batch to named per-example terms in nats. The caller takes the mean over the batch."""

from cvae.objectives.beta_tcvae import BetaTCVAE
from cvae.objectives.elbo import ELBO
from cvae.objectives.infovae import InfoVAE
from cvae.objectives.iwae import IWAE
from cvae.objectives.terms import Objective, Terms

__all__ = ["ELBO", "IWAE", "BetaTCVAE", "InfoVAE", "Objective", "Terms"]
