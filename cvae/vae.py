"""The model: a network, a posterior, a prior and a likelihood, and nothing that knows of training."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from cvae.distributions import rsample_and_log_prob
from cvae.likelihoods import Likelihood
from cvae.posteriors import Posterior
from cvae.priors import Prior


class Latent(NamedTuple):
    """One group of latents: K draws for each of B images, with their log-densities in nats.

    z is the draw as p, the decoder and the groups below see it. A hook on its gradient leaves the gradient of log_q
    alone.
    """

    z: Tensor  # (K, B, D)
    log_q: Tensor  # (K, B), log q(z|x) given the groups above
    log_p: Tensor  # (K, B), log p(z) given the groups above
    q: Distribution  # event (D,); batch (B,), or (K, B) where it depends on the draws above
    p: Distribution  # event (D,); batch (), or (K, B) where it depends on the draws above


class Trace(NamedTuple):
    """What a model does with a batch: all that objectives and evaluation know of it.

    The joint densities are the sums over the groups: log q(z|x) = sum of log_q, log p(z) = sum of log_p.
    """

    latents: tuple[Latent, ...]  # the top group first
    px: Distribution  # p(x|z), batch (K, B), event (C, H, W)
    penalties: Mapping[str, Tensor]  # (B,) each: what a part adds to the loss alone, as a codebook's commitment


class VAE(nn.Module):
    """p(z) p(x|z) with an amortized q(z|x) (Kingma and Welling 2014; Rezende et al. 2014).

    With num_classes > 0 it is conditioned on a class label (Sohn et al. 2015): p(z) p(x|z, y) and q(z|x, y). The
    encoder then sees the label as num_classes more image channels, the decoder as num_classes more dimensions of z,
    one-hot.

    Args:
        encoder: x (B, C [+ num_classes], H, W) -> features (B, F)
        posterior: features (B, F) -> q(z|x), batch (B,), event (D,)
        prior: encode -> p(z), event (D,); encode is `infer`, for priors that are made of posteriors
        decoder: z (B, D [+ num_classes]) -> params (B, P, H, W)
        likelihood: params (..., P, H, W) -> p(x|z), event (C, H, W)
        num_classes: how many classes, 0 for a model without labels
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: Posterior,
        prior: Prior,
        decoder: nn.Module,
        likelihood: Likelihood,
        num_classes: int = 0,
    ):
        super().__init__()
        self.encoder, self.posterior, self.prior = encoder, posterior, prior
        self.decoder, self.likelihood, self.num_classes = decoder, likelihood, num_classes

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int = 1, score: bool = True) -> Trace:
        """Draws of z for images x (B, C, H, W) in [0, 1] with labels y (B,), and their log-densities under q and p.

        With score=False the gradient of log_q reaches the encoder through the draws alone (Roeder et al. 2017).

        Raises:
            ValueError: y is missing, or given to a model without classes. x is not checked: that would wait for the
                device.
        """
        self._check(y)
        q, p = self.infer(self._labelled(x, y)), self.p_z()
        z, log_q = rsample_and_log_prob(q, (samples,), score)  # (K, B, D), (K, B)
        z = z.view_as(z)  # a tensor of its own, so that hooks on it do not reach log_q
        return Trace((Latent(z, log_q, p.log_prob(z), q, p),), self._likelihood_of(z, y), {})

    def infer(self, inputs: Tensor) -> Distribution:
        """q(z|x) from what the encoder reads, images with the planes of their labels: (B, C [+ num_classes], H, W)."""
        return self.posterior(full_precision(self.encoder(inputs)))

    def p_z(self) -> Distribution:
        """p(z): batch (), event (D,). Keep it if you need it twice: a VampPrior encodes its pseudo-inputs each time."""
        return self.prior(self.infer)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z|x) for x (B, C, H, W) in [0, 1] and labels y (B,): batch (B,), event (D,).

        Raises:
            ValueError: x is not in [0, 1], or y is missing, or given to a model without classes.
        """
        self._check(y)
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError(f"x must be in [0, 1], it goes from {x.min():g} to {x.max():g}: divide grey levels by 255")
        return self.infer(self._labelled(x, y))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z) for z (..., B, D) and labels y (B,): batch (..., B), event (C, H, W).

        Raises:
            ValueError: y is missing, or given to a model without classes.
        """
        self._check(y)
        return self._likelihood_of(z, y)

    @torch.no_grad()
    def sample(self, num: int, y: Tensor | None = None) -> Tensor:
        """Means of p(x|z), in [0, 1], for `num` draws of z from the prior and labels y (num,): (num, C, H, W)."""
        return self.decode(self.p_z().sample((num,)), y).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Means of p(x|z), in [0, 1], for one draw of z from q(z|x) an image: (B, C, H, W)."""
        return self.decode(self.encode(x, y).sample(), y).mean

    def labels(self, y: Tensor) -> Tensor | None:
        """The labels y of a batch if this model has classes, else None: what its methods take."""
        return y if self.num_classes else None

    def _labelled(self, x: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return x
        planes = F.one_hot(y, self.num_classes).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, planes], 1)  # (B, C + num_classes, H, W)

    def _likelihood_of(self, z: Tensor, y: Tensor | None) -> Distribution:
        batch = z.shape[:-1]
        if y is not None:
            z = torch.cat([z, F.one_hot(y, self.num_classes).to(z.dtype).expand(*batch, -1)], -1)
        params = full_precision(self.decoder(z.reshape(-1, z.shape[-1])))  # (prod(batch), P, H, W)
        return self.likelihood(params.unflatten(0, batch))

    def _check(self, y: Tensor | None) -> None:
        if y is None and self.num_classes:
            raise ValueError("this VAE is conditioned on the class label: give y (B,), the labels of the images")
        if y is not None and not self.num_classes:
            raise ValueError("this VAE knows no classes (conditional=false): leave y out")


def full_precision(t: Tensor) -> Tensor:
    """What a network computed under trainer.precision=bf16-mixed or 16-mixed as float32: densities need its digits."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
