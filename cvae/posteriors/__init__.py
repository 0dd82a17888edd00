"""Posteriors: features (B, num_features) -> q(z|x), a Distribution with batch (B,) and event (D,)."""

from cvae.posteriors.gaussian import DiagonalGaussian, FullGaussian
from cvae.posteriors.iaf import IAF

__all__ = ["IAF", "DiagonalGaussian", "FullGaussian"]
