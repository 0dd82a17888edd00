"""A VAE with several groups of latents, made by one top-down path that prior and posterior share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from cvae.distributions.precision import full_precision
from cvae.models.trace import Latent, Trace, draw_latent
from cvae.models.vae import VAE
from cvae.networks.ladder import BottomUp, Group, TopDown
from cvae.posteriors.gaussian import diagonal_normal


class Ladder(VAE):
    """p(z_1) p(z_2|z_1) ... p(x|z_1 ... z_L), with q(z_1|x) q(z_2|x, z_1) ... (Sonderby et al. 2016, section 2.2).

    The top group z_1 has the posterior and the prior of the config, as the latents of a VAE have. The groups below are
    diagonal Gaussians that the decoder makes. `encode` gives q(z_1|x), and `p_z` p(z_1). `decode` gives p(x|z) with all
    groups below z_1 at the means of p, and so do `interpolate` and `traverse`; `sample` and `reconstruct` draw them.
    """

    encoder: BottomUp
    decoder: TopDown

    @property
    def groups(self) -> int:  # type: ignore[override] # a number of the class in VAE
        return 1 + len(self.decoder.groups)

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int = 1, score: bool = True) -> Trace:
        self._check(y)
        features, maps = self.encoder.features_and_maps(self.labelled(x, y))
        latents = [draw_latent(self.posterior(full_precision(features)), self.p_z(), (samples,), score)]
        z = latents[0].z
        state = self.decoder.start(self._rows(z, y))
        for enlarge, group, stage in self.decoder.steps:
            state = enlarge(state)
            latents.append(draw_latent(*q_and_p(group, state, maps[stage], samples)))
            state = group(state, latents[-1].z)
        px = self._p_x(self.decoder.end(state), z)
        if not score:
            latents[1:] = self._without_score(z, y, latents[1:], maps)
        return Trace(tuple(latents), px, self.posterior.penalties(latents[0].q))

    @torch.no_grad()
    def sample(self, num: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Means of p(x|z) for `num` draws of all groups and labels y (num,): (num, C, H, W).

        temperature: a factor for the noise of all groups. Raises as `VAE.sample` does.
        """
        z = self._from_prior(num, temperature)
        self._check(y, num)
        state = self.decoder.start(self._rows(z, y))
        for enlarge, group, _ in self.decoder.steps:
            state = enlarge(state)
            mean, logvar = group.prior(state)
            state = group(state, mean + (logvar / 2).exp() * (temperature * torch.randn_like(mean)))
        return self._p_x(self.decoder.end(state), z).mean

    def decode_noise(self, z: Tensor, y: Tensor | None, noise: Sequence[Tensor]) -> Distribution:
        """p(x|z) for z_1 (B, D), and for each group below it a draw of p made from its standard normal noise (B, n)."""
        state = self.decoder.start(self._rows(z, y))
        for (enlarge, group, _), own in zip(self.decoder.steps, noise, strict=True):
            state = enlarge(state)
            mean, logvar = group.prior(state)
            state = group(state, mean + (logvar / 2).exp() * own.view_as(mean))
        return self._p_x(self.decoder.end(state), z)

    @torch.no_grad()
    def noise_of(self, x: Tensor, y: Tensor | None, z: Tensor) -> list[Tensor]:
        """The noise (B, n) of each group below z_1 (B, D) from which `decode_noise` makes the means of q(z|x, above).

        x (B, C, H, W), y (B,).
        """
        maps, state = self.encoder.features_and_maps(self.labelled(x, y))[1], self.decoder.start(self._rows(z, y))
        noise = []
        for enlarge, group, stage in self.decoder.steps:
            state = enlarge(state)
            mean, logvar = group.prior(state)
            found, _ = group.posterior(state, maps[stage], (mean, logvar))
            noise.append(((found - mean) / (logvar / 2).exp()).flatten(1))
            state = group(state, found)
        return noise

    @torch.no_grad()
    def variations(self, num: int, y: Tensor | None = None) -> Tensor:
        """The effect of each group on the image, a row for each: (L, num, C, H, W).

        In a row that group alone differs between the images. The groups above it are the same in all images and rows,
        those below are at the means of p. y (num,): labels, all alike.
        """
        z, steps = self._from_prior(num, 1.0), self.decoder.steps
        self._check(y, num)
        shared: list[Tensor] = []  # noise (1, c, h, w) of the groups above the one that varies
        rows = [self.likelihood_of(z, y).mean]
        for varied in range(len(steps)):
            state = self.decoder.start(self._rows(z[:1].expand_as(z), y))
            for number, (enlarge, group, _) in enumerate(steps):
                state = enlarge(state)
                mean, logvar = group.prior(state)
                if number < varied and number == len(shared):
                    shared.append(torch.randn_like(mean[:1]))
                if number <= varied:
                    noise = shared[number] if number < varied else torch.randn_like(mean)
                    mean = mean + (logvar / 2).exp() * noise
                state = group(state, mean)
            rows.append(self._p_x(self.decoder.end(state), z).mean)
        return torch.stack(rows)

    def _without_score(
        self, z: Tensor, y: Tensor | None, latents: Sequence[Latent], maps: Sequence[Tensor]
    ) -> list[Latent]:
        """The latents below z_1 (K, B, D); the gradient of each log_q comes through the draws alone.

        The draws of the groups above count, too. This takes a second way down, with the same draws, in which all else
        that q depends on is constant.
        """
        weights = {name: parameter.detach() for name, parameter in self.decoder.named_parameters()}
        draws, seen = [latent.z for latent in latents], [part.detach().repeat(len(z), 1, 1, 1) for part in maps]
        inputs = self._rows(z, y), draws, seen
        posteriors: list[tuple[Tensor, Tensor]] = functional_call(self.decoder, weights, inputs)
        log_q = [normal(*q, len(z)).log_prob(own) for q, own in zip(posteriors, draws, strict=True)]
        return [latent._replace(log_q=own) for latent, own in zip(latents, log_q, strict=True)]


def kind_of(decoder: nn.Module) -> type[VAE]:
    """The class of the model: a decoder that draws groups of latents on its way makes it a Ladder."""
    return Ladder if isinstance(decoder, TopDown) else VAE


def q_and_p(group: Group, state: Tensor, seen: Tensor, samples: int) -> tuple[Distribution, Distribution]:
    """q(z|x, above) and p(z|above), batch (K, B), event (D,), for the path's state (K B, width, h, w).

    seen: the encoder's map (B, width, h, w).
    """
    prior = group.prior(state)
    posterior = group.posterior(state, seen.repeat(samples, 1, 1, 1), prior)
    return normal(*posterior, samples), normal(*prior, samples)


def normal(mean: Tensor, logvar: Tensor, samples: int) -> Distribution:
    """From maps (K B, channels, h, w): batch (K, B), event (D,)."""
    return diagonal_normal(*(part.flatten(1).unflatten(0, (samples, -1)) for part in (mean, logvar)))
