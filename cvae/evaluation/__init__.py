"""Measures of a trained model over a set of images.

Examples:
    >>> import torch
    >>> from cvae.likelihoods import Bernoulli
    >>> from cvae.models import VAE
    >>> from cvae.networks import mlp
    >>> from cvae.posteriors import DiagonalGaussian
    >>> from cvae.priors import StandardNormal
    >>> encoder, decoder = mlp((1, 8, 8), latent_dim=2, num_features=4, num_params=1)
    >>> vae = VAE(encoder, DiagonalGaussian(2), StandardNormal(2), decoder, Bernoulli((1, 8, 8))).eval()
    >>> x = torch.rand(20, 1, 8, 8).round()
    >>> figures = evaluate(vae, [(x, None)], Settings(samples=50))
    >>> figures["nll"].unit, figures["nll"].value < -figures["elbo"].value
    ('nats', True)
"""

from cvae.evaluation.measure import Figure, evaluate
from cvae.evaluation.settings import Settings

__all__ = ["Figure", "Settings", "evaluate"]
