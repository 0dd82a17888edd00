"""Posteriors: features (B, num_features) -> q(z|x), a Distribution with batch (B,) and event (D,)."""

from cvae.posteriors.categorical import Categorical
from cvae.posteriors.deterministic import Deterministic
from cvae.posteriors.fsq import FSQ
from cvae.posteriors.gaussian import DiagonalGaussian, FullGaussian
from cvae.posteriors.iaf import IAF
from cvae.posteriors.posterior import Posterior
from cvae.posteriors.power_spherical import PowerSphericalPosterior
from cvae.posteriors.vq import VQ

__all__ = [
    "FSQ", "IAF", "VQ", "Categorical", "Deterministic", "DiagonalGaussian", "FullGaussian", "Posterior",
    "PowerSphericalPosterior",
]  # fmt: skip
