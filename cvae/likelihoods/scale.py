"""A learned scale that stays in a range."""

import torch
from torch import Tensor

MAX_LOG_SCALE = 7.0


def bounded(log_scale: Tensor) -> Tensor:
    """A learned log-scale, kept within ±7 by a tanh that is almost the identity around 0.

    It needs a lower bound because pixels that never change (the black border of a digit) pull a density's scale to 0,
    and so its log_prob to infinity; exp(-7) is well below the distance between two levels, 1/255 (2/255 for pixels from
    -1 to 1). It needs an upper bound because exp(log_scale) overflows. A hard clamp has no gradient outside its range,
    so a scale that got there would never come back; a tanh has one.
    """
    return MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE)
