"""A second VAE as prior."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.types import _size

from cvae.checks import positive_int
from cvae.priors.prior import Prior


class TwoStage(Prior):
    """p(z) = ∫ N(z; f(u), diag(s^2)) N(u; 0, I) du, a VAE of latents (Dai and Wipf 2019, section 4).

    u has as many dimensions as z. Fitted to the aggregate posterior after training, it draws z like those that the
    decoder has learned from. `log_prob` is the importance-weighted estimate with draws of q(u|z) (Burda et al. 2016):
    the density is right on average, its logarithm too low on average, and so are bounds that are made of it.

    f(u) = u + a network of two hidden layers, and so is the mean of q; s is learned. At the start u is used, so that
    fitting does not begin at the place where it is not.

    Args:
        hidden: units in each hidden layer
        samples: draws of u that a density is estimated by

    Raises:
        ConfigError: one of them is not a positive integer.
    """

    def __init__(
        self, latent_dim: int, image_shape: Sequence[int] | None = None, hidden: int = 256, samples: int = 10
    ) -> None:
        super().__init__()
        self.samples = positive_int("samples", samples)
        self.encoder = network(latent_dim, positive_int("hidden", hidden), 2 * latent_dim)
        self.decoder = network(latent_dim, hidden, latent_dim)
        self.log_scale = nn.Parameter(torch.full((latent_dim,), -1.0))

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        return Marginal(self.encoder, self.decoder, self.log_scale.clamp(min=-7).exp(), self.samples)


def network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with ReLUs."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class Marginal(Distribution):
    """z ~ N(u + decoder(u), diag(scale^2)), u ~ N(0, I): batch (), event (D,).

    Args:
        encoder: z (..., D) -> mean - z and log-variance - 2 log(scale) of q(u|z), (..., 2 D)
        decoder: u (..., D) -> (..., D)
        scale: (D,)
        samples: draws of q(u|z) by which `log_prob` estimates the density
    """

    arg_constraints = {}

    def __init__(self, encoder: nn.Module, decoder: nn.Module, scale: Tensor, samples: int) -> None:
        super().__init__(event_shape=scale.shape, validate_args=False)
        self.encoder, self.decoder, self.scale, self.samples = encoder, decoder, scale, samples

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., D) -> (...), in nats: by draws."""
        shift, logvar = self.encoder(z).chunk(2, -1)
        q = normal(z + shift, self.scale * (logvar.clamp(-20, 20) / 2).exp())  # far away it could overflow
        u = q.rsample((self.samples,))
        log_w = self.given(u).log_prob(z) + self.base().log_prob(u) - q.log_prob(u)
        return log_w.logsumexp(0) - math.log(self.samples)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws z (*sample_shape, D)."""
        return self.given(self.base().rsample(sample_shape)).rsample()

    def given(self, u: Tensor) -> Distribution:
        """p(z|u) for u (..., D)."""
        mean = u + self.decoder(u)
        return normal(mean, self.scale.expand_as(mean))

    def base(self) -> Distribution:
        """N(0, I)."""
        return normal(torch.zeros_like(self.scale), torch.ones_like(self.scale))


def normal(mean: Tensor, scale: Tensor) -> Distribution:
    """N(mean, diag(scale^2)) for mean and scale (..., D)."""
    return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)
