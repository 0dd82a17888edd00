"""What lies above the plane: an SVG of PIXELS x PIXELS."""

from html import escape
from typing import NamedTuple

from torch import Tensor

from cvae.explorer.plane import Plane

PIXELS = 1000  # of a side of the plane's picture
GREY, INK = "#94a3b8", "#0f172a"


class Mark(NamedTuple):
    """A point that is pointed out: A, B, or an image with its number."""

    name: str
    z: Tensor  # (D,)


def overlay(plane: Plane, marks: list[Mark], way: Tensor | None, ring: Tensor | None, scale: float = 1.0) -> str:
    """The marks, a path (K, D), and a ring at a place (2,); all `scale` times as large."""
    parts = []
    if way is not None:
        parts = [circle(place, 4 * scale, f'fill="{INK}" fill-opacity="0.6"') for place in plane.places(way)]
    if ring is not None:
        parts.append(circle(ring, 11 * scale, f'fill="none" stroke="{INK}" stroke-width="3"'))
    for mark in marks:
        (place,) = plane.places(mark.z[None])
        parts.append(circle(place, 16 * scale, f'fill="white" stroke="{INK}" stroke-width="3"'))
        across, down = (PIXELS * place).tolist()
        parts.append(text(mark.name, across, down, 19 * scale, 'font-weight="bold" '))
    return "".join(parts)


def pointer(plane: Plane, z: Tensor, said: str, scale: float = 1.0) -> str:
    """A cross at z (D,), and a name on a white ground beside it, which stays inside of the plane."""
    across, down = (PIXELS * plane.places(z[None])[0]).tolist()
    arm = 12 * scale
    lines = f"M{across - arm:.1f} {down:.1f}h{2 * arm:g}M{across:.1f} {down - arm:.1f}v{2 * arm:g}"
    cross = f'<path d="{lines}" stroke="{INK}" stroke-width="3"/>'
    if not said:
        return cross
    width, height, apart = scale * (11 * len(said) + 16), 30 * scale, 14 * scale
    left = max(min(across + apart, PIXELS - 4 - width), 4)
    top = down - height - apart if down > height + apart else down + apart
    where = f'x="{left:.1f}" y="{top:.1f}" width="{width:g}" height="{height:g}"'
    ground = f'<rect {where} rx="6" fill="white" stroke="{GREY}"/>'
    return cross + ground + text(said, left + width / 2, top + height / 2, 19 * scale)


def circle(place: Tensor, radius: float, style: str) -> str:
    """At a place (2,), fractions of the sides."""
    across, down = (PIXELS * place).tolist()
    return f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius:g}" {style}/>'


def text(said: str, across: float, down: float, size: float, style: str = "") -> str:
    """Around a point in pixels."""
    where = f'x="{across:.1f}" y="{down:.1f}" text-anchor="middle" dominant-baseline="central"'
    return f'<text {where} font-size="{size:g}" {style}fill="{INK}">{escape(said)}</text>'
