"""Posteriors: features (B, num_features) -> q(z|x), a Distribution with batch (B,) and event (D,)."""

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(mean, diag(exp(logvar))) (Kingma and Welling 2014, eq. 9). Features: mean (D), then log-variance (D)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.num_features = 2 * latent_dim

    def forward(self, features: Tensor) -> Distribution:
        mean, logvar = features.chunk(2, dim=-1)
        return Independent(Normal(mean, (logvar / 2).exp(), validate_args=False), 1, validate_args=False)
