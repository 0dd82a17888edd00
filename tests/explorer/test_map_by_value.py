"""The plane on the page without a browser: which one, how it is zoomed and steered, by value."""

import asyncio
from types import SimpleNamespace

import pytest
import torch

from cvae.explorer import render
from cvae.explorer.plane import nearest

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
from space_page import decodes, drawn, event, visiting
from visit import button, emit, shows, until

from cvae.explorer import map as map_module


def test_another_plane(tmp_path, monkeypatch):
    async def act(page, found):
        first = found.first_plane()
        (other,) = set(range(3)) - {first.right, first.up}
        assert list(page.sliders.of) == [other] and page.sliders.card.visible
        page.choice.right.value = other
        await page.choice.choose_pair(SimpleNamespace(sender=page.choice.right))
        assert page.map.plane == found.plane(other, first.up) and list(page.sliders.of) == [first.right]
        assert page.map.picture.source == render.url(render.plane_png(found, page.map.plane))
        page.choice.up.value = other  # that of the other axis: the two change places
        await page.choice.choose_pair(SimpleNamespace(sender=page.choice.up))
        await page.choice.choose_pair(SimpleNamespace(sender=page.choice.right))
        assert (page.choice.right.value, page.choice.up.value) == (first.up, other)
        assert page.map.plane == found.plane(first.up, other)
        for kind, plane in (("principal components", found.principal_plane()), ("two dimensions", page.map.plane)):
            page.choice.kind.value = kind
            await until(lambda plane=plane: page.map.plane == plane)  # the two that were chosen

    visiting("classes", tmp_path, monkeypatch, act)


def test_the_plane_of_the_principal_components(tmp_path, monkeypatch):
    """It moves all dimensions, which all have sliders, and these follow."""

    async def act(page, found):
        page.choice.kind.value = "principal components"
        await page.choice.choose_kind()
        assert (
            page.map.plane == found.principal_plane() and not page.choice.right.visible and not page.choice.up.visible
        )
        assert list(page.sliders.of) == found.order[:64]
        before = page.z.clone()
        await page.point(event("mousemove", 0.2, 0.7))
        wanted = found.principal_plane().move(before, 0.2, 0.7)
        await decodes(page, found.decode(wanted[None], 0)[0])
        for dim, slider in page.sliders.of.items():
            assert slider.value == pytest.approx(wanted[dim].item())
        first, second = found.principal_plane().coordinates(wanted).tolist()
        assert page.where.text == f"PC 1 = {first:.2f}    PC 2 = {second:.2f}"
        page.choice.kind.value = "two dimensions"
        await page.choice.choose_kind()
        assert page.map.plane == found.first_plane() and page.choice.right.visible

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


def same(plane, wanted):
    """Up to rounding."""
    ends = zip((plane.low, plane.high), (wanted.low, wanted.high), strict=True)
    return all(one == pytest.approx(other) for one, other in ends) and plane[:2] == wanted[:2]


def test_buttons_zoom_around_the_middle(tmp_path, monkeypatch):
    async def act(page, found):
        plane = page.map.plane
        for name, wanted in (
            ("Zoom in", plane.zoomed(0.5, 0.5, 0.7)), ("Zoom out", plane),
            ("Zoom out", plane.zoomed(0.5, 0.5, 1 / 0.7)), ("Show all images", plane),
        ):  # fmt: skip
            emit(button(name), "click")
            await until(lambda wanted=wanted: same(page.map.plane, wanted))

    visiting("two", tmp_path, monkeypatch, act)


def test_what_the_browser_sends(tmp_path, monkeypatch):
    """The wheel, keys, and another size of the window reach the plane, which says what it is."""

    async def act(page, found):
        plane, picture = page.map.plane, page.map.picture
        emit(picture, "zoom", {"across": 0.2, "down": 0.9, "factor": 0.5})
        await until(lambda: same(page.map.plane, plane.zoomed(0.2, 0.9, 0.5)))
        emit(picture, "keydown", {"key": "0", "shift": False})
        await until(lambda: page.map.plane == plane)
        monkeypatch.setattr(map_module.ui, "run_javascript", measured := Measured(350))
        emit(picture, "resized")
        await until(lambda: page.map.scale == 2)
        assert measured.asked == [(f"getHtmlElement({picture.id}).clientWidth", 20)]
        assert picture.props["events"] == ["mousemove", "click"] and picture.props["tabindex"] == "0"
        assert "Wheel or two fingers zoom." in picture.props["aria-label"]

    visiting("two", tmp_path, monkeypatch, act)


class Measured:
    """A browser that says how wide the plane is."""

    def __init__(self, width):
        self.width, self.asked = width, []

    async def __call__(self, code, timeout):
        self.asked.append((code, timeout))
        if isinstance(self.width, Exception):
            raise self.width
        return self.width


def test_another_plane_is_zoomed_and_shown_as_a_whole(tmp_path, monkeypatch):
    async def act(page, found):
        first = found.first_plane()
        (other,) = set(range(3)) - {first.right, first.up}
        plane = found.plane(other, first.up)
        page.map.show(plane)
        place = page.map.place(page.z)  # which stays where it is
        for name, factor in (("=", 0.8), ("_", 1.0), ("-", 1.25), ("0", 1.0)):
            await page.steer(SimpleNamespace(args={"key": name, "shift": True}))
            assert same(page.map.plane, plane.zoomed(*place, factor)), name
        assert page.map.plane == plane

    visiting("classes", tmp_path, monkeypatch, act)


def test_the_name_of_what_is_near(tmp_path, monkeypatch):
    """Of the image that is nearest to the point, within 1.2 % of the plane's side."""

    async def act(page, found):
        plane = page.map.plane.zoomed(*found.places(page.map.plane)[4].tolist(), 0.01)  # no other image is as near
        page.map.show(plane)
        across, down = found.places(plane)[4].tolist()
        for apart, named in ((0.011, True), (-0.011, True), (0.013, False), (-0.013, False)):
            for place in ((across + apart, down), (across, down + apart)):
                await page.point(event("mousemove", *place))
                assert ("image 4, 4</text>" in page.map.picture.content) is named

    visiting("two", tmp_path, monkeypatch, act)


def test_the_server_is_about_to_end(tmp_path, monkeypatch):
    """Nothing is drawn any more, and nothing fails."""

    async def act(page, found):
        async def ending(*_):
            return None

        monkeypatch.setattr(map_module.run, "io_bound", ending)
        source, decoded = page.map.picture.source, page.decoded.shown.source
        await page.map.zoom_by(0.5, 0.5, 0.5)
        await page.point(event("mousemove", 0.2, 0.2))
        assert page.map.picture.source == source and page.decoded.shown.source == decoded

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
            (closed, 1.0), (busy, 1.0), (hidden, 1.0), (900, 1.0), (600, 1.0), (570, 700 / 570), (400, 1.75),
            (100, 2.0), (hidden, 2.0), (900, 1.0), (350, 2.0),
        ):  # fmt: skip
            monkeypatch.setattr(map_module.ui, "run_javascript", Measured(width))
            await page.begin()
            assert page.map.scale == scale
            assert f"h{24 * scale:g}M" in page.map.picture.content
            assert f'r="{11 * scale:g}" fill="none"' in page.map.picture.content
            assert page.map.picture.source == render.url(render.plane_png(found, page.map.plane, scale))
        other = found.plane(1, 0)
        page.map.show(other)
        assert page.map.picture.source == render.url(render.plane_png(found, other, 2.0))

    visiting("two", tmp_path, monkeypatch, act)
