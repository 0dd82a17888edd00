"""What a trained model is measured by."""

from cvae.evaluation.figures import Figure, evaluate

__all__ = ["Figure", "evaluate"]
