"""Likelihoods: params (..., P, H, W) -> p(x|z), a Distribution with event (C, H, W), for x = level / 255 in [0, 1].

`describes` are the kinds of data whose log-probability it is: "binary", "levels" (256 grey levels) or "continuous".
`is_mass` says whether log_prob is the log of a probability mass over such data, so that bits per dim mean something; where it
is a density, or a cross-entropy, a number of bits would depend on the unit of the pixels.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal

from cvae.errors import ConfigError, one_of, positive_number

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
