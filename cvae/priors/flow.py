"""A normalizing flow as prior."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.distributions import Distribution
from zuko.flows import NSF

from cvae.checks import positive_int
from cvae.distributions import stable
from cvae.errors import ConfigError
from cvae.priors.prior import Prior


class FlowPrior(Prior):
    """p(z) by an autoregressive neural spline flow (Durkan et al. 2019) from N(0, I); it starts close to N(0, I).

    `log_prob` takes one network pass per transform, a draw finds one dimension after the other. In each dimension the
    splines transform [-5, 5]; outside of it the tails stay those of N(0, 1).

    Args:
        transforms: how many autoregressive transforms; the order of the dimensions is reversed from one to the next
        hidden: units in each of the two hidden layers of each masked network (none is needed for one dimension)
        bins: pieces of each spline

    Raises:
        ConfigError: `transforms` or `hidden` is not a positive integer, or `bins` is not an integer of at least 2.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int] | None = None,
        transforms: int = 3,
        hidden: int = 128,
        bins: int = 8,
    ):
        super().__init__()
        if positive_int("bins", bins) < 2:
            raise ConfigError("bins", bins, "an integer of at least 2")
        positive_int("transforms", transforms)
        hidden_features = [positive_int("hidden", hidden)] * 2
        # For one dimension zuko builds no network, and accepts no options for one.
        options = {"hidden_features": hidden_features} if latent_dim > 1 else {}
        self.flow = NSF(latent_dim, transforms=transforms, bins=bins, **options)
        for transform in self.flow.transform.transforms:
            stable(transform)

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        return self.flow()
