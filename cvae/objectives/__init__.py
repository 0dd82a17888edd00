"""Objectives: from a model and a batch to named per-example terms in nats. The caller takes the mean over the batch.

Examples:
    >>> import torch
    >>> from cvae.likelihoods import Bernoulli
    >>> from cvae.models import VAE
    >>> from cvae.networks import mlp
    >>> from cvae.posteriors import DiagonalGaussian
    >>> from cvae.priors import StandardNormal
    >>> encoder, decoder = mlp((1, 8, 8), latent_dim=2, num_features=4, num_params=1)
    >>> vae = VAE(encoder, DiagonalGaussian(2), StandardNormal(2), decoder, Bernoulli((1, 8, 8)))
    >>> x = torch.rand(5, 1, 8, 8).round()
    >>> terms = ELBO()(vae, x)
    >>> terms.loss.shape
    torch.Size([5])
    >>> torch.equal(terms.elbo, -terms.rate - terms.distortion)
    True
    >>> with torch.no_grad():
    ...     wide = IWAE(samples=50)(vae, x)
    >>> bool(wide.bound.mean() > wide.elbo.mean())  # the importance-weighted bound is the tighter one
    True
"""

from cvae.objectives.aae import AAE
from cvae.objectives.autoencoder import RAE, Autoencoder
from cvae.objectives.beta_tcvae import BetaTCVAE
from cvae.objectives.capacity import Capacity
from cvae.objectives.dip_vae import DIPVAE
from cvae.objectives.elbo import ELBO
from cvae.objectives.factor_vae import FactorVAE
from cvae.objectives.infovae import InfoVAE
from cvae.objectives.iwae import IWAE
from cvae.objectives.miwae import CIWAE, MIWAE, PIWAE
from cvae.objectives.perceptual_gan import PerceptualGAN
from cvae.objectives.renyi import Renyi
from cvae.objectives.terms import Objective, Terms, penalized
from cvae.objectives.vae_gan import VAEGAN
from cvae.objectives.wae import WAE

__all__ = [
    "AAE", "CIWAE", "DIPVAE", "ELBO", "IWAE", "MIWAE", "PIWAE", "RAE", "VAEGAN", "WAE", "Autoencoder", "BetaTCVAE",
    "Capacity", "FactorVAE", "InfoVAE", "Objective", "PerceptualGAN", "Renyi", "Terms",
    "penalized",
]  # fmt: skip
