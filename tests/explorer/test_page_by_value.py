"""The page without a browser, by NiceGUI's simulated user: what each event shows, by value."""

import asyncio
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from test_space import png

from cvae.explorer import render
from cvae.explorer.overlay import Mark

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
from nicegui import ElementFilter
from space_page import decodes, drawn, event, of_kind, visiting
from visit import button, emit, pixels, shows, until

from cvae.explorer import page as module
from cvae.explorer.page import LOOK, A, B


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


def test_the_names_of_classes(tmp_path, monkeypatch):
    """In the list of what is decoded, and in the legend in the colours of the points."""
    monkeypatch.setattr(of_kind("classes"), "kind", "ant bee cat dog".split().__getitem__)

    async def act(page, found):
        assert page.classes.options == {0: "ant", 1: "bee", 2: "cat", 3: "dog"} and page.classes.value == 0
        said = [own.text for own in ElementFilter(kind=module.ui.label)]
        assert said[:2] == ["Latent space", "a <b>title</b>"]
        assert [text for text in said if text in ("ant", "bee", "cat", "dog")] == ["ant", "bee", "cat", "dog"]
        dots = [own for own in ElementFilter(kind=module.ui.element) if "dot" in own.classes]
        assert [own.style["background"] for own in dots] == render.colours(4)

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


def test_sliders(tmp_path, monkeypatch):
    async def act(page, found):
        assert list(page.sliders.of) == found.order[2:66]  # that of the highest rate first
        assert page.sliders.title.text == "Other dimensions, by rate: 64 of 68"
        dim = found.order[4]
        slider = page.sliders.of[dim]
        assert slider.props["aria-label"] == f"z[{dim}], {found.rate[dim]:.2f} nats"
        assert slider.value == pytest.approx(page.z[dim].item())
        assert slider.props["min"] == pytest.approx(found.low[dim].item())
        assert slider.props["max"] == pytest.approx(found.high[dim].item())
        before = page.z.clone()
        emit(slider, "update:modelValue", 0.25)
        await until(lambda: page.z[dim] == 0.25)
        moved = before.clone()
        moved[dim] = 0.25
        torch.testing.assert_close(page.z, moved)
        await decodes(page, found.decode(moved[None], 0)[0])
        await page.point(event("mousemove", 0.2, 0.3))
        emit(button("Reset"), "click")
        await until(lambda: page.z[dim] != 0.25)
        assert torch.equal(page.z, page.map.plane.move(before, 0.2, 0.3))  # the sliders' dimensions as at first
        assert slider.value == pytest.approx(before[dim].item())
        page.sliders.show(found.order, page.z, 5)
        assert list(page.sliders.of) == found.order[:5] and page.sliders.title.text == "Dimensions, by rate: 5 of 70"
        page.sliders.show(found.order[:3], page.z, 5)
        assert page.sliders.title.text == "Other dimensions, by rate"

    visiting("many", tmp_path, monkeypatch, act)


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
        emit(button("Redraw, group 3"), "click")
        await until(lambda: page.noise[1] is not page.noise_at_home[1])
        assert torch.equal(page.noise[0], of_image[0]) and not torch.equal(page.noise[1], of_image[1])
        assert page.noise[1].std() == pytest.approx(1, abs=0.3)
        await decodes(page, found.decode(z[None], 0, page.noise)[0])
        emit(button("Mean, group 2"), "click")
        await until(lambda: not page.noise[0].any())
        assert page.noise[1].any()
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
        emit(button("Save PNG"), "click")
        ((of, plane, marks, images, strip),) = drawn
        assert saved == [(b"picture", "latent_space.png")] and of is found and plane == page.map.plane
        assert [mark.name for mark in marks] == ["A", "B", "z"] and torch.equal(marks[2].z, page.z)
        assert list(images) == ["decoded", "original", "reconstruction"] and torch.equal(strip, page.strip)

    visiting("two", tmp_path, monkeypatch, act)
