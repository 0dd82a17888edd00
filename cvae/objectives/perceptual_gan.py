"""An autoencoder for latent diffusion or tokens: a perceptual distance and a critic of patches."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvae.checks import number, positive_int
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives.critic import PatchCritic, fixed
from cvae.objectives.perceptual import HALVINGS, Perceptual
from cvae.objectives.terms import Objective, Terms, only_group, penalized, weigh

MOST = 1e4  # of the adaptive weight


class PerceptualGAN(Objective):
    """distortion + beta rate + perceptual N P + weight lambda G (Esser et al. 2021, eq. 5 to 7, of VQGAN).

    P is a distance of the image from its reconstruction, the mean of p(x|z), in the layers of VGG16 (`Perceptual`). As
    the distortion is a sum over the N numbers of an image, P counts N times. G = -mean D is what a critic D of patches
    says of the reconstruction. D learns by the hinge loss to tell images from reconstructions. lambda makes both parts
    pull equally at the last layer of the decoder, W:

        lambda = |d (distortion + perceptual N P) / dW| / (|d G / dW| + 1e-4), at most 1e4

    Up to optimizer step `start` G does not count. D learns from the first step on: with gradients of 0 until then
    Adam would take far too large steps afterwards. The paper takes the critic's step in turn, and here it is in
    the same backward pass: the model's gradient does not depend on the critic's loss, nor the critic's on the rest.
    Without gradients, as in evaluations, lambda is 1. It cannot be compiled, as lambda takes gradients inside.

    Args:
        image_shape: (C, H, W), C = 1 or 3
        features: VGG16's, as `cvae.runs.vgg.vgg16` gives them
        beta: weight of the rate; of codes with a uniform prior it changes nothing
        perceptual: weight of P
        weight: of lambda G
        start: the optimizer step from which the model learns to fool the critic
        width: channels of the critic's first layer
        layers: how many of its layers halve height and width

    Raises:
        ConfigError: a value is not allowed, or the images are too small or have other channels; at the first call,
            there are several groups of latents.
    """

    compiles = False

    def __init__(
        self,
        image_shape: Sequence[int],
        features: nn.Module,
        beta: float = 1,
        perceptual: float = 1,
        weight: float = 0.8,
        start: int = 10000,
        width: int = 64,
        layers: int = 3,
    ) -> None:
        super().__init__()
        channels, *size = image_shape
        if channels not in (1, 3) or min(size) < 2**HALVINGS:
            allowed = f"1 or 3 channels of at least {2**HALVINGS} pixels a side"
            raise ConfigError("image_shape", list(image_shape), allowed)
        self.beta, self.perceptual, self.weight = (
            number(key, value) for key, value in (("beta", beta), ("perceptual", perceptual), ("weight", weight))
        )
        self.start = int(number("start", start))
        self.critic = PatchCritic(image_shape, positive_int("width", width), positive_int("layers", layers))
        self.distance = Perceptual(features)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        only_group(trace, "perceptual_gan")
        weights = weigh(trace, x)
        distortion, rate, shown = weights.distortion[0], weights.rates[0][0], trace.px.mean[0]
        perceptual = self.distance(x, shown)
        described = distortion + self.perceptual * x[0].numel() * perceptual
        fooled = -fixed(self.critic, shown).mean(-1)
        told_apart = (F.relu(1 - self.critic(x)) + F.relu(1 + self.critic(shown.detach()))).mean(-1) / 2
        adaptive = self.adaptive(described.mean(), fooled.mean(), vae)
        adversarial = (step >= self.start) * self.weight * adaptive * fooled + told_apart
        loss = penalized(described + self.beta * rate + adversarial, trace)
        parts = {
            "perceptual": perceptual, "fooled": fooled, "critic": told_apart,
            "adaptive_weight": adaptive.expand_as(fooled), **trace.penalties,
        }  # fmt: skip
        return Terms(loss, -distortion - rate, rate, distortion, parts)

    def adaptive(self, described: Tensor, fooled: Tensor, vae: VAE) -> Tensor:
        """lambda, ()."""
        if not (described.requires_grad and fooled.requires_grad):
            return torch.ones_like(fooled)
        last = [parameter for parameter in vae.decoder.parameters() if parameter.dim() > 1][-1]
        pulls = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (described, fooled)]
        return (pulls[0] / (pulls[1] + 1e-4)).clamp(max=MOST)
