"""The model: a network, a posterior, a prior and a likelihood, and nothing that knows of training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution


class VAE(nn.Module):
    """p(z) p(x|z) with an amortized q(z|x) (Kingma and Welling 2014; Rezende et al. 2014).

    With num_classes > 0 it is conditioned on a class label (Sohn et al. 2015): p(z) p(x|z, y) and q(z|x, y). The encoder
    then sees the label as num_classes more image channels, the decoder as num_classes more dimensions of z, one-hot.

    Args:
        encoder: x (B, C [+ num_classes], H, W) -> features (B, F)
        posterior: features (B, F) -> q(z|x), batch (B,), event (D,)
        prior: () -> p(z), event (D,)
        decoder: z (B, D [+ num_classes]) -> params (B, P, H, W)
        likelihood: params (..., P, H, W) -> p(x|z), event (C, H, W)
    """

    def __init__(self, encoder, posterior, prior, decoder, likelihood, num_classes: int = 0):
        super().__init__()
        self.encoder, self.posterior, self.prior = encoder, posterior, prior
        self.decoder, self.likelihood, self.num_classes = decoder, likelihood, num_classes

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z|x) for x (B, C, H, W) in [0, 1] and labels y (B,): batch (B,), event (D,)."""
        if self.num_classes:
            planes = self._one_hot(y, x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])  # (B, classes, H, W)
            x = torch.cat([x, planes], 1)
        return self.infer(x)

    def infer(self, inputs: Tensor) -> Distribution:
        """q(z|x) from what the encoder reads: images with the planes of the label, (B, C [+ num_classes], H, W)."""
        return self.posterior(full_precision(self.encoder(inputs)))

    def p_z(self) -> Distribution:
        """p(z): batch (), event (D,). A VampPrior encodes its pseudo-inputs at each call: keep it where it is used twice."""
        return self.prior(self.infer)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z) for z (..., B, D) and labels y (B,): batch (..., B), event (C, H, W).

        Leading dimensions are folded into one for the decoder.
        """
        batch = z.shape[:-1]
        if self.num_classes:
            one_hot = self._one_hot(y, z.dtype)
            z = torch.cat([z, one_hot.expand(*batch, -1)], -1)
        params = full_precision(self.decoder(z.reshape(-1, z.shape[-1])))  # (prod(batch), P, H, W)
        return self.likelihood(params.unflatten(0, batch))

    @torch.no_grad()
    def sample(self, num: int, y: Tensor | None = None) -> Tensor:
        """Means of p(x|z), in [0, 1], for `num` draws of z from the prior and labels y (num,): (num, C, H, W)."""
        return self.decode(self.p_z().sample((num,)), y).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Means of p(x|z), in [0, 1], for one draw of z from q(z|x) an image: (B, C, H, W)."""
        return self.decode(self.encode(x, y).sample(), y).mean

    def _one_hot(self, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        if y is None:
            raise ValueError("this VAE is conditioned on the class label: give y (B,), the labels of the images")
        return F.one_hot(y, self.num_classes).to(dtype)


def full_precision(t: Tensor) -> Tensor:
    """What a network computed under trainer.precision=bf16-mixed or 16-mixed as float32: densities need its digits."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
