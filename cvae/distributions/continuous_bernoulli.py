"""The continuous Bernoulli distribution."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size


class ContinuousBernoulli(Distribution):
    """Elementwise the density exp(logit x) / A on [0, 1], A = (exp(logit) - 1) / logit.

    Defined by Loaiza-Ganem and Cunningham 2019. torch's own class computes with probabilities, and float32 rounds
    sigmoid(±16) to 0 or 1: beyond that its normalizer and its mean stay constant, and the density no longer integrates
    to 1. This class computes with the logits, without such a limit: a = |logit| enters as (1 - exp(-a)) / a, and around
    0 a series replaces that.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, logits: Tensor):
        self.logits = logits
        self._near_0 = logits.abs() < 0.25
        # Where torch.where does not take a branch, the branch must be finite too: in the gradient, 0 times NaN is NaN.
        self._a = torch.where(self._near_0, 1.0, logits.abs())
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, one number a pixel, for value in [0, 1]."""
        square = torch.where(self._near_0, self.logits, 0.0) ** 2
        near = self.logits * (value - 0.5) - square * (1 / 24 - square * (1 / 2880 - square / 181440))
        far = (
            self.logits * (value - (self.logits > 0).to(value.dtype))
            - torch.log(-torch.expm1(-self._a))
            + torch.log(self._a)
        )
        return torch.where(self._near_0, near, far)

    @property
    def mean(self) -> Tensor:
        """In [0, 1]; not sigmoid(logits)."""
        x = torch.where(self._near_0, self.logits, 0.0)
        near = 0.5 + x * (1 / 12 - x**2 * (1 / 720 - x**2 / 30240))
        far = -1 / torch.expm1(-self._a) - 1 / self._a  # for a positive logit
        return torch.where(self._near_0, near, torch.where(self.logits > 0, far, 1 - far))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (*sample_shape, ...) in [0, 1], by the inverse CDF."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        a = logits.abs().clamp(min=1e-6)  # below that it is uniform, to every digit
        falling = -torch.log1p(torch.rand_like(logits) * torch.expm1(-a)) / a  # for a negative logit
        return torch.where(logits > 0, 1 - falling, falling).clamp(0, 1)
