"""A VAE with several groups of latents, made by one top-down path that prior and posterior share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from cvae.distributions.precision import full_precision
from cvae.models.trace import Latent, Trace, drawn
from cvae.models.vae import VAE
from cvae.networks.ladder import BottomUp, Choose, Group, TopDown
from cvae.posteriors.gaussian import diagonal_normal


class Ladder(VAE):
    """p(z_1) p(z_2|z_1) ... p(x|z_1 ... z_L), with q(z_1|x) q(z_2|x, z_1) ... (Sonderby et al. 2016, section 2.2).

    The top group z_1 has the posterior and the prior that were chosen, as the latents of a VAE have. Those below are
    diagonal Gaussians of the decoder's. `encode` gives q(z_1|x), and `p_z` p(z_1). `decode` gives p(x|z) with all
    groups below z_1 at the means of p, and so do `interpolate` and `traverse`; `sample` and `reconstruct` draw them.
    """

    encoder: BottomUp
    decoder: TopDown

    @property
    def groups(self) -> int:  # type: ignore[override] # a number of the class in VAE
        return 1 + len(self.decoder.groups)

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int = 1, score: bool = True) -> Trace:
        self._check(y)
        features, maps = self.encoder.features_and_maps(self._labelled(x, y))
        latents = [drawn(self.posterior(full_precision(features)), self.p_z(), (samples,), score)]

        def draw(group: Group, stage: int, state: Tensor) -> Tensor:
            latents.append(drawn(*q_and_p(group, state, maps[stage], samples)))
            return latents[-1].z.reshape(len(state), -1, *state.shape[2:])

        px = self._likelihood_of(latents[0].z, y, draw)
        made = latents if score else self._without_score(latents, y, maps)
        return Trace(tuple(made), px, self.posterior.penalties(latents[0].q))

    @torch.no_grad()
    def sample(self, num: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Means of p(x|z) for `num` draws of all groups and labels y (num,): (num, C, H, W).

        temperature: a factor for the noise of all groups. Raises as `VAE.sample` does.
        """
        z = self._from_prior(num, temperature)
        self._check(y, num)
        return self._likelihood_of(z, y, at(lambda group, mean: temperature * torch.randn_like(mean))).mean

    @torch.no_grad()
    def variations(self, num: int, y: Tensor | None = None) -> Tensor:
        """What each group decides, a row a group: (L, num, C, H, W).

        In a row the group alone differs from image to image. Those above are the same in all images and rows, those
        below at the means of p. y (num,): labels, all alike.
        """
        alike: dict[Group, Tensor] = {}  # the noise of a group where it is the same for all images
        tops, groups = self._from_prior(num, 1.0), self.decoder.groups
        self._check(y, num)

        def row(varied: int) -> Tensor:  # 0: the top group
            def noise(group: Group, mean: Tensor) -> Tensor:
                number = groups.index(group) + 1
                if number > varied:
                    return torch.zeros_like(mean)
                if number == varied:
                    return torch.randn_like(mean)
                if group not in alike:
                    alike[group] = torch.randn_like(mean[:1])
                return alike[group]

            z = tops if varied == 0 else tops[:1].expand_as(tops)
            return self._likelihood_of(z, y, at(noise)).mean

        return torch.stack([row(varied) for varied in range(self.groups)])

    def _without_score(self, latents: Sequence[Latent], y: Tensor | None, maps: Sequence[Tensor]) -> list[Latent]:
        """The latents; the gradient of each log_q comes through the draws alone, those of the groups above included.

        That takes a second way down, with the same draws and without gradients for whatever q is made by.
        """
        scored = [latents[0]]

        def take(group: Group, stage: int, state: Tensor) -> Tensor:
            latent = latents[len(scored)]
            q, _ = q_and_p(group, state, maps[stage].detach(), len(latent.z))
            scored.append(latent._replace(log_q=q.log_prob(latent.z)))
            return latent.z.reshape(len(state), -1, *state.shape[2:])

        fixed = {name: parameter.detach() for name, parameter in self.decoder.named_parameters()}
        functional_call(self.decoder, fixed, (self._rows(latents[0].z, y), take))
        return scored


def kind_of(decoder: nn.Module) -> type[VAE]:
    """The class of the model: a decoder that draws groups of latents on its way makes it a Ladder."""
    return Ladder if isinstance(decoder, TopDown) else VAE


def q_and_p(group: Group, state: Tensor, seen: Tensor, samples: int) -> tuple[Distribution, Distribution]:
    """q(z|x, above) and p(z|above), batch (K, B), event (D,), for the path's state (K B, width, h, w).

    seen: the encoder's map (B, width, h, w).
    """
    prior = group.prior(state)
    posterior = group.posterior(state, seen.repeat(samples, 1, 1, 1), prior)
    q, p = (diagonal_normal(*(part.flatten(1).unflatten(0, (samples, -1)) for part in of)) for of in (posterior, prior))
    return q, p


def at(noise: Callable[[Group, Tensor], Tensor]) -> Choose:
    """z = mean + scale * noise of p(z|above); noise: (group, mean (N, c, h, w)) -> the same shape, or (1, c, h, w)."""

    def choose(group: Group, stage: int, state: Tensor) -> Tensor:
        mean, logvar = group.prior(state)
        return mean + (logvar / 2).exp() * noise(group, mean)

    return choose
