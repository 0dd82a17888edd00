"""The page without a server: what is in it."""

import base64
import json
import re

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from test_space import parts, space

from cvae.errors import UserError
from cvae.explorer import render, static_tables


def data_of(page):
    (content,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(content)


def picture(url):
    return imageio.imread(base64.b64decode(url.partition(",")[2]))


@pytest.mark.parametrize("words", [[], ["conditional=true", "data.num_classes=3"]])
def test_the_table_has_the_decoded_images(words):
    """At evenly spread points, the first row above; a table for each class."""
    found = space("model.latent_dim=2", "data.image_shape=[1,6,4]", *words)
    data = data_of(static_tables.page(found, "a title"))
    plane = found.plane(0, 1)
    assert (data["height"], data["width"], data["steps"], data["title"]) == (6, 4, 41, "a title")
    assert data["low"] == list(plane.low) and data["high"] == list(plane.high)
    assert len(data["tables"]) == (3 if words else 1)
    for label, content in enumerate(data["tables"]):
        pixels = picture(content)
        assert pixels.shape == (41 * 6, 41 * 4, 3)
        for row, column in ((0, 0), (0, 40), (17, 5), (40, 13)):
            z = plane.move(torch.zeros(2), column / 40, row / 40)
            wanted = (found.decode(z[None], label)[0, 0] * 255).round()
            tile = pixels[6 * row : 6 * row + 6, 4 * column : 4 * column + 4, 0].astype(int)
            assert np.abs(tile - wanted.numpy()).max() <= 1, (row, column)
    np.testing.assert_array_equal(picture(data["points"]), imageio.imread(render.plane_png(found, plane)))
    assert data["classes"] == [[label, colour] for label, colour in render.classes(found)]


def test_large_images_have_a_smaller_table(monkeypatch):
    found = space("model.latent_dim=2", "data.image_shape=[1,100,40]", images=3)
    assert data_of(static_tables.page(found, ""))["steps"] == 20
    monkeypatch.setattr(static_tables, "PIXELS", 100)
    assert data_of(static_tables.page(found, ""))["steps"] == 2


def test_at_most_ten_classes():
    found = space("model.latent_dim=2", "conditional=true", "data.num_classes=12", images=3)
    assert len(data_of(static_tables.page(found, ""))["tables"]) == 10


def test_text_of_others_stays_text():
    title = '</script><script>alert(1)</script><!-- "quoted" & ünï'
    page = static_tables.page(space("model.latent_dim=2", images=3), title)
    assert data_of(page)["title"] == title and page.count("<script") == 2 and "alert(1)</script" not in page


def test_the_page_asks_for_nothing_else():
    page = static_tables.page(space("model.latent_dim=2", images=3), "")
    assert re.findall(r"https?://|//[a-z]+\.|\bimport\b|<link|url\(|src=", page) == []


@pytest.mark.parametrize("dims", [1, 3])
def test_two_dimensions_are_needed(dims):
    vae, _ = parts(f"model.latent_dim={dims}")
    with pytest.raises(UserError, match=f"^--html: .* two latent dimensions, this one has {dims}: leave it out$"):
        static_tables.require_two_dimensions(vae)
    static_tables.require_two_dimensions(parts("model.latent_dim=2")[0])
