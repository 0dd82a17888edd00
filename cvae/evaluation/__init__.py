"""Measures of a trained model over a set of images."""

from cvae.evaluation.measure import Figure, evaluate
from cvae.evaluation.settings import Settings

__all__ = ["Figure", "Settings", "evaluate"]
