"""A learned scale that stays in a range."""

import torch
from torch import Tensor

MAX_LOG_SCALE = 7.0


def bounded(log_scale: Tensor) -> Tensor:
    """A learned log-scale, smoothly kept in ±7: almost the identity around 0.

    Below, because pixels that never change (the black border of a digit) draw a density's scale to 0 and its log_prob to
    infinity, and a mass's gradient with it: exp(-7) is well below the distance of two levels. Above, because exp(log_scale)
    overflows. Smoothly, because outside a hard clamp the gradient is 0 and a scale that got there stays there.
    """
    return MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE)
