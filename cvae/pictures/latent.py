"""Content for pictures of the latent space: the manifold's images, and a plane for more than two dimensions."""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import one_of
from cvae.distributions import Unknown, factorizes, to_ball
from cvae.distributions.ball import from_ball
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.pictures.plots import latent_map, manifold

PLANES = {"pca": None, "tsne": "sklearn", "umap": "umap"}  # how a plane is found, and the package that it takes
DRAWS = 10_000  # of a prior, for the quantiles of its marginals
NEIGHBOURS = 2000  # points that are placed by their neighbours, which takes long


def quantiles(p: Distribution | Tensor, steps: int) -> Tensor:
    """The quantiles 0.05 … 0.95 of each dimension of p(z), event (D,), or of points (N, D): (steps, D).

    Exact where p is independent over the dimensions, else those of draws, and so of its marginals.
    """
    levels = torch.linspace(0.05, 0.95, steps)
    if isinstance(p, Tensor):
        return p.quantile(levels.to(p), 0)
    if factorizes(p):
        base = p.base_dist
        return base.icdf(levels.to(base.mean).unsqueeze(1).expand(-1, *p.event_shape))
    z = p.sample((DRAWS,))
    return z.quantile(levels.to(z), 0)


@torch.no_grad()
def code_maps(vae: VAE, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Images x (N, C, H, W), their codes as colours, a row for each map of codes, and the reconstructions from these.

    (R, N, 3, H, W) in [0, 1]. Codes that do not lie on a map are a strip. Colours go by the codes' numbers.
    """
    z = vae.encode(x, y).sample()
    places = vae.latent_map or (1, z.shape[-1] // vae.posterior.width)
    coloured = code_colours(vae.posterior.read(z), vae.posterior.num_codes or 1).to(x)  # (N, M, 3)
    maps = coloured.mT.unflatten(-1, (-1, *places)).permute(2, 0, 1, 3, 4)  # (n, N, 3, H', W')
    shown = torch.stack([F.interpolate(each, x.shape[2:]) for each in maps])
    around = torch.stack([x, vae.decode(z, y).mean]).expand(-1, -1, 3, -1, -1)
    return torch.cat([around[:1], shown, around[1:]])


def code_colours(codes: Tensor, num_codes: int) -> Tensor:
    """Codes (...) as colours (..., 3) in [0, 1], by their numbers."""
    share = codes.float() / max(num_codes - 1, 1)
    return torch.from_numpy(colormaps["turbo"](share.cpu().numpy())[..., :3])


@torch.no_grad()
def latent_manifold(vae: VAE, z: Tensor, label: int | None = None) -> Tensor:
    """Decoded means over the plane that the values z (steps, 2) of two dimensions span: (steps * steps, C, H, W).

    Row by row: z[0] grows to the right and z[1] upwards, as in the scatter (the tutorial's grows downwards).

    label: the class, for a conditional model.
    """
    up, right = torch.meshgrid(z[:, 1].flip(0), z[:, 0], indexing="ij")  # the first row is the highest
    points = torch.stack([right, up], -1).reshape(-1, 2)
    labels = None if label is None else torch.full((len(points),), label, device=z.device)
    return vae.decode(points, labels).mean


@torch.no_grad()
def sphere_map(vae: VAE, steps: int, label: int | None = None) -> tuple[Tensor, Tensor]:
    """Decoded means over a map of the sphere of three numbers, (steps * steps, C, H, W), and its axes (steps, 2).

    Longitude, atan2(z[1], z[0]), grows to the right and latitude, asin(z[2]), upwards; both in degrees. Without the
    poles, where all longitudes meet.

    label: the class, for a conditional model.
    """
    middles = (torch.arange(steps) + 0.5) / steps - 0.5
    degrees = torch.stack([360 * middles, 180 * middles], 1)
    up, right = torch.meshgrid(degrees[:, 1].flip(0).deg2rad(), degrees[:, 0].deg2rad(), indexing="ij")
    points = torch.stack([up.cos() * right.cos(), up.cos() * right.sin(), up.sin()], -1).reshape(-1, 3)
    points = points.to(next(vae.parameters()))
    labels = None if label is None else torch.full((len(points),), label, device=points.device)
    return vae.decode(points, labels).mean, degrees


@torch.no_grad()
def disc_map(vae: VAE, steps: int, label: int | None = None) -> tuple[Tensor, Tensor]:
    """Decoded means over the Poincaré disc, (steps * steps, C, H, W), white outside of it, and its axes (steps, 2).

    The disc that is shown holds 95 % of p(z); z[0] grows to the right and z[1] upwards.

    label: the class, for a conditional model.
    """
    curvature = vae.posterior.curvature
    far = vae.p_z().sample((DRAWS,)).norm(dim=-1).quantile(0.95)
    reach = to_ball(far.view(1), curvature)
    axis = (2 * (torch.arange(steps, device=far.device) + 0.5) / steps - 1) * reach
    up, right = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    points = torch.stack([right, up], -1).reshape(-1, 2)
    inside = points.norm(dim=-1) < reach
    z = from_ball(points[inside], curvature)
    decoded = vae.decode(z, None if label is None else torch.full((len(z),), label, device=z.device)).mean
    images = decoded.new_ones(len(points), *decoded.shape[1:])
    images[inside] = decoded
    return images, torch.stack([axis, axis], 1).cpu()


def decoded_map(vae: VAE, means: Tensor, steps: int, label: int | None, of_class: str) -> np.ndarray:
    """The manifold: what is decoded over quantiles of p(z), or where there is none of `means`.

    On a sphere it is its map, of hyperbolic space the disc.

    means: (N, D), D = 2, of images; on a sphere D = 3. of_class: said behind the title.
    """
    if vae.posterior.sphere:
        images, degrees = sphere_map(vae, steps, label)
        return manifold(images, degrees, f"decoded map of the sphere{of_class}", ("longitude, degrees", "latitude"))
    if vae.posterior.curvature:
        images, axes = disc_map(vae, steps, label)
        title = f"decoded Poincaré disc, 95 % of p(z){of_class}"
        return manifold(images, axes, title, ("disc, right", "disc, up"))
    p = vae.p_z()
    z, of = (quantiles(means, steps), "the codes") if isinstance(p, Unknown) else (quantiles(p, steps), "p(z)")
    return manifold(latent_manifold(vae, z, label), z, f"decoded quantiles of {of}{of_class}")


def scatter(vae: VAE, means: Tensor, labels: Tensor, classes: Sequence[str] | None) -> np.ndarray:
    """The posterior means (N, 2) of the test images by class; of hyperbolic space their points of the Poincaré disc."""
    title, names = "posterior means of the test images", ("z[0]", "z[1]")
    if not (curvature := vae.posterior.curvature):
        return latent_map(means.numpy(), labels.numpy(), names, title, classes)
    points, names = to_ball(means, curvature).numpy(), ("disc, right", "disc, up")
    return latent_map(points, labels.numpy(), names, f"{title} in the Poincaré disc", classes, curvature**-0.5)


def require_plane(key: str, how: str) -> str:
    """Return `how`, or raise ConfigError unless it is one of PLANES and its package is installed."""
    package = PLANES[one_of(key, how, tuple(PLANES))]
    if package and not find_spec(package):
        raise ConfigError(key, how, "pca, or needs more packages: pip install -e '.[maps]'")
    return how


def plane(means: Tensor, how: str, seed: int) -> tuple[Tensor, list[str]]:
    """Points (N', 2) of a plane for means (N, D), and what its axes are called.

    pca: the two directions in which the means vary most. tsne, umap: the first 2,000 points, placed so that neighbours
    stay neighbours; distances between groups mean little. Fewer than 4 points, too few for UMAP, are shown as by pca.
    """
    if how == "pca" or len(means) < 4:
        return principal_components(means)
    few = means[:NEIGHBOURS].numpy()
    if how == "tsne":
        from sklearn.manifold import TSNE

        found = TSNE(2, random_state=seed, perplexity=min(30, (len(few) - 1) / 3)).fit_transform(few)
    else:
        from umap import UMAP

        found = UMAP(n_neighbors=min(15, len(few) - 1), random_state=seed, n_jobs=1).fit_transform(few)
    name = {"tsne": "t-SNE", "umap": "UMAP"}[how]
    return torch.as_tensor(found), [f"{name} 1", f"{name} 2"]


def principal_components(means: Tensor) -> tuple[Tensor, list[str]]:
    """Means (N, D) along the two directions of largest variance (N, 2), and what the axes are called."""
    directions, share = principal_directions(means)
    names = [f"principal component {number}: {part:.0%} of the variance" for number, part in enumerate(share, 1)]
    return ((means - means.mean(0)).cpu().double() @ directions).float(), names


def principal_directions(means: Tensor) -> tuple[Tensor, Tensor]:
    """The two directions in which means (N, D) vary most, float64 (D, 2), and their shares of the variance (2,).

    Each direction's largest entry is positive.
    """
    centred = (means - means.mean(0)).cpu().double()
    variance, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    first = directions.flip(1)[:, :2]
    largest = first.gather(0, first.abs().argmax(0, keepdim=True))
    return first * largest.sign(), variance.flip(0)[:2] / variance.sum().clamp(min=1e-12)
