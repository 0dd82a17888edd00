"""A page without a server: a table of decoded images instead of a model, for two latent dimensions."""

import json
from collections.abc import Sequence
from importlib.resources import files

import torch
from torch import Tensor

from cvae import pictures
from cvae.distributions import is_discrete
from cvae.errors import UserError
from cvae.explorer import render
from cvae.explorer.plane import Plane
from cvae.explorer.space import Space
from cvae.models.vae import VAE

STEPS = 41  # images at most along a side of the table
PIXELS = 2000  # about, of a side of the table
CLASSES = 10  # tables at most, one a class


def require_two_dimensions(vae: VAE) -> None:
    """Raise UserError unless the model has two latent dimensions."""
    if is_discrete(vae.p_z()):
        raise UserError("--html: a table needs latents that are numbers: between two codes there is nothing")
    (dims,) = vae.shapes[0]
    if dims != 2:
        raise UserError(f"--html: a table needs a model with two latent dimensions, this one has {dims}: leave it out")


def page(space: Space, title: str) -> str:
    """The page as HTML that asks for nothing else: tables of decoded images, the test images' places as a picture.

    For two latent dimensions.
    """
    plane, (_, height, width) = space.plane(0, 1), space.data.image_shape
    steps = max(2, min(STEPS, PIXELS // max(height, width)))
    labels = range(min(space.vae.num_classes, CLASSES)) if space.vae.num_classes else [0]
    z = grid(space, plane, steps)
    data = {
        "title": title, "low": plane.low, "high": plane.high, "height": height, "width": width, "steps": steps,
        "tables": [render.url(table_png(space, z.split(steps), label)) for label in labels],
        "points": render.url(render.plane_png(space, plane)), "classes": render.classes(space),
        "names": [space.kind(label) for label in labels],
    }  # fmt: skip
    template = files("cvae.explorer").joinpath("table.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", json.dumps(data).replace("<", "\\u003c"))  # no text can end the script


def grid(space: Space, plane: Plane, steps: int) -> Tensor:
    """The points (steps^2, 2) of a table over the plane, row by row from the upper left corner."""
    ends = torch.linspace(0, 1, steps).tolist()
    return torch.stack([plane.move(space.means[0], across, down) for down in ends for across in ends])


def table_png(space: Space, rows: Sequence[Tensor], label: int) -> bytes:
    """The images of a class at the points of the rows, (steps, 2) each, as one picture."""
    images = torch.cat([space.decode(row, label) for row in rows])  # all at once could take gigabytes
    return pictures.png(pictures.grid(images, len(rows), padding=0, zoom=1))
