"""The uniform prior of codes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from cvae.priors.prior import Prior


class UniformCodes(Prior):
    """All codes alike: p = num_codes^-latent_dim, so that an image's codes cost latent_dim log(num_codes) nats."""

    of_codes = True
    logits: Tensor  # (M, C)

    def __init__(self, latent_dim: int, image_shape: Sequence[int] | None, num_codes: int):
        super().__init__()
        self.register_buffer("logits", torch.zeros(latent_dim, num_codes), persistent=False)

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        return Independent(Categorical(logits=self.logits, validate_args=False), 1, validate_args=False)
