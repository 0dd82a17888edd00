"""How good a model's samples and reconstructions are, by features of a classifier, of a known network or of pixels."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cvae.checks import positive_int, seed_number
from cvae.data import ImageData
from cvae.data.images import draw
from cvae.errors import ConfigError, NotFinite, UserError
from cvae.evaluation.distances import frechet, frechet_extrapolated, kid, vendi
from cvae.evaluation.features import Features, Watch
from cvae.evaluation.lpips import LPIPS
from cvae.evaluation.measure import Figure, finite
from cvae.evaluation.neighbours import DENSITY, fidelity, nearest, share
from cvae.evaluation.pixels import psnr, ssim
from cvae.models.vae import VAE
from cvae.priors.none import NoPrior
from cvae.runtime.devices import float32
from cvae.runtime.noise import fixed_noise, hashed_seed

BLOCK = 250  # images that are drawn at once: the unit of randomness and of memory; another number is other draws
FEW = DENSITY + 1  # images or samples, below which they have too few neighbours
TRAINING = 60_000  # training images, at most, among which the nearest are looked for
SHOWN, NEIGHBOURS = 8, 5  # samples that are looked at closely, and training images beside each
RARE = 0.05  # of the test images are nearer to a training image than the distance that samples are held against


@dataclass(frozen=True)
class QualitySettings:
    """The settings of a measurement of samples, checked when they are made.

    Args:
        samples: how many images are drawn from the model
        images: only the first so many test images; None: all
        seed: of the noise, and of which training images are used where they are more than needed

    Raises:
        ConfigError: a value is not allowed.
    """

    samples: int = 10_000
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("samples", "images"):
            if (value := getattr(self, key)) is not None and positive_int(key, value) < FEW:
                raise ConfigError(key, value, f"at least {FEW}")
        seed_number("seed", self.seed)


class Real(NamedTuple):
    """Features of real images, float32: of test images (N, D), of training images (M, D), and the latter's numbers."""

    test: Tensor
    train: Tensor
    rows: Tensor


class Nearest(NamedTuple):
    """How near samples are to training images, by features, and how near test images are.

    samples (S,), test (N,): the distance to the nearest training image. closest (8,): the samples that are nearest to
    theirs, the nearest first. training (8, 5): the numbers of the training images that are nearest to these.
    """

    samples: Tensor
    test: Tensor
    closest: Tensor
    training: Tensor


class Measured(NamedTuple):
    """What `quality` finds. drawn: the images x (8, C, H, W) of nearest.closest."""

    figures: dict[str, Figure]
    nearest: Nearest
    drawn: Tensor


class Sampler:
    """The samples of a model in blocks, each by a seed of its own: means of p(x|z), z from the prior, `like` the data.

    A conditional model is given the classes of the test images, in an order that is drawn by seed.

    Args:
        vae: in eval mode
        y: the labels (N,) of the test images
        binarization: of the data
        settings: samples and seed

    Raises:
        UserError: the model has no prior.
    """

    def __init__(self, vae: VAE, y: Tensor, binarization: str, settings: QualitySettings) -> None:
        if isinstance(vae.prior, NoPrior):
            raise UserError("prior=none: nothing can be drawn. Fit one first: python -m cvae fit-prior RUN prior=gmm")
        self.vae, self.count, self.seed = vae, settings.samples, settings.seed
        self.binarization = binarization
        self.device = next(vae.parameters()).device
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(self.seed))
        self.y = y.cpu()[order.repeat(-(-self.count // len(y)))[: self.count]]

    def __len__(self) -> int:
        return -(-self.count // BLOCK)

    def block(self, number: int) -> Tensor:
        """The samples of a block, (B, C, H, W) in [0, 1]."""
        labels = self.y[number * BLOCK : (number + 1) * BLOCK]
        with fixed_noise(hashed_seed(self.seed, 0, number), self.device), float32(self.device):
            means = self.vae.sample(len(labels), self.vae.labels(labels.to(self.device)))
            return like(self.binarization, means.clamp(0, 1))

    def pick(self, numbers: list[int]) -> Tensor:
        """The samples of these numbers, drawn again."""
        blocks = {number // BLOCK: self.block(number // BLOCK) for number in numbers}
        return torch.stack([blocks[number // BLOCK][number % BLOCK] for number in numbers])


def like(binarization: str, means: Tensor) -> Tensor:
    """Means of p(x|z) binarized as the data are, so that no greys tell them apart: 1 above 0.5, or drawn, or as is."""
    if binarization == "static":
        return (means > 0.5).to(means.dtype)
    return means if binarization == "none" else draw(means)


def reconstructions(vae: VAE, data: ImageData, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Block by block: test images x (B, C, H, W), means of p(x|z) for a draw of q(z|x), and these `like` the data."""
    device = next(vae.parameters()).device
    for start in range(0, count, BLOCK):
        x, y = data.batch("test", range(start, min(start + BLOCK, count)), device)
        with fixed_noise(hashed_seed(seed, 1, start // BLOCK), device), float32(device):
            means = vae.reconstruct(x, vae.labels(y)).clamp(0, 1)
            binarized = like(data.binarization, means)
        yield x, means, binarized


@torch.no_grad()
def quality(
    vae: VAE,
    data: ImageData,
    features: Features,
    real: Real,
    settings: QualitySettings,
    watched: Watch,
    lpips: LPIPS | None = None,
) -> Measured:
    """All figures of samples and reconstructions. The model is in eval mode, the data are set up.

    Each figure of samples has one beside it, train_…, of as many training images in their place, or of all where they
    are fewer: as good as samples can be expected to become. It is left out, as near_training is, where the test images
    were trained on, too. Features are of images as the files have them: where
    data.invert is true, the model's are inverted back. Means of p(x|z) are binarized as the data are, see `like`.

    frechet, frechet_extrapolated, kid, precision, recall, density, coverage and vendi: see `cvae.evaluation.distances`
    and `neighbours`. near_training is the share of samples that are nearer to a
    training image than 95 of 100 test images are: about 0.05, more if samples repeat training images.

    reconstruction_frechet is the distance of reconstructions to their images, which with Inception's features is rFID.
    lpips is left out where it is not asked for; like psnr and ssim it is measured on means of p(x|z).

    Raises:
        UserError: the model has no prior.
        NotFinite: a figure is NaN or infinite.
    """

    def as_in_files(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
        with float32(images[0].device):
            return function(*(1 - x if data.invert else x for x in images)).float().cpu()

    described = partial(as_in_files, features)

    test = real.test
    drawn = Sampler(vae, data.test.images.y[: len(test)], data.binarization, settings)
    samples = torch.cat([described(drawn.block(n)) for n in watched(range(len(drawn)), "sampling", len(drawn))])
    figures = of_samples(samples, test, "")
    near = nearest_training_images(samples, real)
    if data.train_on == "train":  # else the test images are among the training images
        figures |= of_samples(real.train[: settings.samples], test, "train_")
        repeated = share(near.samples <= near.test.quantile(RARE))
        what = f"nearer to training than {100 * (1 - RARE):g} % of test"
        figures["near_training"] = Figure(repeated, None, "of the samples", what)
    similar = None if lpips is None else partial(as_in_files, lpips)
    made = reconstructions(vae, data, len(test), settings.seed)
    figures |= of_reconstructions(watched(made, "reconstructing", -(-len(test) // BLOCK)), described, test, similar)
    if bad := [f"{name} is {figure.value}" for name, figure in figures.items() if not finite(figure)]:
        raise NotFinite(f"quality of {settings.samples} samples: {', '.join(bad)}")
    return Measured(figures, near, drawn.pick(near.closest.tolist()))


def exact(features: Tensor) -> Tensor:
    """Features in float64, on the CPU."""
    return features.cpu().double()


def of_samples(samples: Tensor, test: Tensor, prefix: str) -> dict[str, Figure]:
    """The figures of samples (M, D) against test images (N, D), their names with a prefix."""
    one, two = exact(samples), exact(test)
    mean, error = kid(one, two)
    found = fidelity(two, one)
    figures = {
        "frechet": Figure(frechet(one, two), None, "", "Fréchet distance"),
        "frechet_extrapolated": Figure(frechet_extrapolated(one, two), None, "", "  extrapolated to infinitely many"),
        "kid": Figure(mean, error, "", "KID"),
        "precision": Figure(found.precision, None, "of the samples", "precision"),
        "recall": Figure(found.recall, None, "of the test images", "recall"),
        "density": Figure(found.density, None, "", "density"),
        "coverage": Figure(found.coverage, None, "of the test images", "coverage"),
        "vendi": Figure(vendi(one), None, "images", "Vendi score"),
    }
    return {f"{prefix}{name}": figure for name, figure in figures.items()}


def nearest_training_images(samples: Tensor, real: Real) -> Nearest:
    """Of samples (S, D) and the test images."""
    distance = nearest(samples, real.train)[0][:, 0]
    closest = distance.argsort()[:SHOWN]
    _, training = nearest(samples[closest], real.train, min(NEIGHBOURS, len(real.train)))
    return Nearest(distance, nearest(real.test, real.train)[0][:, 0], closest, real.rows[training])


def of_reconstructions(
    blocks: Iterable[tuple[Tensor, Tensor, Tensor]],
    described: Callable[[Tensor], Tensor],
    test: Tensor,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Figure]:
    """The figures of `reconstructions`: PSNR, SSIM, LPIPS of means, and the distance of features to `test` (N, D)."""
    noise, similar, features, apart = [], [], [], []
    for x, means, binarized in blocks:
        noise.append(psnr(x, means).cpu())
        similar.append(ssim(x, means))
        features.append(described(binarized))
        if lpips is not None:
            apart.append(lpips(x, means))
    found = {"psnr": over_images(torch.cat(noise), "dB", "PSNR of reconstructions")}
    if all(part is not None for part in similar):
        structure = torch.cat([part.cpu() for part in similar if part is not None])
        found["ssim"] = over_images(structure, "", "SSIM of reconstructions")
    if apart:
        found["lpips"] = over_images(torch.cat(apart), "", "LPIPS of reconstructions")
    distance = frechet(exact(torch.cat(features)), exact(test))
    found["reconstruction_frechet"] = Figure(distance, None, "", "Fréchet distance of reconstructions")
    return found


def over_images(values: Tensor, unit: str, meaning: str) -> Figure:
    """The mean of one value an image (N,), and its standard error."""
    values = values.cpu().double()
    return Figure(values.mean().item(), (values.std() / len(values) ** 0.5).item(), unit, meaning)
