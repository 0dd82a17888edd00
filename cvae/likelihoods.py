"""Likelihoods: params (..., P, H, W) -> p(x|z), a Distribution with event (C, H, W), for x = level / 255 in [0, 1].

`describes` are the kinds of data whose log-probability it is: "binary", "levels" (256 grey levels) or "continuous".
`is_mass` says whether log_prob is the log of a probability mass over such data, so that bits per dim mean something; where it
is a density, or a cross-entropy, a number of bits would depend on the unit of the pixels.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal

from cvae import discretized, distributions
from cvae.errors import ConfigError, one_of, positive_int, positive_number

MAX_LOG_SCALE = 7.0


def bounded(log_scale: Tensor) -> Tensor:
    """A learned log-scale, smoothly kept in ±7: almost the identity around 0.

    Below, because pixels that never change (the black border of a digit) draw a density's scale to 0 and its log_prob to
    infinity, and a mass's gradient with it: exp(-7) is well below the distance of two levels. Above, because exp(log_scale)
    overflows. Smoothly, because outside a hard clamp the gradient is 0 and a scale that got there stays there.
    """
    return MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE)


class Bernoulli(nn.Module):
    """p(x|z) = prod Bernoulli(x_i; sigmoid(logit_i)), for images of zeros and ones. Params: one logit a pixel (C, H, W).

    With soft=True also grey values: log_prob is then the binary cross-entropy with them, that is its expectation over a
    stochastic binarization of the image (as keras.io's VAE has it), and no log-probability of the grey image itself.

    Raises:
        ConfigError: `soft` is neither true nor false.
    """

    def __init__(self, image_shape, soft: bool = False):
        super().__init__()
        one_of("soft", soft, (True, False))
        self.num_params = image_shape[0]
        self.describes = ("binary", "levels", "continuous") if soft else ("binary",)
        self.is_mass = not soft

    def forward(self, params: Tensor) -> Distribution:
        return Independent(BernoulliDistribution(logits=params, validate_args=False), 3, validate_args=False)


class Gaussian(nn.Module):
    """p(x|z) = prod N(x_i; mean_i, scale^2), a density. Params: mean (C, H, W), then for scale="pixel" log-scale (C, H, W).

    Args:
        scale: sigma, a number above 0 in units of [0, 1]; or "global": one learned scale for all pixels and images (Rybkin et
            al. 2021, sigma-VAE); or "pixel": one a pixel, from the decoder.
        mean: "linear": the decoder's output is the mean; "sigmoid": its sigmoid is.

    Raises:
        ConfigError: an option is not one of these.
    """

    describes = ("levels", "continuous")
    is_mass = False

    def __init__(self, image_shape, scale: float | str = 1.0, mean: str = "linear"):
        super().__init__()
        if isinstance(scale, str):
            if scale not in ("global", "pixel"):
                raise ConfigError("scale", scale, "a number above 0, or global, or pixel")
            if scale == "global":
                self.log_scale = nn.Parameter(torch.zeros(()))
        else:
            positive_number("scale", scale)
        self.scale, self.mean = scale, one_of("mean", mean, ("linear", "sigmoid"))
        self.num_params = image_shape[0] * (2 if scale == "pixel" else 1)

    def forward(self, params: Tensor) -> Distribution:
        if self.scale == "pixel":
            mean, log_scale = params.chunk(2, dim=-3)
            scale = bounded(log_scale).exp()
        else:
            mean, scale = params, bounded(self.log_scale).exp() if self.scale == "global" else self.scale
        mean = mean.sigmoid() if self.mean == "sigmoid" else mean
        return Independent(Normal(mean, scale, validate_args=False), 3, validate_args=False)


class ContinuousBernoulli(nn.Module):
    """p(x|z) = prod CB(x_i; logit_i), a density on [0, 1] (Loaiza-Ganem and Cunningham 2019). Params: logits (C, H, W).

    It is the soft Bernoulli with the normalizer that makes it a density. Grey levels are taken as numbers in [0, 1], as usual.
    """

    describes = ("levels", "continuous")
    is_mass = False

    def __init__(self, image_shape):
        super().__init__()
        self.num_params = image_shape[0]

    def forward(self, params: Tensor) -> Distribution:
        return Independent(distributions.ContinuousBernoulli(params), 3, validate_args=False)


class DiscretizedLogistic(nn.Module):
    """p(x|z) = prod P(level_i), masses of a logistic variable rounded to 256 levels (Kingma et al. 2016).

    Params: mean (C, H, W), then for scale="pixel" log-scale (C, H, W), both for pixels from -1 to 1.

    Args:
        scale: "global": one learned scale for all pixels and images; "pixel": one a pixel, from the decoder.

    Raises:
        ConfigError: `scale` is neither.
    """

    describes = ("levels",)
    is_mass = True

    def __init__(self, image_shape, scale: str = "global"):
        super().__init__()
        self.scale = one_of("scale", scale, ("global", "pixel"))
        if scale == "global":
            self.log_scale = nn.Parameter(torch.zeros(()))
        self.num_params = image_shape[0] * (2 if scale == "pixel" else 1)

    def forward(self, params: Tensor) -> Distribution:
        mean, log_scale = params.chunk(2, dim=-3) if self.scale == "pixel" else (params, self.log_scale)
        return Independent(discretized.DiscretizedLogistic(mean, bounded(log_scale)), 3, validate_args=False)


class MixtureOfLogistics(nn.Module):
    """p(x|z), a mixture of discretized logistics a pixel, its channels dependent (Salimans et al. 2017, PixelCNN++).

    Params, for each component: log-weight (1), mean (C), log-scale (C), and the coefficients (C(C-1)/2) by which a channel's
    mean follows the channels before it; for pixels from -1 to 1.

    Raises:
        ConfigError: `components` is no positive integer.
    """

    describes = ("levels",)
    is_mass = True

    def __init__(self, image_shape, components: int = 10):
        super().__init__()
        self.components = positive_int("components", components)
        channels = image_shape[0]
        self.parts = [1, channels, channels, channels * (channels - 1) // 2]
        self.num_params = components * sum(self.parts)

    def forward(self, params: Tensor) -> Distribution:
        # Contiguous: in channels_last the maps of one part lie scattered, and each of the many operations on them is slower.
        params = params.contiguous().unflatten(-3, (self.components, -1))  # (..., K, 1 + 2C + C(C-1)/2, H, W)
        logits, mean, log_scale, coefficients = params.split(self.parts, -3)
        return discretized.MixtureOfLogistics(logits.squeeze(-3), mean, bounded(log_scale), coefficients.tanh())
