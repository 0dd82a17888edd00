"""Posteriors: features (B, num_features) -> q(z|x), a Distribution with batch (B,) and event (D,)."""

from cvae.posteriors.categorical import Categorical
from cvae.posteriors.gaussian import DiagonalGaussian, FullGaussian
from cvae.posteriors.iaf import IAF
from cvae.posteriors.posterior import Posterior

__all__ = ["IAF", "Categorical", "DiagonalGaussian", "FullGaussian", "Posterior"]
