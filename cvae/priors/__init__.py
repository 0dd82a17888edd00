"""Priors: () -> p(z), a Distribution with event (D,).

Each is built from latent_dim (D), image_shape (what the encoder reads) and encode, a Module x -> q(z|x); most need D alone.
"""

from cvae.priors.flow import FlowPrior
from cvae.priors.mixture import MixtureOfGaussians
from cvae.priors.standard_normal import StandardNormal
from cvae.priors.vamp import VampPrior

__all__ = ["FlowPrior", "MixtureOfGaussians", "StandardNormal", "VampPrior"]
