"""No prior."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions import Unknown
from cvae.priors.prior import Prior


class NoPrior(Prior):
    """No p(z), for codes without noise. Nothing can be drawn before one is fitted (`python -m cvae fit-prior`)."""

    def __init__(self, latent_dim: int, image_shape: Sequence[int] | None = None):
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        return Unknown(self.latent_dim)
