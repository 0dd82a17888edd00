"""Likelihoods of 256 grey levels: logistic variables, rounded to a level."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from cvae import distributions
from cvae.checks import one_of, positive_int
from cvae.likelihoods.likelihood import Likelihood
from cvae.likelihoods.scale import bounded


class DiscretizedLogistic(Likelihood):
    """p(x|z) = prod P(level_i), the masses of a logistic variable rounded to 256 levels.

    Its bins are those of Salimans et al. 2017 (PixelCNN++, section 2.1), open at 0 and 255; scale="global" is as in
    Kingma et al. 2016 (inverse autoregressive flow).

    Params: mean (C, H, W), then for scale="pixel" log-scale (C, H, W), both for pixels from -1 to 1.

    Args:
        scale: "global": one learned scale for all pixels and images; "pixel": one scale a pixel, from the decoder

    Raises:
        ConfigError: `scale` is neither of the two.
    """

    describes = ("levels",)
    is_mass = True

    def __init__(self, image_shape: Sequence[int], scale: str = "global"):
        super().__init__()
        self.scale = one_of("scale", scale, ("global", "pixel"))
        if scale == "global":
            self.log_scale = nn.Parameter(torch.zeros(()))
        self.num_params = image_shape[0] * (2 if scale == "pixel" else 1)

    def forward(self, params: Tensor) -> Distribution:
        mean, log_scale = params.chunk(2, dim=-3) if self.scale == "pixel" else (params, self.log_scale)
        return Independent(distributions.DiscretizedLogistic(mean, bounded(log_scale)), 3, validate_args=False)


class MixtureOfLogistics(Likelihood):
    """p(x|z), a mixture of discretized logistics a pixel, its channels dependent (Salimans et al. 2017, PixelCNN++).

    Params, for each component: log-weight (1), mean (C), log-scale (C), and C(C-1)/2 coefficients, by which a channel's
    mean depends linearly on the channels before it. All are for pixels from -1 to 1; the coefficients go through tanh.

    Args:
        components: how many logistics

    Raises:
        ConfigError: `components` is not a positive integer.
    """

    describes = ("levels",)
    is_mass = True

    def __init__(self, image_shape: Sequence[int], components: int = 10):
        super().__init__()
        self.components = positive_int("components", components)
        channels = image_shape[0]
        self.parts = [1, channels, channels, channels * (channels - 1) // 2]
        self.num_params = components * sum(self.parts)

    def forward(self, params: Tensor) -> Distribution:
        # In channels_last memory the maps of one part lie scattered, which slows down every operation on them.
        params = params.contiguous().unflatten(-3, (self.components, -1))  # (..., K, 1 + 2C + C(C-1)/2, H, W)
        logits, mean, log_scale, coefficients = params.split(self.parts, -3)
        return distributions.MixtureOfLogistics(logits.squeeze(-3), mean, bounded(log_scale), coefficients.tanh())
