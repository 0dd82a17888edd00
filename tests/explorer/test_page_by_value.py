"""The page without a browser, by NiceGUI's simulated user: what each event shows, by value."""

import asyncio
from functools import cache
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from test_space import png, space

from cvae.explorer import render
from cvae.explorer.overlay import Mark, overlay, pointer
from cvae.explorer.plane import nearest

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
import visit
from nicegui import ElementFilter
from visit import pixels, settled, shows

from cvae.explorer import map as map_module
from cvae.explorer import page as module
from cvae.explorer.page import LOOK, A, B, Page

WORDS = {
    "two": ["model.latent_dim=2"],
    "classes": ["model.latent_dim=3", "conditional=true", "data.num_classes=4"],
    "many": ["model.latent_dim=35"],
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


def test_at_first_the_middle_of_the_test_images_is_decoded(tmp_path, monkeypatch):
    async def act(page, found):
        z = found.means.median(0).values
        await decodes(page, found.decode(z[None], 0)[0])
        assert page.where.text == f"z[0] = {z[0]:.2f}    z[1] = {z[1]:.2f}"
        plane = render.plane_png(found, found.first_plane())
        assert page.map.picture.source == render.url(plane)
        assert page.map.picture.content == drawn(page)
        assert not page.way.visible and page.original.shown.source == "" and not page.sliders.card.visible

    visiting("two", tmp_path, monkeypatch, act)


def test_the_pointer_moves_the_planes_dimensions_alone(tmp_path, monkeypatch):
    async def act(page, found):
        before = page.z.clone()
        await page.point(event("mousemove", 0.25, 0.4))
        wanted = found.first_plane().move(before, 0.25, 0.4)
        torch.testing.assert_close(page.z, wanted)
        await decodes(page, found.decode(wanted[None], 0)[0])
        assert page.map.picture.content == drawn(page) and page.index is None

    visiting("classes", tmp_path, monkeypatch, act)


def test_of_many_places_the_last_is_decoded(tmp_path, monkeypatch):
    async def act(page, found):
        decoded, decode = [], found.decode
        monkeypatch.setattr(found, "decode", lambda z, *more: decoded.append(z) or decode(z, *more))
        places = [(0.1 * i, 0.5) for i in range(10)]
        await asyncio.gather(*(page.point(event("mousemove", *place)) for place in places))
        last = found.first_plane().move(page.z, *places[-1])
        await decodes(page, decode(last[None], 0)[0])
        assert len(decoded) == 2  # the first, and what came last while it was decoded
        monkeypatch.setattr(found, "decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await page.show()
        monkeypatch.setattr(found, "decode", decode)
        await page.point(event("mousemove", 0.3, 0.3))  # a fault does not stop it
        await decodes(page, decode(page.z[None], 0)[0])

    visiting("two", tmp_path, monkeypatch, act)


def test_a_click_stands_at_the_nearest_test_image(tmp_path, monkeypatch):
    async def act(page, found):
        plane = found.first_plane()
        across, down = found.places(plane)[6].tolist()
        await page.point(event("click", across, down))
        label = int(found.y[6])
        assert page.index == 6 and page.label == page.classes.value == label == 2
        assert page.what.text == "Test image 6, class 2"
        assert torch.equal(page.z, found.means[6])
        shows(page.original.shown, found.original(6))
        shows(page.reconstruction.shown, found.decode(found.means[6:7], label)[0])
        await decodes(page, found.decode(found.means[6:7], label)[0])
        assert page.map.picture.content == drawn(page, index=6) and "image 6, 2</text>" in page.map.picture.content
        ((dim, slider),) = page.sliders.of.items()
        assert slider.value == pytest.approx(found.means[6, dim].item())

    visiting("classes", tmp_path, monkeypatch, act)


def test_the_ends_of_the_way(tmp_path, monkeypatch):
    async def act(page, found):
        plane = found.first_plane()
        page.click.value = A
        await page.point(event("click", 0.2, 0.2))
        assert page.index is None and not page.way.visible
        page.click.value = B
        await page.point(event("click", 0.9, 0.3))
        a, b = page.ends["A"], page.ends["B"]
        torch.testing.assert_close(plane.places(torch.stack([a, b])), torch.tensor([[0.2, 0.2], [0.9, 0.3]]))
        way = found.between(a, b, 12)
        wanted = imageio.imread(render.strip_png(found.decode(way, 0), 6))
        np.testing.assert_array_equal(pixels(page.between), wanted)
        assert page.way.visible
        marks = [Mark("A", a), Mark("B", b)]
        await page.show()
        assert page.map.picture.content == drawn(page, marks, way)
        if page.space.vae.num_classes:
            page.classes.value = 3
            await page.choose_class()
            wanted = imageio.imread(render.strip_png(found.decode(way, 3), 6))
            np.testing.assert_array_equal(pixels(page.between), wanted)
            await decodes(page, found.decode(page.z[None], 3)[0])

    visiting("classes", tmp_path, monkeypatch, act)


def key(name, down=True, ctrl=False):
    return SimpleNamespace(
        key=SimpleNamespace(name=name), action=SimpleNamespace(keydown=down), modifiers=SimpleNamespace(ctrl=ctrl)
    )


def test_keys(tmp_path, monkeypatch):
    async def act(page, found):
        await page.point(event("mousemove", 0.2, 0.2))
        for other in (key("c"), key("a", down=False), key("a", ctrl=True)):
            page.key(other)
        assert page.ends == {}
        page.key(key("a"))
        await page.point(event("mousemove", 0.4, 0.2))
        page.key(key("B"))
        first, second = found.first_plane().places(torch.stack([page.ends["A"], page.ends["B"]])).tolist()
        assert first == pytest.approx([0.2, 0.2]) and second == pytest.approx([0.4, 0.2])

    visiting("two", tmp_path, monkeypatch, act)


def uploaded(name, content, size=None):
    async def read():
        return content

    return SimpleNamespace(file=SimpleNamespace(name=name, read=read, size=lambda: size or len(content)))


def test_an_image_of_ones_own(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(module, "complain", said.append)

    async def act(page, found):
        levels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
        x = found.read(png(levels))
        page.index = 3
        page.classes.value = 1
        await page.choose_class()
        await page.receive(uploaded("<b>mine</b>.png", png(levels)))
        z = found.encode(x, 1)
        assert page.what.text == "1: <b>mine</b>.png" and page.index is None and page.label == 1
        torch.testing.assert_close(page.own[0], z)
        torch.testing.assert_close(page.z, z)
        shows(page.original.shown, x)
        shows(page.reconstruction.shown, found.decode(z[None], 1)[0])
        await decodes(page, found.decode(z[None], 1)[0])
        await page.receive(uploaded("two.png", png(255 - levels)))
        assert [mark.name for mark in page.marks()] == ["1", "2"] and page.what.text == "2: two.png"
        await page.receive(uploaded("notes.png", b"no image"))
        await page.receive(uploaded("large.png", png(levels), 20_000_001))
        assert said == ["notes.png: not an image of a known format", "large.png: at most 20,000,000 bytes are taken"]
        assert len(page.own) == 2

    visiting("classes", tmp_path, monkeypatch, act)


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


def test_sliders(tmp_path, monkeypatch):
    async def act(page, found):
        assert list(page.sliders.of) == found.order[2:]  # that of the highest rate first
        assert page.sliders.title.text == "Other dimensions, by rate"
        dim = found.order[4]
        slider = page.sliders.of[dim]
        assert slider.props["aria-label"] == f"z[{dim}], {found.rate[dim]:.2f} nats"
        assert slider.value == pytest.approx(page.z[dim].item())
        assert slider.props["min"] == pytest.approx(found.low[dim].item())
        assert slider.props["max"] == pytest.approx(found.high[dim].item())
        before = page.z.clone()
        await page.turn(dim, 0.25)
        moved = before.clone()
        moved[dim] = 0.25
        torch.testing.assert_close(page.z, moved)
        await decodes(page, found.decode(moved[None], 0)[0])
        await page.point(event("mousemove", 0.2, 0.3))
        await page.reset()
        assert torch.equal(page.z, page.map.plane.move(before, 0.2, 0.3))  # the sliders' dimensions as at first
        assert slider.value == pytest.approx(before[dim].item())
        page.sliders.show(found.order, page.z, 5)
        assert list(page.sliders.of) == found.order[:5] and page.sliders.title.text == "Dimensions, by rate: 5 of 35"

    visiting("many", tmp_path, monkeypatch, act)


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


def strip(page, found, noise):
    """The pixels of the images between A and B."""
    way = found.between(page.ends["A"], page.ends["B"], 12)
    return imageio.imread(render.strip_png(found.decode(way, 0, noise), 6))


def test_groups_of_a_ladder(tmp_path, monkeypatch):
    """At first at the mean of p, then as the image has them, then one drawn anew, and back."""

    async def act(page, found):
        assert [own.shape for own in page.noise] == [(1, 16), (1, 64)] and not any(own.any() for own in page.noise)
        await page.point(event("click", *found.places(page.map.plane)[5].tolist()))
        x, z = found.original(5), found.means[5]
        of_image = found.noise_of(x, z, 0)
        shows(page.reconstruction.shown, found.decode(z[None], 0, of_image)[0])
        await decodes(page, found.decode(z[None], 0, of_image)[0])
        await page.draw_group(1)
        assert torch.equal(page.noise[0], of_image[0]) and not torch.equal(page.noise[1], of_image[1])
        assert page.noise[1].std() == pytest.approx(1, abs=0.3)
        await decodes(page, found.decode(z[None], 0, page.noise)[0])
        await page.draw_group(0, 0.0)
        assert not page.noise[0].any()
        for end, place in (("A", 0.2), ("B", 0.8)):
            page.z = torch.full_like(page.z, place)
            page.set_end(end)
        page.z = z
        await page.reset()  # the images between the ends have the same noise again
        await decodes(page, found.decode(z[None], 0, of_image)[0])
        np.testing.assert_array_equal(pixels(page.between), strip(page, found, of_image))
        await page.point(event("click", *found.places(page.map.plane)[6].tolist()))
        noise = found.noise_of(found.original(6), found.means[6], 0)
        np.testing.assert_array_equal(pixels(page.between), strip(page, found, noise))

    visiting("ladder", tmp_path, monkeypatch, act)


def test_one_dimension(tmp_path, monkeypatch):
    async def act(page, found):
        await page.point(event("click", *found.places(found.first_plane())[4].tolist()))
        assert page.index == 4 and page.where.text == f"z[0] = {found.means[4, 0]:.2f}"
        assert page.click.value == LOOK

    visiting("one", tmp_path, monkeypatch, act)


def test_what_is_saved(tmp_path, monkeypatch):
    saved, drawn = [], []
    monkeypatch.setattr(module.ui.download, "content", lambda *arguments: saved.append(arguments), raising=False)
    monkeypatch.setattr(render, "snapshot", lambda *arguments: drawn.append(arguments) or b"picture")

    async def act(page, found):
        page.set_end("A")
        page.set_end("B")
        await page.point(event("click", 0.5, 0.5))
        monkeypatch.setattr(module.ui, "download", SimpleNamespace(content=lambda *a: saved.append(a)))
        page.save()
        ((of, plane, marks, images, strip),) = drawn
        assert saved == [(b"picture", "latent_space.png")] and of is found and plane == page.map.plane
        assert [mark.name for mark in marks] == ["A", "B", "z"] and torch.equal(marks[2].z, page.z)
        assert list(images) == ["decoded", "original", "reconstruction"] and torch.equal(strip, page.strip)

    visiting("two", tmp_path, monkeypatch, act)
