"""Hyperbolic space, the Poincaré ball of radius 1/sqrt(c) and curvature -c, in coordinates that have no border.

A point is written as u in R^D, its logarithm at the origin: it lies at the distance |u| from there, in the direction
of u. In float32 points of the ball itself have no digits left near its border, from a distance of about 15 on. Here
only the direction of u is rounded, which moves a point at the distance r by about 6e-8 sinh(sqrt(c) r) / sqrt(c) in
float32, and by 1e-16 as much in float64; `ExpMap` adds no more than the latter.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, constraints

from cvae.distributions.flow import new_inverse
from cvae.distributions.precision import double

SMALL = 1e-4  # squares below which series take the place of quotients


class ExpMap(Transform):
    """The exponential map at a point m: a tangent vector v there (..., D) -> the point u that it leads to (..., D).

    v is in an orthonormal frame, that of the origin carried to m along the geodesic between them (Nagano et al. 2019,
    section 3.1; Mathieu et al. 2019, section 3.2: v = lambda log_m). At a distance of r the map has stretched volumes
    by (sinh(sqrt(c) r) / (sqrt(c) r))^(D-1), so that

        log |du / dv| = (D - 1) (log sinhc(sqrt(c) |v|) - log sinhc(sqrt(c) |u|)), sinhc(x) = sinh(x) / x

    Computed on the hyperboloid, where the map is a Lorentz boost, in float64. What would cancel, numbers as large as
    exp(sqrt(c) r), is kept apart, and what would overflow scaled.

    Args:
        m: (..., D)
        curvature: c, above 0
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, m: Tensor, curvature: float) -> None:
        super().__init__()
        self.m, self.curvature = m, curvature

    inv = new_inverse

    def _call(self, v: Tensor) -> Tensor:
        return self._seen(v, -self.m)

    def _inverse(self, u: Tensor) -> Tensor:
        return self._seen(u, self.m)

    def _seen(self, u: Tensor, m: Tensor) -> Tensor:
        """u (..., D) as seen from m: log_m u, the inverse map. From -m it is the map itself."""
        root = self.curvature**0.5
        at, m = torch.broadcast_tensors(root * double(u), root * double(m))
        inner = (m * at).sum(-1, keepdim=True)
        cancels = inner > 1
        place, scale = boosted(torch.where(cancels, 0, at), torch.where(cancels, 0, m))
        split, split_scale = split_boosted(at, m, torch.where(cancels, inner, 1), cancels)
        place, scale = torch.where(cancels, split, place), torch.where(cancels, split_scale, scale)
        return (place * arsinhc(square(place), scale) / root).to(u.dtype)

    def log_abs_det_jacobian(self, v: Tensor, u: Tensor) -> Tensor:
        """(...)"""
        grown = log_sinhc(self.curvature * square(double(v))) - log_sinhc(self.curvature * square(double(u)))
        return ((v.shape[-1] - 1) * grown.squeeze(-1)).to(v.dtype)


def geodesic(a: Tensor, b: Tensor, steps: int, curvature: float) -> Tensor:
    """Points on the shortest way from a to b (..., D), both included, at an even pace: (steps, ..., D)."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(-1, *[1] * a.dim())
    exp = ExpMap(a, curvature)
    return exp(t * exp.inv(b))


def to_ball(u: Tensor, curvature: float) -> Tensor:
    """The point of the Poincaré ball that u (..., D) stands for: tanh(sqrt(c) |u| / 2) / sqrt(c), in u's direction."""
    root = curvature**0.5
    return F.normalize(u, dim=-1) * (root * u.norm(dim=-1, keepdim=True) / 2).tanh() / root


def from_ball(z: Tensor, curvature: float) -> Tensor:
    """The inverse of `to_ball`, for z (..., D) inside the ball."""
    root = curvature**0.5
    return F.normalize(z, dim=-1) * 2 * (root * z.norm(dim=-1, keepdim=True)).atanh() / root


def boosted(u: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Where the Lorentz boost that takes m (..., D) to the origin takes u: exp(-a) times its place in space, and a.

    That place is sinh of the distance, in the direction of u as seen from m, for c = 1. Nothing cancels unless u and m
    are both far out on one side of the origin.
    """
    far, sinhc, cosh, _ = hyperbolic(square(u))
    away, of_m, _, versed = hyperbolic(square(m))
    space = u * sinhc
    place = (-away).exp() * space + m * (versed * (m * space).sum(-1, keepdim=True) - of_m * cosh)
    return place, far + away


def split_boosted(u: Tensor, m: Tensor, inner: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """`boosted` for points far out on one side, where inner = m u (..., 1) is above 1: by parts that do not cancel.

    With a = |m|, b = |u|, unit vectors m^ and u^, and o = 1 - m^ u^, the part along m^ is

        sinh b cosh a (1 - o) - cosh b sinh a = sinh(b - a) - sinh b cosh a o

    and the other one sinh b (u^ - (1 - o) m^). b - a, o and the latter vector are made of u - m, which has all digits
    where u is near m. Elsewhere than `where` anything finite comes out.
    """
    aa, bb = torch.where(where, square(m), 1), torch.where(where, square(u), 1)
    a, b, away = aa.sqrt(), bb.sqrt(), u - m
    farther = torch.where(where, (away * (u + m)).sum(-1, keepdim=True), 0) / (a + b)  # b - a
    across = (away - m * ((m * away).sum(-1, keepdim=True) / aa)) / b  # u^ - (1 - o) m^, of length sin
    once = 1 + inner / (a * b)  # 1 + cos, and o = sin^2 / (1 + cos)
    with torch.no_grad():  # the logarithm of the larger one of sinh(b - a) and sinh b cosh a o
        scale = torch.maximum(farther.abs(), a + b + (square(across) / once).log())
    grown = across * ((a + b - scale) / 2).clamp(max=300).exp()
    sinh, cosh = -torch.expm1(-2 * b) / 2, (1 + (-2 * a).exp()) / 2  # times exp(-b), exp(-a)
    along = scaled_sinh(farther, scale) - sinh * cosh * square(grown) / once
    return m / a * along + grown * ((farther - scale) / 2).exp() * sinh, scale


def scaled_sinh(x: Tensor, a: Tensor) -> Tensor:
    """exp(-a) sinh(x), for a of at least |x|."""
    near = x.clamp(-1, 1).sinh() * (-a).exp()
    return torch.where(x.abs() < 1, near, ((x - a).exp() - (-x - a).exp()) / 2)


def square(x: Tensor) -> Tensor:
    """|x|^2 of x (..., D): (..., 1)."""
    return x.square().sum(-1, keepdim=True)


def hyperbolic(xx: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, and exp(-a) times sinh(x) / x, cosh(x) and (cosh(x) - 1) / x^2, of x^2: with derivatives at 0.

    a is x, or 0 where x is small, so that nothing overflows.
    """
    small = xx < SMALL
    x = torch.where(small, 1, xx).sqrt()
    return (
        torch.where(small, 0, x),
        torch.where(small, 1 + xx / 6 + xx.square() / 120, -torch.expm1(-2 * x) / (2 * x)),
        torch.where(small, 1 + xx / 2 + xx.square() / 24, (1 + (-2 * x).exp()) / 2),
        torch.where(small, 0.5 + xx / 24 + xx.square() / 720, torch.expm1(-x).square() / (2 * x.square())),
    )


def arsinhc(xx: Tensor, a: Tensor) -> Tensor:
    """arsinh(exp(a) x) / x of x^2, with derivatives at 0, for a at least 0, however large."""
    grown = a.clamp(max=300).exp()
    small = xx * grown.square() < SMALL
    square, x = torch.where(small, xx * grown.square(), 0), torch.where(small, 1, xx).sqrt()
    near = grown * (1 - square / 6 + 3 * square.square() / 40)
    return torch.where(small, near, (a + (x + (x.square() + (-2 * a).exp()).sqrt()).log()) / x)


def log_sinhc(xx: Tensor) -> Tensor:
    """log(sinh(x) / x) of x^2, with derivatives at 0, for x however large."""
    x = torch.where(xx < SMALL, 1, xx).sqrt()
    large = x + torch.log1p(-(-2 * x).exp()) - (2 * x).log()
    return torch.where(xx < SMALL, xx / 6 - xx.square() / 180, large)
