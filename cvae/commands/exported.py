"""The functions of a model that become files: encoder, decoder, sampler. They are traced, so they have no checks."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import MixtureSameFamily

from cvae.distributions import from_noise
from cvae.errors import ConfigError
from cvae.models.ladder import Ladder
from cvae.models.latent_paths import posterior_mean
from cvae.models.vae import VAE


class Part(NamedTuple):
    """A function of a model that becomes a file, with the names and examples of its inputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]  # batches of 2


class Encoder(nn.Module):
    """x (B, C, H, W), y (B,) -> the posterior mean (B, D)."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return posterior_mean(self.vae.infer(self.vae.labelled(x, y)))


class Decoder(nn.Module):
    """z (B, D), y (B,) -> the mean of p(x|z) (B, C, H, W)."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.vae.likelihood_of(z, y).mean


class Sampler(nn.Module):
    """noise (B, D of all groups of latents), y (B,) -> the mean of p(x|z) (B, C, H, W) for a draw of the prior."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae, self.sizes = vae, sizes_of(vae)

    def forward(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        return self.drawn(noise, noise[:, 0], y)  # no choice is needed

    def drawn(self, noise: Tensor, choice: Tensor, y: Tensor | None) -> Tensor:
        top, *others = noise.split(self.sizes, 1)
        top = from_noise(self.vae.p_z(), top, choice)
        if isinstance(self.vae, Ladder):
            return self.vae.decode_noise(top, y, others).mean
        return self.vae.likelihood_of(top, y).mean


class MixtureSampler(Sampler):
    """The same with choice (B,), uniform in [0, 1), which chooses the component."""

    def forward(self, noise: Tensor, choice: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self.drawn(noise, choice, y)


def parts_of(vae: VAE) -> list[Part]:
    """Encoder, decoder and, where draws of the prior are a function of noise, sampler."""
    (z, x), p = vae.shapes, vae.p_z()
    label = {"y": torch.arange(2) % vae.num_classes} if vae.num_classes else {}
    parts = [
        Part("encoder", Encoder(vae), {"x": torch.rand(2, *x), **label}),
        Part("decoder", Decoder(vae), {"z": torch.randn(2, *z), **label}),
    ]
    noise = {"noise": torch.randn(2, sum(sizes_of(vae)))}
    try:
        from_noise(p, noise["noise"][:, : z[0]], torch.rand(2))
    except ConfigError:
        return parts
    if isinstance(p, MixtureSameFamily):
        return [*parts, Part("sampler", MixtureSampler(vae), noise | {"choice": torch.rand(2)} | label)]
    return [*parts, Part("sampler", Sampler(vae), noise | label)]


def sizes_of(vae: VAE) -> list[int]:
    """The number of latents in each group, the top one first."""
    y = torch.zeros(1, dtype=torch.long) if vae.num_classes else None
    with torch.no_grad():
        return [latent.z.shape[-1] for latent in vae(torch.zeros(1, *vae.shapes[1]), y).latents]
