"""The state of the explorer: a model, the test images in its latent space, and how a pointer's position becomes z."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from PIL import UnidentifiedImageError
from rich.progress import track
from torch import Tensor

from cvae.data import ImageData
from cvae.data.decode import limited, read_file, reading_of
from cvae.distributions import Unknown, is_discrete
from cvae.errors import UserError
from cvae.models import latent_paths
from cvae.models.vae import VAE
from cvae.runs.small_files import one_line
from cvae.runtime.console import console
from cvae.runtime.noise import fixed_noise

LARGEST_FILE = 20_000_000  # bytes of an image that is dropped on the page
GOLDEN = 0.6180339887  # multiples of it, without their integers, are spread evenly over [0, 1]


class Plane(NamedTuple):
    """Two latent dimensions as a square picture: `right` grows to the right, `up` upwards.

    Places in it are fractions (across, down) of its sides, from the upper left corner. With up=None, for a model of one
    dimension, only `across` has a meaning.
    """

    right: int
    up: int | None
    low: tuple[float, float]  # z at the left and at the lower side
    high: tuple[float, float]  # z at the right and at the upper side

    def move(self, z: Tensor, across: float, down: float) -> Tensor:
        """z (D,) with the plane's dimensions as a place says, inside the picture."""
        across, up = (min(max(part, 0.0), 1.0) for part in (across, 1 - down))
        z = z.clone()
        z[self.right] = self.low[0] + across * (self.high[0] - self.low[0])
        if self.up is not None:
            z[self.up] = self.low[1] + up * (self.high[1] - self.low[1])
        return z

    def places(self, z: Tensor) -> Tensor:
        """The places (N, 2) of z (N, D); with up=None in the middle."""
        across = (z[:, self.right] - self.low[0]) / (self.high[0] - self.low[0])
        if self.up is None:
            return torch.stack([across, torch.full_like(across, 0.5)], 1)
        return torch.stack([across, 1 - (z[:, self.up] - self.low[1]) / (self.high[1] - self.low[1])], 1)


def rows_of_classes(places: Tensor, y: Tensor) -> Tensor:
    """places (N, 2), each moved into the row of its class y (N,) and spread within it, the first class below."""
    spread = 0.1 + 0.8 * (torch.arange(len(y)) * GOLDEN % 1)
    return torch.stack([places[:, 0], 1 - (y + spread) / (y.max() + 1)], 1)


def nearest(places: Tensor, across: float, down: float) -> int:
    """The index of the place (N, 2) that is nearest to a pointer."""
    return int((places - torch.tensor([across, down])).square().sum(1).argmin())


class Space:
    """A trained model and the first N test images in its latent space.

    means (N, D): of q(z|x)
    y (N,): the labels; classes: those among them; of_class (N,): the number in `classes` of each image's label
    order: the dimensions, the most active first: those in which the means differ most (Burda et al. 2016, section 5.2)
    low, high (D,): what a picture shows of a dimension, all means and 99 % of the prior where there is one
    """

    def __init__(self, vae: VAE, data: ImageData, means: Tensor) -> None:
        self.vae, self.data, self.means = vae, data, means
        self.order = means.var(0, correction=0).argsort(descending=True).tolist()
        self.y = data.test.images.y[: len(means)]
        self.classes, self.of_class = self.y.unique(return_inverse=True)
        with torch.no_grad():
            prior = means if isinstance(vae.p_z(), Unknown) else vae.p_z().sample((1000,))
        ends = prior.quantile(torch.tensor([0.005, 0.995]), 0)
        low, high = torch.minimum(means.min(0).values, ends[0]), torch.maximum(means.max(0).values, ends[1])
        margin = 0.05 * (high - low)
        self.low, self.high = low - margin, high + margin

    @property
    def dims(self) -> int:
        return self.means.shape[1]

    def plane(self, right: int, up: int | None) -> Plane:
        dims = (right, right if up is None else up)
        return Plane(right, up, *(tuple(ends[list(dims)].tolist()) for ends in (self.low, self.high)))

    def first_plane(self) -> Plane:
        """The plane of the two most active dimensions, in the order of their numbers."""
        return self.plane(*sorted(self.order[:2])) if self.dims > 1 else self.plane(0, None)

    def places(self, plane: Plane) -> Tensor:
        """The test images' places in the plane: (N, 2)."""
        places = plane.places(self.means)
        return rows_of_classes(places, self.of_class) if plane.up is None else places

    def labels(self, label: int, num: int = 1) -> Tensor | None:
        """Labels for the model's methods: `num` times a class, or None for a model without classes."""
        return self.vae.labels(torch.full((num,), label))

    @torch.no_grad()
    def decode(self, z: Tensor, label: int) -> Tensor:
        """Means of p(x|z) for z (K, D): (K, C, H, W)."""
        return self.vae.decode(z, self.labels(label, len(z))).mean.clamp(0, 1)

    @torch.no_grad()
    def encode(self, x: Tensor, label: int) -> Tensor:
        """The mean of q(z|x) for one image (C, H, W): (D,)."""
        return latent_paths.posterior_mean(self.vae.encode(x[None], self.labels(label)))[0]

    def kind(self, label: int) -> str:
        """The name of a class."""
        return self.data.test.images.kind(label)

    def called(self, index: int) -> str:
        """A test image, with its name where it has one, and its class."""
        names = self.data.test.images.names
        name = f"Test image {index}" + ("" if names is None else f", {one_line(str(names[index]))}")
        return f"{name}, class {one_line(self.kind(int(self.y[index])))}"

    def original(self, index: int) -> Tensor:
        """A test image as the model sees it: (C, H, W)."""
        return self.data.batch("test", [index])[0][0]

    def between(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Points (steps, D) from a to b (D,), on the straight line that one sees on the plane."""
        return latent_paths.from_to(a, b, steps, spherical=False)

    def read(self, content: bytes) -> Tensor:
        """A user's own image file, prepared as the run's test images are: (C, H, W).

        Raises UserError if it is too large or no image.
        """
        if len(content) > LARGEST_FILE:
            raise UserError(f"the file has {len(content):,} bytes, at most {LARGEST_FILE:,} are taken")
        try:
            with TemporaryDirectory() as folder, limited(None):
                file = Path(folder, "image")
                file.write_bytes(content)
                pixels, *_ = read_file(file, reading_of(self.data))
        except UnidentifiedImageError:
            raise UserError("not an image of a known format") from None
        except Exception as error:  # a damaged file can make a decoder raise almost anything
            raise UserError(f"cannot be read: {error or type(error).__name__}") from error
        return self.data.as_tested(torch.from_numpy(pixels)[None])[0]


def require_numbers(vae: VAE) -> None:
    """Raise UserError for a model of codes, or on a sphere."""
    if vae.posterior.sphere:
        raise UserError("explore shows planes of the latent space: this model's latents lie on a sphere")
    if is_discrete(vae.p_z()):
        raise UserError("explore needs a model whose latents are numbers: between two codes there is nothing")


@torch.no_grad()
def space_of(vae: VAE, data: ImageData, images: int | None, seed: int) -> Space:
    """The space of a model with the first `images` test images (None: all); what is drawn is drawn by `seed`."""
    count = min(images or len(data.test), len(data.test))
    starts = range(0, count, data.eval_batch_size)
    blocks = [range(start, min(start + data.eval_batch_size, count)) for start in starts]
    shown = track(blocks, "Encoding the test images", console=console, transient=True, disable=not console.is_terminal)
    with fixed_noise(seed, torch.device("cpu")):
        batches = (data.batch("test", block) for block in shown)
        means = torch.cat([latent_paths.posterior_mean(vae.encode(x, vae.labels(y))) for x, y in batches])
        return Space(vae, data, means)
