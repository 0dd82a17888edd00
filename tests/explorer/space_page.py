"""Pages of tiny spaces, and what is expected on them, for the tests of the page without a browser."""

from functools import cache
from types import SimpleNamespace

import torch
import visit
from test_space import space
from visit import settled, shows

from cvae.explorer.overlay import overlay, pointer
from cvae.explorer.page import Page

WORDS = {
    "two": ["model.latent_dim=2"],
    "classes": ["model.latent_dim=3", "conditional=true", "data.num_classes=4"],
    "many": ["model.latent_dim=70"],
    "one": ["model.latent_dim=1"],
    "ladder": ["model=ladder", "model.latent_dim=3", "model.groups=[2x1,4x1]", "model.width=4"],
}


@cache
def of_kind(kind):
    found = space(*WORDS[kind])
    if kind == "ladder":  # whose groups do nothing at first
        for part in found.vae.parameters():
            part.data += 0.2 * torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
    return found


def visiting(kind, tmp_path, monkeypatch, act):
    """Run `act(page, found)` on the page of a space."""
    found = of_kind(kind)

    async def shown(page):
        await page.show()
        await act(page, found)

    return visit.visiting(lambda: Page(found, "a <b>title</b>"), tmp_path, monkeypatch, shown)


async def decodes(page, image):
    """What is decoded in the end."""
    await settled(page.show)
    shows(page.decoded.shown, image)


def drawn(page, marks=(), way=None, index=None):
    """What lies above the plane: marks, the way, a ring around a test image, and where one is, with what is there."""
    plane, places = page.map.plane, page.space.places(page.map.plane)
    (here,) = plane.places(page.z[None])
    distances = (places - here).norm(dim=1)
    said = page.space.short(int(distances.argmin())) if distances.min() < 0.012 else ""
    ring = None if index is None else places[index]
    return overlay(plane, list(marks), way, ring) + pointer(plane, page.z, said)


def event(kind, across, down):
    return SimpleNamespace(type=kind, image_x=1000 * across, image_y=1000 * down)
