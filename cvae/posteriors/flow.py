"""A conditional flow as posterior."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.flows import MaskedAutoregressiveTransform
from zuko.transforms import ComposedTransform, MonotonicAffineTransform, MonotonicRQSTransform

from cvae.checks import one_of, positive_int
from cvae.distributions import Flow, Located, scratch, stable
from cvae.errors import ConfigError
from cvae.posteriors.gaussian import diagonal_normal
from cvae.posteriors.posterior import Posterior


class FlowPosterior(Posterior):
    """z = mean + exp(logvar / 2) f_T(... f_1(eps, h) ..., h), eps ~ N(0, I), by zuko's autoregressive transforms f.

    Each f changes every dimension of its input by a monotonic function, whose parameters a masked network computes from
    the dimensions before it and from the context h; the order of the dimensions is reversed from one f to the next. The
    functions are

    - spline: rational-quadratic splines on [-5, 5], the identity outside (Durkan et al. 2019). q(z|x) may have several
      modes.
    - affine: scale and shift (Papamakarios et al. 2017, turned around as Kingma et al. 2016 do), the family of
      `cvae.posteriors.IAF`, whose Gaussian comes before the flow instead of after it.

    A draw together with its log-density takes one network pass per f; `log_prob` of any other z finds one dimension
    after the other, by the work of two. All f start close to the identity, and so does q at the diagonal Gaussian.

    Features: mean (D), then log-variance (D), then h (context). The distribution's `mean` is not E[z]: see `Flow`.

    Args:
        transform: spline or affine
        transforms: how many f
        hidden: units in each of the two hidden layers of each masked network
        context: how many numbers h has
        bins: pieces of each spline

    Raises:
        ConfigError: a value is not allowed: a number is not a positive integer, or `bins` is below 2.
    """

    def __init__(
        self,
        latent_dim: int,
        transform: str = "spline",
        transforms: int = 3,
        hidden: int = 128,
        context: int = 64,
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.sizes = [latent_dim, latent_dim, positive_int("context", context)]
        self.num_features = sum(self.sizes)
        if positive_int("bins", bins) < 2:
            raise ConfigError("bins", bins, "an integer of at least 2")
        functions: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
            "spline": (partial(MonotonicRQSTransform, slope=1e-3), [(bins,), (bins,), (bins - 1,)]),
            "affine": (MonotonicAffineTransform, [(), ()]),
        }
        univariate, shapes = functions[one_of("transform", transform, tuple(functions))]
        orders = [torch.arange(latent_dim), torch.arange(latent_dim).flip(0)]
        options = {"univariate": univariate, "shapes": shapes, "hidden_features": [positive_int("hidden", hidden)] * 2}
        self.transforms = nn.ModuleList(
            stable(MaskedAutoregressiveTransform(latent_dim, context, order=orders[i % 2], **options))
            for i in range(positive_int("transforms", transforms))
        )

    def forward(self, features: Tensor) -> Distribution:
        mean, logvar, context = features.split(self.sizes, dim=-1)
        eps = diagonal_normal(torch.zeros_like(mean), torch.zeros_like(logvar))
        forward = ComposedTransform(  # eps -> z
            *(transform(context) for transform in self.transforms), Located(mean, (logvar / 2).exp(), event_dim=1)
        )
        q = Flow(forward.inv, eps)  # zuko's flows take the inverse, z -> eps
        q.scratch = partial(scratch, self.transforms)
        return q
