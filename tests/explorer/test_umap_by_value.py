"""The plane of UMAP on the page: which image a place means, and that the page goes on while images are placed."""

import threading
from types import SimpleNamespace

import pytest
import torch

from cvae.explorer import render
from cvae.explorer.plane import nearest

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
from space_page import decodes, drawn, event, of_kind, visiting
from visit import emit, until

from cvae.explorer import choice as module
from cvae.explorer import space as space_module
from cvae.explorer import widgets
from cvae.explorer.choice import COMPUTING, PAIR, PRINCIPAL, UMAP
from cvae.explorer.page import A

AT = 10 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0))  # of 23 images


@pytest.fixture
def placing(monkeypatch):
    """UMAP that puts the first images at AT once it may: what it is called with, and what allows it."""
    asked, may = [], threading.Event()

    def plane(*of):
        asked.append(of)
        may.wait(60)
        return AT, ["UMAP 1", "UMAP 2"]

    monkeypatch.setattr(space_module.pictures, "plane", plane)
    monkeypatch.setattr(module, "find_spec", lambda name: name == "umap")
    of_kind("classes").__dict__.pop("placed", None)  # of another test
    yield asked, may
    may.set()


def test_the_pointer_takes_the_z_of_the_nearest_image(tmp_path, monkeypatch, placing):
    _, may = placing
    may.set()

    async def act(page, found):
        page.choice.kind.value = UMAP
        await until(lambda: page.map.plane.placed)
        plane = page.map.plane
        assert plane == found.neighbour_plane() and list(page.sliders.of) == found.order
        assert "takes the z of the nearest image, of the first 20: between" in page.choice.note.text
        assert page.map.picture.source == render.url(render.plane_png(found, plane))
        places = plane.fractions(AT)
        for across, down in ((0.3, 0.6), (0.8, 0.2)):
            index, distance = nearest(places, across, down)
            assert distance > 0.012  # nothing is at the pointer itself
            await page.point(event("mousemove", across, down))
            assert torch.equal(page.z, found.means[index])
            await decodes(page, found.decode(found.means[index][None], 0)[0])
            assert page.map.picture.content == drawn(page) and f"image {index}, " in page.map.picture.content
            assert page.where.text == "    ".join(f"UMAP {k + 1} = {AT[index, k]:.2f}" for k in (0, 1))
            for dim, slider in page.sliders.of.items():
                assert slider.value == pytest.approx(found.means[index, dim].item())
        await page.point(event("click", 0.3, 0.6))
        index, _ = nearest(places, 0.3, 0.6)
        assert page.index == index and page.what.text == f"Test image {index}, class {int(found.y[index])}"
        assert torch.equal(page.z, found.means[index]) and page.map.picture.content == drawn(page, index=index)
        page.click.value = A
        await page.point(event("click", 0.8, 0.2))
        assert torch.equal(page.ends["A"], found.means[nearest(places, 0.8, 0.2)[0]])
        before = page.z
        await page.steer(SimpleNamespace(args={"key": "ArrowLeft", "shift": True}))
        assert torch.equal(page.z, plane.step(before, -1, 0, 0.1)) and not torch.equal(page.z, before)
        page.index = 22  # which has no place here
        page.draw_marks()
        assert 'fill="none"' not in page.map.picture.content

    visiting("classes", tmp_path, monkeypatch, act)


def test_the_page_goes_on_while_images_are_placed(tmp_path, monkeypatch, placing):
    """Once, and only when it is chosen."""
    asked, may = placing

    async def act(page, found):
        choice = page.choice
        assert choice.kind.options == [PAIR, PRINCIPAL, UMAP] and not choice.note.visible
        choice.kind.value = UMAP
        await until(lambda: asked)
        assert choice.note.visible and choice.note.text == COMPUTING
        assert not choice.right.visible and not choice.up.visible
        await page.point(event("mousemove", 0.25, 0.4))
        wanted = found.first_plane().move(found.means.median(0).values, 0.25, 0.4)
        await decodes(page, found.decode(wanted[None], 0)[0])
        choice.kind.value = PRINCIPAL  # and something else is chosen
        await until(lambda: page.map.plane == found.principal_plane())
        may.set()
        await until(lambda: "placed" in found.__dict__)
        await decodes(page, found.decode(page.z[None], 0)[0])
        assert page.map.plane == found.principal_plane() and not choice.note.visible
        choice.kind.value = UMAP
        await until(lambda: page.map.plane == found.neighbour_plane())
        choice.kind.value = PAIR
        await until(lambda: page.map.plane == found.first_plane())
        assert choice.right.visible and choice.up.visible and not choice.note.visible
        assert [of[1:] for of in asked] == [("umap", 0)] and asked[0][0] is found.means

    visiting("classes", tmp_path, monkeypatch, act)


def test_images_that_cannot_be_placed(tmp_path, monkeypatch, placing):
    """The user is told why, and sees the plane of two dimensions again."""
    pages, said = [], []
    monkeypatch.setattr(widgets, "complain", said.append)

    def fails(*_):
        raise ValueError("too few images")

    monkeypatch.setattr(space_module.pictures, "plane", fails)

    async def act(page, found):
        pages.append(page)
        emit(page.choice.kind, "update:modelValue", {"value": 2, "label": UMAP})
        await until(lambda: False)

    with pytest.raises(ValueError, match="too few images"):
        visiting("classes", tmp_path, monkeypatch, act)
    assert said == ["ValueError: too few images"] and pages[0].choice.kind.value == PAIR


def test_umap_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    async def act(page, found):
        assert page.choice.kind.options == [PAIR, PRINCIPAL]

    visiting("classes", tmp_path, monkeypatch, act)
