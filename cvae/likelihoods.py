"""Likelihoods: params (..., P, H, W) -> p(x|z), a Distribution with event (C, H, W)."""

from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions import Bernoulli as BernoulliDistribution


class Bernoulli(nn.Module):
    """p(x|z) = prod Bernoulli(x_i; sigmoid(logit_i)), for images of zeros and ones. Params: one logit a pixel (C, H, W)."""

    describes = ("binary",)  # the kinds of data whose log-probability this is

    def __init__(self, image_shape):
        super().__init__()
        self.num_params = image_shape[0]

    def forward(self, params: Tensor) -> Distribution:
        return Independent(BernoulliDistribution(logits=params, validate_args=False), 3, validate_args=False)
