"""Posteriors: features (B, num_features) -> q(z|x), a Distribution with batch (B,) and event (D,).

Examples:
    >>> import torch
    >>> posterior = DiagonalGaussian(latent_dim=2)
    >>> posterior.num_features  # what the encoder has to make: the means and the log-variances
    4
    >>> q = posterior(torch.zeros(5, 4))
    >>> q.batch_shape, q.event_shape
    (torch.Size([5]), torch.Size([2]))
    >>> z = q.rsample((10,))  # 10 draws for each of 5 images
    >>> z.shape, q.log_prob(z).shape
    (torch.Size([10, 5, 2]), torch.Size([10, 5]))
"""

from cvae.posteriors.categorical import Categorical
from cvae.posteriors.deterministic import Deterministic
from cvae.posteriors.flow import FlowPosterior
from cvae.posteriors.fsq import FSQ
from cvae.posteriors.gaussian import DiagonalGaussian, FullGaussian
from cvae.posteriors.iaf import IAF
from cvae.posteriors.posterior import Posterior
from cvae.posteriors.power_spherical import PowerSphericalPosterior
from cvae.posteriors.vq import VQ
from cvae.posteriors.wrapped_normal import WrappedNormal

__all__ = [
    "FSQ", "IAF", "VQ", "Categorical", "Deterministic", "DiagonalGaussian", "FlowPosterior", "FullGaussian",
    "Posterior", "PowerSphericalPosterior", "WrappedNormal",
]  # fmt: skip
