"""Paths through the latent space: from one point to another, and along single dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions import PowerSpherical

DRAWS = 100  # to estimate a mean that has no closed form


def posterior_mean(q: Distribution) -> Tensor:
    """The mean of q, (B, D); if it has no closed form, the mean of some draws; on a sphere its direction."""
    if isinstance(q, PowerSpherical):
        return q.loc
    try:
        return q.mean
    except NotImplementedError:
        return q.sample((DRAWS,)).mean(0)


def from_to(a: Tensor, b: Tensor, steps: int, spherical: bool) -> Tensor:
    """Points on the way from a to b (..., D), both included: (steps, ..., D).

    spherical: the direction turns at an even pace (White 2016, "Sampling Generative Networks", section 2.1), and the
    distance from 0 goes evenly from that of a to that of b. In many dimensions the draws of N(0, I) lie near a sphere,
    and a straight line would cross its inside. Points of (nearly) the same or the opposite direction are joined by a
    straight line.

    Examples:
        >>> a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> from_to(a, b, steps=3, spherical=False).tolist()
        [[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]]
        >>> from_to(a, b, steps=3, spherical=True).norm(dim=-1)  # on the circle
        tensor([2.0000, 2.0000, 2.0000])
    """
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(-1, *[1] * a.dim())
    straight = (1 - t) * a + t * b
    if not spherical:
        return straight
    angle = F.cosine_similarity(a, b, -1).clamp(-1, 1).acos().unsqueeze(-1)  # (..., 1)
    length = (1 - t) * a.norm(dim=-1, keepdim=True) + t * b.norm(dim=-1, keepdim=True)
    turned = ((1 - t) * angle).sin() * F.normalize(a, dim=-1) + (t * angle).sin() * F.normalize(b, dim=-1)
    arc = length * turned / angle.sin()
    return torch.where(angle.sin() > 1e-3, arc, straight)


def along(z: Tensor, dims: list[int], values: Tensor) -> Tensor:
    """z (..., D) with one of its dimensions set to one value after the other: (len(dims), S, ..., D).

    values: (len(dims), S), those of each dimension.
    """
    moved = z.expand(*values.shape, *z.shape).clone()
    for row, dim in enumerate(dims):
        moved[row, ..., dim] = values[row].to(z).view(-1, *[1] * (z.dim() - 1))
    return moved


def along_sphere(z: Tensor, dims: list[int], values: Tensor) -> Tensor:
    """As `along`, for z on the unit sphere: (len(dims), S, ..., D). Values beyond [-1, 1] stand for the poles.

    The other dimensions keep their direction, so the way is a great circle through both poles of the one that moves.
    """
    values = values.clamp(-1, 1)
    others = along(z, dims, torch.zeros_like(values))
    reach = (1 - values.square()).sqrt().view(*values.shape, *[1] * z.dim()).to(z)
    return along(z, dims, values) - others + reach * F.normalize(others, dim=-1)
