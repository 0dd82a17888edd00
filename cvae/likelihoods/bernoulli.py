"""Likelihoods with one logit a pixel."""

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent

from cvae import distributions
from cvae.checks import one_of
from cvae.likelihoods.likelihood import Likelihood


class Bernoulli(Likelihood):
    """p(x|z) = prod Bernoulli(x_i; sigmoid(logit_i)), for images of zeros and ones. Params: logits (C, H, W).

    With soft=True it scores grey values too, as keras.io's VAE does: log_prob is then minus their binary cross-entropy.
    That is the expected log-probability of the image's stochastic binarization, and no log-probability of the grey
    image itself.

    Raises:
        ConfigError: `soft` is neither true nor false.
    """

    def __init__(self, image_shape: Sequence[int], soft: bool = False):
        super().__init__()
        one_of("soft", soft, (True, False))
        self.num_params = image_shape[0]
        self.describes = ("binary", "levels") if soft else ("binary",)
        self.is_mass = not soft

    def forward(self, params: Tensor) -> Distribution:
        return Independent(BernoulliDistribution(logits=params, validate_args=False), 3, validate_args=False)


class ContinuousBernoulli(Likelihood):
    """p(x|z) = prod CB(x_i; logit_i), a density on [0, 1] (Loaiza-Ganem and Cunningham 2019). Params: logits (C, H, W).

    This is the soft Bernoulli with the normalizer that makes it a density. It treats grey levels as real numbers.
    """

    describes = ("levels",)
    is_mass = False

    def __init__(self, image_shape: Sequence[int]):
        super().__init__()
        self.num_params = image_shape[0]

    def forward(self, params: Tensor) -> Distribution:
        return Independent(distributions.ContinuousBernoulli(params), 3, validate_args=False)
