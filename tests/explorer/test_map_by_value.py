"""The plane on the page without a browser: which one, how it is zoomed and steered, by value."""

import asyncio
from types import SimpleNamespace

import pytest
import torch

from cvae.explorer import render
from cvae.explorer.plane import nearest

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
from nicegui import ElementFilter
from space_page import decodes, drawn, event, visiting
from visit import shows

from cvae.explorer import map as map_module
from cvae.explorer import page as module


def test_another_plane(tmp_path, monkeypatch):
    async def act(page, found):
        first = found.first_plane()
        (other,) = set(range(3)) - {first.right, first.up}
        assert list(page.sliders.of) == [other] and page.sliders.card.visible
        page.right.value = other
        await page.choose_plane(SimpleNamespace(sender=page.right))
        assert page.map.plane == found.plane(other, first.up) and list(page.sliders.of) == [first.right]
        assert page.map.picture.source == render.url(render.plane_png(found, page.map.plane))
        page.up.value = other  # that of the other axis: the two change places
        await page.choose_plane(SimpleNamespace(sender=page.up))
        await page.choose_plane(SimpleNamespace(sender=page.right))
        assert (page.right.value, page.up.value) == (first.up, other)
        assert page.map.plane == found.plane(first.up, other)

    visiting("classes", tmp_path, monkeypatch, act)


def test_the_plane_of_the_principal_components(tmp_path, monkeypatch):
    """It moves all dimensions, which all have sliders, and these follow."""

    async def act(page, found):
        page.kind.value = "principal components"
        await page.choose_kind()
        assert page.map.plane == found.principal_plane() and not page.right.visible and not page.up.visible
        assert list(page.sliders.of) == found.order
        before = page.z.clone()
        await page.point(event("mousemove", 0.2, 0.7))
        wanted = found.principal_plane().move(before, 0.2, 0.7)
        await decodes(page, found.decode(wanted[None], 0)[0])
        for dim, slider in page.sliders.of.items():
            assert slider.value == pytest.approx(wanted[dim].item())
        first, second = found.principal_plane().coordinates(wanted).tolist()
        assert page.where.text == f"PC 1 = {first:.2f}    PC 2 = {second:.2f}"
        page.kind.value = "two dimensions"
        await page.choose_kind()
        assert page.map.plane == found.first_plane() and page.right.visible

    visiting("many", tmp_path, monkeypatch, act)


def test_keys_on_the_plane(tmp_path, monkeypatch):
    async def act(page, found):
        await page.point(event("mousemove", 0.3, 0.4))
        plane, x, y = page.map.plane, 0.3, 0.4
        moves = (
            ("ArrowRight", False),
            ("ArrowUp", False),
            ("ArrowLeft", True),
            ("ArrowDown", True),
            ("ArrowDown", False),
        )
        for name, shift in moves:
            far = 0.1 if shift else 0.02
            x += {"ArrowRight": far, "ArrowLeft": -far}.get(name, 0)
            y += {"ArrowDown": far, "ArrowUp": -far}.get(name, 0)
            await page.steer(SimpleNamespace(args={"key": name, "shift": shift}))
            assert page.map.place(page.z) == pytest.approx((x, y), abs=1e-5)
        await decodes(page, found.decode(page.z[None], page.label)[0])
        place = page.map.place(page.z)
        await page.steer(SimpleNamespace(args={"key": "+", "shift": True}))
        assert page.map.place(page.z) == pytest.approx(place, abs=1e-5)  # around where one is
        assert width(page.map.plane) == pytest.approx(0.8 * width(plane))
        await page.steer(SimpleNamespace(args={"key": "0", "shift": False}))
        assert page.map.plane == plane
        await page.steer(SimpleNamespace(args={"key": "Enter", "shift": False}))
        index, _ = nearest(found.places(plane), *place)
        assert page.index == index and torch.equal(page.z, found.means[index])
        shows(page.original.shown, found.original(index))

    visiting("classes", tmp_path, monkeypatch, act)


def width(plane):
    return plane.high[0] - plane.low[0]


def test_buttons_zoom_around_the_middle(tmp_path, monkeypatch):
    async def act(page, found):
        plane = page.map.plane
        buttons = {button.props.get("aria-label"): button for button in ElementFilter(kind=module.ui.button)}
        for name, wanted in (
            ("Zoom in", plane.zoomed(0.5, 0.5, 0.7)), ("Zoom out", plane),
            ("Zoom out", plane.zoomed(0.5, 0.5, 1 / 0.7)), ("Show all images", plane),
        ):  # fmt: skip
            (pressed,) = [own for own in buttons[name]._event_listeners.values() if own.type == "click"]
            before = page.map.plane
            pressed.handler(None)
            for _ in range(2000):  # NiceGUI calls it at its own time
                if page.map.plane != before:
                    break
                await asyncio.sleep(0.005)
            for part in ("low", "high"):
                assert getattr(page.map.plane, part) == pytest.approx(getattr(wanted, part))

    visiting("two", tmp_path, monkeypatch, act)


def test_zoom(tmp_path, monkeypatch):
    async def act(page, found):
        plane, wheel = page.map.plane, {"across": 0.2, "down": 0.9, "factor": 0.5}
        page.index = 3
        await page.map.zoom(SimpleNamespace(args=wheel))
        closer = plane.zoomed(0.2, 0.9, 0.5)
        assert page.map.plane == closer
        assert page.map.picture.source == render.url(render.plane_png(found, closer))
        assert page.map.picture.content == drawn(page, index=3)  # the marks go with it
        index = page.map.nearest(0.4, 0.4)
        assert index == nearest(closer.places(found.means), 0.4, 0.4)[0]
        for factor, most in ((0.001, 1 / 500), (10**6, 4)):  # within limits
            await page.map.zoom_by(0.5, 0.5, factor)
            assert width(page.map.plane) == pytest.approx(most * width(plane))
        await page.map.zoom_by(0.1, 0.1, None)
        assert page.map.plane == plane
        await page.map.zoom_by(0.5, 0.5, 1e-9)  # the limits are of the first size again
        assert page.map.zoomed == 1 / 500 and width(page.map.plane) == pytest.approx(width(plane) / 500)
        page.map.draw.busy = True  # one plane, when another is chosen
        page.map.show(plane)
        assert page.map.draw.outdated and page.map.zoomed == 1
        page.map.draw.busy = False
        asked = []
        monkeypatch.setattr(render, "plane_png", lambda *of: asked.append(of[1]) or b"")
        await asyncio.gather(*(page.map.zoom_by(0.5, 0.5, 0.9) for _ in range(8)))
        assert len(asked) == 2 and asked[-1] == page.map.plane  # the first, and what came last meanwhile

    visiting("two", tmp_path, monkeypatch, act)


def test_a_narrow_screen_has_larger_writing(tmp_path, monkeypatch):
    """As long as it is narrow."""

    async def act(page, found):
        page.index = 3
        closed, busy, hidden = None, TimeoutError("JavaScript did not respond"), 0
        for width, scale in (
            (closed, 1.0),
            (busy, 1.0),
            (hidden, 1.0),
            (900, 1.0),
            (600, 1.0),
            (400, 1.75),
            (100, 2.0),
            (hidden, 2.0),
            (900, 1.0),
            (350, 2.0),
        ):

            async def measured(_, timeout, width=width):
                if width is busy:
                    raise width
                return width

            monkeypatch.setattr(map_module.ui, "run_javascript", measured)
            await page.begin()
            assert page.map.scale == scale
            assert f"h{24 * scale:g}M" in page.map.picture.content
            assert f'r="{11 * scale:g}" fill="none"' in page.map.picture.content
            assert page.map.picture.source == render.url(render.plane_png(found, page.map.plane, scale))

    visiting("two", tmp_path, monkeypatch, act)
