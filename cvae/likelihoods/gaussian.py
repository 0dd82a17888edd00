"""The Gaussian likelihood."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from cvae.checks import one_of, positive_number
from cvae.errors import ConfigError
from cvae.likelihoods.likelihood import Likelihood
from cvae.likelihoods.scale import bounded


class Gaussian(Likelihood):
    """p(x|z) = prod N(x_i; mean_i, scale^2), a density.

    Params: mean (C, H, W), then for scale="pixel" log-scale (C, H, W).

    Args:
        scale: the standard deviation for pixels in [0, 1], a number above 0; or "global": one learned number for all
            pixels and images (Rybkin et al. 2021, sigma-VAE); or "pixel": one number a pixel, from the decoder
        mean: "linear": the decoder's output; "sigmoid": the sigmoid of the decoder's output

    Raises:
        ConfigError: an option is not one of these.
    """

    describes = ("levels",)
    is_mass = False

    def __init__(self, image_shape: Sequence[int], scale: float | str = 1.0, mean: str = "linear"):
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
        mean = params
        if self.scale == "pixel":
            mean, log_scale = params.chunk(2, dim=-3)
            scale = bounded(log_scale).exp()
        elif isinstance(self.scale, str):
            scale = bounded(self.log_scale).exp()
        else:  # filled where it is needed: Normal would copy a number to a GPU, and wait for it
            scale = params.new_full((), self.scale)
        mean = mean.sigmoid() if self.mean == "sigmoid" else mean
        return Independent(Normal(mean, scale, validate_args=False), 3, validate_args=False)
