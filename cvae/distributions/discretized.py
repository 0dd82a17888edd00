"""Distributions over 256 grey levels, x = level / 255: a logistic variable, clipped to [0, 255] and rounded.

A level's mass is the difference of the logistic CDF half a level above it and half a level below it. The bin of 0
reaches down to minus infinity and that of 255 up to infinity, so the masses sum to exactly 1 (Salimans et al. 2017,
PixelCNN++, eq. 2 and section 2.1; the discretized logistic of Kingma et al. 2016, "Improved Variational Inference with
Inverse Autoregressive Flow", has bins of 1/256, none of them open). Parameters are for pixels from -1 to 1, as in
PixelCNN++: the first outputs of a network, around 0, then make a wide distribution around mid-grey.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.types import _size


def log_mass(level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(level) in nats, elementwise and broadcast, for levels 0, 1, …, 255.

    For the edges a < b of a bin, in units of the scale,

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)),

    and an open bin has only one of the three factors: that of 0 the first, that of 255 the second. Nothing cancels,
    however far the level is and however narrow or wide its bin. So the difference needs no floor, which would stop the
    gradient.
    """
    inverse_scale = torch.exp(-log_scale)
    below_upper = F.logsigmoid(((level + 0.5) / 127.5 - 1 - mean) * inverse_scale)
    above_lower = F.logsigmoid((mean - ((level - 0.5) / 127.5 - 1)) * inverse_scale)
    width = torch.log(-torch.expm1(inverse_scale / -127.5))
    # Factors of 0 and 1 instead of infinite edges, whose gradient would be infinity times 0.
    not_first, not_last = (level > 0).to(mean.dtype), (level < 255).to(mean.dtype)
    return below_upper * not_last + above_lower * not_first + width * (not_first * not_last)


def clipped_mean(mean: Tensor, log_scale: Tensor) -> Tensor:
    """The mean, in [-1, 1], of a logistic variable clipped to [-1, 1]: the integral of 1 - CDF, minus 1."""
    scale = log_scale.exp()
    return scale * (F.softplus((mean + 1) / scale) - F.softplus((mean - 1) / scale)) - 1


def sample_level(mean: Tensor, log_scale: Tensor) -> Tensor:
    """Draws, clipped and rounded to one of the levels 0, 1, …, 255; mean and log_scale are for pixels from -1 to 1."""
    value = mean + log_scale.exp() * torch.logit(torch.rand_like(mean))
    return (value * 127.5 + 127.5).clamp(0, 255).round()


class DiscretizedLogistic(Distribution):
    """One discretized logistic a pixel. mean (...) and log_scale, broadcast to it, are for pixels from -1 to 1."""

    arg_constraints: ClassVar = {}

    def __init__(self, mean: Tensor, log_scale: Tensor):
        self.location, self.log_scale = mean, log_scale
        super().__init__(mean.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, one number a pixel, for value in [0, 1], rounded to the nearest level."""
        return log_mass((value * 255).round(), self.location, self.log_scale)

    @property
    def mean(self) -> Tensor:
        """In [0, 1], before rounding to a level: within half a level of the mean after it."""
        return (clipped_mean(self.location, self.log_scale) + 1) / 2

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (*sample_shape, ...): levels / 255."""
        return sample_level(self.location.expand(self._extended_shape(sample_shape)), self.log_scale) / 255


class MixtureOfLogistics(Distribution):
    """A mixture of discretized logistics a pixel; its channels share the component (Salimans et al. 2017, PixelCNN++).

    Within a component a channel's mean is linear in the channels before it (section 2.2), for RGB
    p(r, g, b) = sum_k pi_k p_k(r) p_k(g | r) p_k(b | r, g). Batch (...), event (C, H, W).

    Args:
        logits: (..., K, H, W), of the components
        mean: (..., K, C, H, W), for pixels from -1 to 1
        log_scale: (..., K, C, H, W), in the same unit
        coefficients: (..., K, C(C-1)/2, H, W), of channel 0 in 1, of 0 in 2, of 1 in 2, and so on
    """

    arg_constraints: ClassVar = {}

    def __init__(self, logits: Tensor, mean: Tensor, log_scale: Tensor, coefficients: Tensor):
        super().__init__(mean.shape[:-4], mean.shape[-3:], validate_args=False)
        self.logits = logits
        self.means, self.log_scales = mean.unbind(-3), log_scale.unbind(-3)
        # Of grey images there are none, and torch.export cannot read back a file in which nothing is unbound.
        self.coefficients = coefficients.unbind(-3) if coefficients.shape[-3] else ()

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats (...), for value (..., C, H, W) in [0, 1], rounded to the nearest levels."""
        levels = (value * 255).round().unsqueeze(-4)  # (..., 1, C, H, W)
        of_component: Tensor | float = 0.0
        before: list[Tensor] = []
        for level, log_scale in zip(levels.unbind(-3), self.log_scales, strict=True):
            mean = mean_given(before, self.means, self.coefficients)
            of_component = of_component + log_mass(level, mean, log_scale)  # (..., K, H, W)
            before.append(level / 127.5 - 1)
        return (self.logits.log_softmax(-3) + of_component).logsumexp(-3).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        """(..., C, H, W) in [0, 1], before rounding: of each channel, given the mean of the channels before it.

        That is exact as long as no component is clipped at black or white. Where one is clipped, the mean of the
        channels after the first has no closed form, and this is close to it.
        """
        channels: list[Tensor] = []
        for log_scale in self.log_scales:
            mean = mean_given(channels, self.means, self.coefficients)
            channels.append(clipped_mean(mean, log_scale))
        weights = self.logits.softmax(-3)  # (..., K, H, W)
        return torch.stack([((weights * channel).sum(-3) + 1) / 2 for channel in channels], -3)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (*sample_shape, ..., C, H, W): levels / 255."""
        weights = Categorical(logits=self.logits.movedim(-3, -1), validate_args=False)
        component = weights.sample(sample_shape).unsqueeze(-3)  # (*sample_shape, ..., 1, H, W)

        def chosen(maps: Iterable[Tensor]) -> list[Tensor]:
            return [m.expand(*sample_shape, *m.shape).take_along_dim(component, -3) for m in maps]

        means, log_scales, coefficients = map(chosen, (self.means, self.log_scales, self.coefficients))
        levels: list[Tensor] = []
        before: list[Tensor] = []
        for log_scale in log_scales:
            levels.append(sample_level(mean_given(before, means, coefficients), log_scale))
            before.append(levels[-1] / 127.5 - 1)
        return torch.cat(levels, -3) / 255


def mean_given(before: Sequence[Tensor], means: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """Means (..., K, H, W) of the next channel, given those `before` it, each (..., K or 1, H, W) from -1 to 1."""
    channel = len(before)
    mean, first = means[channel], channel * (channel - 1) // 2
    for i, value in enumerate(before):
        mean = mean + coefficients[first + i] * value
    return mean
