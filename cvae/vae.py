"""The model: a network, a posterior, a prior and a likelihood, and nothing that knows of training."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


class VAE(nn.Module):
    """p(z) p(x|z) with an amortized q(z|x) (Kingma and Welling 2014; Rezende et al. 2014).

    Args:
        encoder: x (B, C, H, W) -> features (B, F)
        posterior: features (B, F) -> q(z|x), batch (B,), event (D,)
        prior: () -> p(z), event (D,)
        decoder: z (B, D) -> params (B, P, H, W)
        likelihood: params (..., P, H, W) -> p(x|z), event (C, H, W)
    """

    def __init__(self, encoder: nn.Module, posterior: nn.Module, prior: nn.Module, decoder: nn.Module, likelihood: nn.Module):
        super().__init__()
        self.encoder, self.posterior, self.prior = encoder, posterior, prior
        self.decoder, self.likelihood = decoder, likelihood

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) for x (B, C, H, W) in [0, 1]: batch (B,), event (D,)."""
        return self.posterior(self.encoder(x))

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z) for z (..., D): batch (...), event (C, H, W). Leading dimensions are folded into one for the decoder."""
        params = self.decoder(z.reshape(-1, z.shape[-1]))  # (prod(...), P, H, W)
        return self.likelihood(params.unflatten(0, z.shape[:-1]))

    @torch.no_grad()
    def sample(self, num: int) -> Tensor:
        """Means of p(x|z), in [0, 1], for `num` draws of z from the prior: (num, C, H, W)."""
        return self.decode(self.prior().sample((num,))).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Means of p(x|z), in [0, 1], for one draw of z from q(z|x) an image: (B, C, H, W)."""
        return self.decode(self.encode(x).sample()).mean
