"""What the explorer shows: a model, and the test images in its latent space."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import torch
from rich.progress import track
from torch import Tensor

from cvae import pictures
from cvae.data import ImageData
from cvae.data.decode import decode, reading_of
from cvae.data.images import Images
from cvae.distributions import Unknown
from cvae.errors import UserError
from cvae.evaluation.latents import Latents, latents
from cvae.explorer.plane import Placed, Plane, rows_of_classes, window
from cvae.models import latent_paths
from cvae.models.ladder import Ladder
from cvae.models.vae import VAE
from cvae.runs.small_files import one_line
from cvae.runtime.console import console
from cvae.runtime.noise import fixed_noise

LARGEST_FILE = 20_000_000  # bytes of an image that is dropped on the page
SIGNS = 24  # of a name on the plane, at most
SMALLEST = 0.02  # of the widest dimension: a plane is at least as wide, however close the images are


class Space:
    """A trained model and the first N test images in its latent space.

    means (N, D): of q(z|x)
    rate (D,): of each dimension, as `Latents` has it; order: the dimensions, that of the highest rate first
    y (N,): the labels; classes: those among them; of_class (N,): the number in `classes` of each image's label
    seed: of what places the images by their neighbours
    low, high (D,): from where to where a dimension is moved, all means and 99 % of the prior where there is one
    """

    def __init__(self, vae: VAE, data: ImageData, found: Latents, seed: int = 0) -> None:
        self.vae, self.data, self.means = vae, data, found.means
        self.seed, self.placing = seed, Lock()
        self.rate, self.order, self.unit = found.rate, found.order, "" if found.exact is None else " nats"
        means, self.y = found.means, data.test.images.y[: len(found.means)]
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
        """Two dimensions, as far as the test images go."""
        return self.around_images(Plane(right, up, (0.0, 0.0), (1.0, 1.0)))

    def first_plane(self) -> Plane:
        """The plane of the two dimensions of the highest rates, in the order of their numbers."""
        return self.plane(*sorted(self.order[:2])) if self.dims > 1 else self.plane(0, None)

    def principal_plane(self) -> Plane:
        """The plane of the two directions in which the test images' means vary most."""
        directions, _ = pictures.principal_directions(self.means)
        return self.around_images(Plane(0, 1, (0.0, 0.0), (1.0, 1.0), tuple(map(tuple, directions.T.tolist()))))

    @cached_property
    def placed(self) -> Placed:
        """The first test images placed by UMAP as `callbacks.pictures.plane=umap` does, which takes seconds."""
        at, (right, up) = pictures.plane(self.means, "umap", self.seed)
        return Placed(self.means[: len(at)], at, (right, up))

    def neighbour_plane(self) -> Plane:
        """The plane of UMAP. Several threads may ask for it: it is computed once."""
        with self.placing:
            return self.around_images(Plane(0, 1, (0.0, 0.0), (1.0, 1.0), placed=self.placed))

    def coordinates(self, plane: Plane) -> Tensor:
        """The test images' coordinates in the plane: (N, 1 or 2); of those that it has, (N', 2), if it places them."""
        return plane.placed.at if plane.placed else plane.coordinates(self.means)

    def around_images(self, plane: Plane) -> Plane:
        """A plane that shows where the test images are."""
        found = self.coordinates(plane)
        sides = found.amax(0) - found.amin(0) if plane.placed else self.high - self.low
        ends = [window(along, float(SMALLEST * sides.max())) for along in found.T]
        (left, right), (low, high) = ends[0], ends[-1]
        return plane._replace(low=(left, low), high=(right, high))

    def places(self, plane: Plane) -> Tensor:
        """The test images' places in the plane: (N, 2), or those that it has, (N', 2)."""
        places = plane.fractions(self.coordinates(plane))
        return rows_of_classes(places, self.of_class) if plane.up is None else places

    def labels(self, label: int, num: int = 1) -> Tensor | None:
        """Labels for the model's methods: `num` times a class, or None for a model without classes."""
        return self.vae.labels(torch.full((num,), label))

    @cached_property
    def groups(self) -> list[int]:
        """How many numbers each group of latents below the top one has, from the top down."""
        return [own.shape[1] for own in self.noise_of(self.original(0), self.means[0], int(self.y[0]))]

    @torch.no_grad()
    def decode(self, z: Tensor, label: int, noise: Sequence[Tensor] = ()) -> Tensor:
        """Means of p(x|z) for z (K, D): (K, C, H, W).

        noise: of each group of latents below the top one, (1, n), what its draw is made of; of 0 it is the mean of p
        """
        if isinstance(self.vae, Ladder) and noise:
            drawn = [own.expand(len(z), -1) for own in noise]
            return self.vae.decode_noise(z, self.labels(label, len(z)), drawn).mean.clamp(0, 1)
        return self.vae.decode(z, self.labels(label, len(z))).mean.clamp(0, 1)

    @torch.no_grad()
    def noise_of(self, x: Tensor, z: Tensor, label: int) -> list[Tensor]:
        """The noise (1, n) of the groups below z (D,) with which an image x (C, H, W) is reconstructed."""
        return self.vae.noise_of(x[None], self.labels(label), z[None]) if isinstance(self.vae, Ladder) else []

    @torch.no_grad()
    def encode(self, x: Tensor, label: int) -> Tensor:
        """The mean of q(z|x) for one image (C, H, W): (D,)."""
        return latent_paths.posterior_mean(self.vae.encode(x[None], self.labels(label)))[0]

    def kind(self, label: int) -> str:
        """The name of a class."""
        return self.data.test.images.kind(label)

    def called(self, index: int) -> str:
        """A test image, with its name where it has one, and its class."""
        return called(self.data.test.images, index)

    def short(self, index: int) -> str:
        """A test image in few signs: the end of its name, or its number, and its class."""
        names = self.data.test.images.names
        name = f"image {index}" if names is None else one_line(str(names[index])).rpartition("/")[2]
        parts = (name, one_line(self.kind(int(self.y[index]))))
        return ", ".join(part if len(part) <= SIGNS else f"…{part[1 - SIGNS :]}" for part in parts)

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
            with TemporaryDirectory() as folder:
                file = Path(folder, "image")
                file.write_bytes(content)
                decoded = decode([file], reading_of(self.data), threads=1)
        except OSError as error:
            raise UserError(f"cannot be read: {error}") from error
        if decoded.faults:
            raise UserError(decoded.faults[0])
        return self.data.as_tested(torch.from_numpy(decoded.x))[0]


def called(images: Images, index: int) -> str:
    """An image, with its name where it has one, and its class."""
    name = f"Test image {index}" + ("" if images.names is None else f", {one_line(str(images.names[index]))}")
    return f"{name}, class {one_line(images.kind(int(images.y[index])))}"


def require_plane(vae: VAE) -> None:
    """Raise UserError for a model on a sphere."""
    if vae.posterior.sphere:
        raise UserError("explore shows planes of the latent space: this model's latents lie on a sphere")


@torch.no_grad()
def space_of(vae: VAE, data: ImageData, images: int | None, seed: int) -> Space:
    """The space of a model with the first `images` test images (None: all); what is drawn is drawn by `seed`."""
    count = min(images or len(data.test), len(data.test))
    starts = range(0, count, data.eval_batch_size)
    blocks = [range(start, min(start + data.eval_batch_size, count)) for start in starts]
    shown = track(blocks, "Encoding the test images", console=console, transient=True, disable=not console.is_terminal)
    with fixed_noise(seed, torch.device("cpu")):
        batches = (data.batch("test", block) for block in shown)
        return Space(vae, data, latents(vae, ((x, vae.labels(y)) for x, y in batches)), seed)
