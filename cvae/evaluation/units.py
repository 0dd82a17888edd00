"""Which latents are active, and how codes are used."""

from typing import NamedTuple

import torch
from torch import Tensor
from zuko.distributions import NormalizingFlow

from cvae.distributions import Codes, OneHots
from cvae.distributions.precision import double
from cvae.models.trace import Latent

ACTIVE = 0.01  # variance over images, above which a latent counts as active (Burda et al. 2016)
TOLD = 0.01  # nats that a code says of the image, above which it counts as active; a Gaussian's 0.01 is 0.005 nats


class Means(NamedTuple):
    """Posterior means for B images, float64 on the CPU. D: latents of all groups without codes, the top one first.

    mean: (B, D) of the top group the mean of q(z|x). Below it, how far q's mean lies from p's, given the groups above,
        in standard deviations of p: the mean over draws of these.
    square: (B, D) its square; below the top the mean over draws of the squares
    error: (B, D) the variance of `mean` as an estimate: 0 where it is exact
    codes: where the top group has codes, their `code_sums`
    """

    mean: Tensor
    square: Tensor
    error: Tensor
    codes: Tensor | None


def shifts(latents: tuple[Latent, ...]) -> Tensor:
    """The samples (K, B, D) that `Means` average: z of the top group, unless of codes, and the shifts below it."""
    z = latents[0].z
    return torch.cat([z[..., :0] if isinstance(latents[0].p, Codes) else z, *map(shift, latents[1:])], -1)


def shift(latent: Latent) -> Tensor:
    """(mean of q - mean of p) / standard deviation of p, at the draws above: (K, B, D); NaN for flows."""
    q, p = latent.q, latent.p
    if isinstance(q, NormalizingFlow) or isinstance(p, NormalizingFlow):  # whose means have no closed form
        return torch.full_like(latent.z, torch.nan)
    return ((q.mean - p.mean) / p.stddev).expand_as(latent.z)


def known_mean(latents: tuple[Latent, ...], images: int) -> Tensor:
    """E[z|x] of the top group (B, D), of no dimensions if it has codes; NaN if q is a flow, without a closed form."""
    q = latents[0].q
    if isinstance(latents[0].p, Codes):
        return latents[0].z.new_empty(images, 0)
    return latents[0].z.new_full((images, *q.event_shape), torch.nan) if isinstance(q, NormalizingFlow) else q.mean


def means_of(known: Tensor, total: Tensor, squares: Tensor, samples: int, codes: Tensor | None) -> Means:
    """From the sums over samples of `shifts` and of their squares, (B, D) each; known: (B, D of the top group)."""
    mean, square = total / samples, squares / samples
    error = torch.zeros_like(mean)
    top = known.shape[-1]
    noise = (square - mean**2)[:, :top] / (samples - 1) if samples > 1 else torch.full_like(known, torch.nan)
    mean[:, :top] = torch.where(known.isnan(), mean[:, :top], known)
    square[:, :top] = mean[:, :top] ** 2
    error[:, :top] = torch.where(known.isnan(), noise, 0.0)
    return Means(mean, square, error, codes)


def code_sums(latent: Latent, images: int | None = None) -> Tensor:
    """Sums over the images, or the first few, for a group of M codes with C values each: (M, C + 1) in float64.

    The first C columns sum q(z_m = c|x), the last one the entropy of q(z_m|x) in nats. Both are exact, whatever was
    drawn, and the sums of batches and processes can be added.
    """
    q, p = latent.q, latent.p
    assert isinstance(p, Codes)
    if isinstance(q, OneHots):
        probability = double(q.mean[:images]).unflatten(-1, q.logits.shape[1:])  # (B, C, M)
        return torch.cat([probability.sum(0), torch.special.entr(probability).sum((0, 1))[None]]).mT
    codes = p.read(q.mean[:images]).mT  # (M, B), all the mass of each on one value
    sums = double(latent.z.new_zeros(len(codes), p.num_codes + 1))
    return sums.scatter_add_(1, codes, torch.ones_like(codes, dtype=sums.dtype))


def information_of_codes(sums: Tensor) -> Tensor:
    """The mutual information I(x; z_m) of each code, (M,) in nats, from their `code_sums`.

    It is the entropy of the mean of q(z_m|x) less the mean of its entropies.
    """
    images = sums[0, :-1].sum()
    return torch.special.entr(sums[:, :-1] / images).sum(-1) - sums[:, -1] / images


OF_CODES = ("perplexity", "code_information", "codebook_perplexity")


def figures_of_codes(sums: Tensor) -> dict[str, float]:
    """How codes are used, from their `code_sums` over images.

    perplexity: exp(entropy) of the aggregate posterior of a code, the mean over the codes of an image. That many
        values, used equally often, have this entropy. A code that is drawn at random has a high one, too
    code_information: I(x; code) in nats, the mean over codes; at most log(perplexity)
    codebook_perplexity: exp(entropy) of all codes of all images together (van den Oord et al. 2017 report it): how much
        of the codebook is used. It is high too if each code always has the same value, another for each
    """
    shares = sums[:, :-1] / sums[0, :-1].sum()
    perplexities = [torch.special.entr(part).sum(-1).exp() for part in (shares, shares.mean(0))]
    figures = perplexities[0].mean(), information_of_codes(sums).mean(), perplexities[1]
    return dict(zip(OF_CODES, torch.stack(figures).tolist(), strict=True))


class Spread:
    """How `Means` vary over the images. Only sums are kept: a hierarchy has too many latents for all images."""

    def __init__(self) -> None:
        self.count, self.sums = 0, torch.zeros((), dtype=torch.float64)
        self.codes: Tensor | None = None  # `code_sums`

    def add(self, means: Means) -> None:
        """Add the means of more images."""
        self.count += len(means.mean)
        self.sums = self.sums + torch.stack([part.sum(0) for part in means[:3]])
        if means.codes is not None:
            self.codes = means.codes if self.codes is None else self.codes + means.codes

    def variance(self) -> Tensor:
        """(D,) If the means are estimates, their own variance is subtracted; NaN if that is unknown."""
        mean, square, error = self.sums / self.count
        return square - mean**2 - error

    def active(self) -> tuple[int | None, int]:
        """The number of latents that depend on the image, given the groups above, and of all; None if one is unknown.

        A latent of the top group does if the mean of q(z|x) has a variance over the images above 0.01 (Burda et al.
        2016, section 5.2). The mean of a latent below it varies with the groups above even if the group has
        collapsed to p and says nothing of x. So there it is the distance between the means of q and p that must vary,
        over images and draws of the groups above, in standard deviations of p. With p = N(0, 1) both are the same.

        A code does if I(x; z_m) is above 0.01 nats; the vectors of the codes do not matter.
        """
        variance = self.variance()
        told = variance.new_empty(0) if self.codes is None else information_of_codes(self.codes)
        count = int((variance > ACTIVE).sum() + (told > TOLD).sum())
        return None if variance.isnan().any() else count, len(variance) + len(told)
