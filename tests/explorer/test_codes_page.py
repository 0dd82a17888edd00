"""The page for codes, by NiceGUI's simulated user: which place is chosen, which code it has, what is decoded."""

from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from test_space import close, parts

from cvae.explorer.codes import CodeSpace

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
import visit
from visit import pixels, settled, shows

from cvae.explorer.codes_page import CodesPage, frames

FSQ = ["posterior=fsq", "prior=uniform", "data.image_shape=[1,8,8]"]
MAP = ["model=resnet", "model.latent_map=true", "model.latent_dim=8", "model.width=4", *FSQ]  # two maps of 2x2 codes


def of_codes(*words):
    vae, data = parts(*(words or MAP))
    return CodeSpace(vae, data, 0)


def visiting(tmp_path, monkeypatch, act, *words):
    """Run `act(page, space)` on the page of a space."""
    found = of_codes(*words)

    async def looked(page):
        await page.look_at()
        await act(page, found)

    visit.visiting(lambda: CodesPage(found, "a title"), tmp_path, monkeypatch, looked)


def test_codes_of_a_test_image():
    space = of_codes()
    vae, (x, label) = space.vae, space.original(4)
    z = vae.encode(x[None]).sample()
    assert space.maps == (2, 2, 2) and torch.equal(space.codes_of(4), vae.posterior.read(z)[0])
    close(space.decode(space.codes_of(4), label), vae.decode(z).mean[0].detach())
    assert space.number((1, 0, 1)) == 5
    codes = torch.arange(8)
    shown = imageio.imread(space.map_png(codes, 1))
    assert shown.shape == (700, 700, 3)
    for number, (row, column) in zip((4, 5, 6, 7), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        colour = np.array(colormaps["turbo"](float(np.float32(number) / np.float32(space.num_codes - 1)))[:3])
        assert np.abs(shown[350 * row + 100, 350 * column + 100] - 255 * colour).max() <= 1


def test_codes_without_a_map_are_a_row():
    space = of_codes("posterior=fsq", "prior=uniform", "model.latent_dim=5")
    assert space.maps == (1, 1, 5) and imageio.imread(space.map_png(space.codes_of(0), 0)).shape == (140, 700, 3)


def test_a_place_gets_another_code(tmp_path, monkeypatch):
    async def act(page, space):
        own = space.codes_of(0)
        x, label = space.original(0)
        shows(page.original.shown, x)
        shows(page.reconstruction.shown, space.decode(own, label))
        await page.point(SimpleNamespace(image_x=360.0, image_y=20.0))
        assert page.place == (0, 0, 1) and page.slider.value == int(own[1])
        code = (int(own[1]) + 1) % space.num_codes
        await page.change(code)
        await settled(page.decode)
        wanted = own.clone()
        wanted[1] = code
        assert torch.equal(page.codes, wanted) and page.slider.value == code
        shows(page.decoded.shown, space.decode(wanted, label))
        shows(page.reconstruction.shown, space.decode(own, label))  # as it was
        assert page.where.text == f"Row 1, column 2: code {code}, its own {own[1]}. 1 changed in all"
        np.testing.assert_array_equal(pixels(page.picture), imageio.imread(space.map_png(wanted, 0)))
        assert page.picture.content == frames(wanted[:4].view(2, 2), own[:4].view(2, 2), (0, 1), 350)
        await page.undo()
        assert torch.equal(page.codes, own) and "0 changed" in page.where.text
        page.map.value = 1
        await page.choose_map()
        assert page.place == (1, 0, 1)
        await page.change(-1)  # before the first comes the last
        assert page.codes[5] == space.num_codes - 1 and torch.equal(page.codes[:5], own[:5])
        await page.reset()
        await settled(page.decode)
        shows(page.decoded.shown, space.decode(own, label))

    visiting(tmp_path, monkeypatch, act)


def test_keys_on_the_map(tmp_path, monkeypatch):
    async def act(page, space):
        for key, place in (("ArrowRight", (0, 1)), ("ArrowDown", (1, 1)), ("ArrowDown", (1, 1)), ("ArrowLeft", (1, 0)),
                           ("ArrowUp", (0, 0))):  # fmt: skip
            await page.steer(SimpleNamespace(args={"key": key, "shift": False}))
            assert page.place[1:] == place
        own = int(page.own[0])
        for key, code in (("+", own + 1), ("-", own), ("-", own - 1)):
            await page.steer(SimpleNamespace(args={"key": key, "shift": False}))
            assert page.codes[0] == code % space.num_codes
        await page.steer(SimpleNamespace(args={"key": "Enter", "shift": False}))

    visiting(tmp_path, monkeypatch, act)


def test_another_test_image(tmp_path, monkeypatch):
    async def act(page, space):
        await page.change(1)
        page.image.value = 7
        await page.choose_image()
        x, label = space.original(7)
        await settled(page.decode)
        assert page.what.text == f"Test image 7, class {label}" and page.label == label
        assert torch.equal(page.codes, space.codes_of(7))
        shows(page.original.shown, x)
        shows(page.decoded.shown, space.decode(space.codes_of(7), label))
        for value, index in ((None, 7), (9999, 22)):
            page.image.value = value
            await page.choose_image()
            assert page.index == index

    visiting(tmp_path, monkeypatch, act)


def test_what_lies_above_the_map():
    codes, own = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 0], [4, 5, 6]])
    svg = frames(codes, own, (1, 0), 80)
    assert svg.count("<circle") == 1 and '<circle cx="200" cy="40" r="10"' in svg
    assert svg.count('<rect x="2.5" y="82.5" width="75" height="75"') == 2
