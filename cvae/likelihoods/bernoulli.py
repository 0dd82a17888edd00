"""Likelihoods with one logit a pixel."""

from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent

from cvae import distributions
from cvae.checks import one_of


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
