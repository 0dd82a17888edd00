"""Pictures of the plane: each point at its place, in its colour."""

import base64
import re

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from test_space import space

from cvae.explorer import render
from cvae.explorer.overlay import Mark, overlay, pointer
from cvae.explorer.plane import Placed, Plane
from cvae.explorer.render import colours, image_png, plane_png, snapshot, strip_png, url


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def few(*words, places=((0.25, 0.25), (0.75, 0.25), (0.5, 0.8)), labels=(0, 1, 1), **changed):
    """A space with a few test images at these places of its first plane."""
    found = space("model.latent_dim=2", *words, images=len(places))
    plane = found.first_plane()
    found.means = torch.stack([plane.move(found.means[0], *place) for place in places])
    found.of_class, found.classes = torch.tensor(labels), torch.arange(max(labels) + 1)
    return found, plane


def test_points_are_at_their_places_in_the_colours_of_their_classes():
    found, plane = few()
    picture = imageio.imread(plane_png(found, plane)).astype(int)
    assert picture.shape == (1000, 1000, 3)
    for (across, down), label in zip(((0.25, 0.25), (0.75, 0.25), (0.5, 0.8)), (0, 1, 1), strict=True):
        seen = picture[int(1000 * down), int(1000 * across)]
        wanted = 0.75 * np.array(rgb(colours(2)[label])) + 0.25 * 255
        assert np.abs(seen - wanted).max() < 12, (across, down)
    coloured = np.ptp(picture, axis=2) > 60  # what is neither white nor grey
    assert 30 < coloured.sum() < 3 * 120  # three dots and no more


def drawn(found, plane):
    """The points of a plane: {(z of the first axis, of the second): colour}."""
    axes = render.Figure().add_subplot()
    render.points(axes, found, plane)
    (dots,) = axes.collections
    places = [tuple(map(float, place)) for place in dots.get_offsets()]
    return dict(zip(places, [tuple(colour[:3]) for colour in dots.get_facecolors()], strict=False))  # of no point one


def test_points_outside_of_a_zoomed_plane_are_left_out_and_the_others_keep_their_colours():
    found, plane = few()
    ((place, colour),) = drawn(found, plane.zoomed(0.5, 0.8, 0.3)).items()
    assert place == pytest.approx(found.means[2].tolist(), abs=1e-5)
    assert colour == pytest.approx([part / 255 for part in rgb(colours(2)[1])])
    assert len(drawn(found, plane.zoomed(0.9, 0.9, 0.1))) == 0
    edge = plane.zoomed(
        0.0, 0.0, 0.74
    )  # its right side is at 0.74 of the first plane: half of the second point is seen
    assert len(drawn(found, edge)) == 2


def test_images_without_a_place_are_left_out():
    found, plane = few()
    first = plane._replace(placed=Placed(found.means[:2], found.means[:2], ("UMAP 1", "UMAP 2")))
    shown = drawn(found, first)
    assert len(shown) == 2 and shown.items() <= drawn(found, plane).items()


def test_classes_in_rows_have_no_numbers():
    found = space("model.latent_dim=1")
    axes = render.Figure().add_subplot()
    render.points(axes, found, found.first_plane())
    assert len(axes.get_yticks()) == 0 and len(axes.get_xticks()) > 2


def test_each_axis_has_its_name_and_large_numbers_are_fewer(monkeypatch):
    figures = []
    monkeypatch.setattr(
        render.pictures, "to_pixels", lambda figure: figures.append(figure) or np.zeros((4, 4, 3), np.uint8)
    )
    found, _ = few()
    plane = Plane(1, 0, (0.0, 10.0), (1.0, 20.0))
    for scale in (1.0, 2.0):
        plane_png(found, plane, scale)
    for figure in figures:
        right, up = figure.axes[0].texts
        assert (right.get_text(), *right.get_position())[:2] == ("z[1] →", 0.985) and up.get_text() == "z[0] ↑"
        assert up.get_position()[1] == 0.985
    for axis in ("xaxis", "yaxis"):
        few_ticks, many = (len(getattr(figure.axes[0], axis).get_ticklocs()) for figure in figures[::-1])
        assert 2 <= few_ticks < many <= 10


def test_the_numbers_of_the_axes_are_inside_and_not_cut_off():
    found, plane = few(places=((0.5, 0.5),), labels=(0,))
    picture = imageio.imread(plane_png(found, plane)).astype(int)
    dark = picture.max(2) < 200
    assert dark[970:].sum() > 100 and dark[:, :40].sum() > 100  # below and on the left
    assert dark[5:40, 40:160].sum() > 100 and dark[925:965, 880:].sum() > 100  # the names of the axes
    larger = imageio.imread(plane_png(found, plane, 2.0)).astype(int).max(2) < 200
    assert larger.sum() > 1.8 * dark.sum()  # of fewer numbers
    assert larger[:, 0].sum() == larger[:, -1].sum() == larger[0].sum() == larger[-1].sum() == 0
    assert dark[:, 0].sum() == dark[:, -1].sum() == dark[0].sum() == dark[-1].sum() == 0
    found.means = found.means + torch.tensor([0.0, 100.0])  # each axis has numbers of its own range
    moved = plane._replace(low=(plane.low[0], plane.low[1] + 100), high=(plane.high[0], plane.high[1] + 100))
    dark = imageio.imread(plane_png(found, moved)).astype(int).max(2) < 200
    assert dark[970:].sum() > 100 and dark[:, :40].sum() > 100


@pytest.mark.parametrize("places, size", [(4, 40), (2000, 10), (10000, 5)])
def test_many_points_are_small(places, size, monkeypatch):
    found, plane = few(places=((0.5, 0.5),) * 4, labels=(0,) * 4)
    found.places = lambda _: torch.full((places, 2), 0.5)
    found.of_class = torch.zeros(places, dtype=torch.long)
    axes = render.Figure().add_subplot()
    for scale in (1.0, 1.5):
        render.points(axes, found, plane, scale)
        assert axes.collections[-1].get_sizes().tolist() == [size * scale]


def test_no_class_lies_above_the_others():
    """They are drawn in an order of their own, which is the same each time."""
    found, plane = few()
    found.places = lambda _: torch.rand(300, 2)
    found.of_class = torch.arange(300) // 150
    axes = render.Figure().add_subplot()
    render.points(axes, found, plane)
    first = (axes.collections[0].get_facecolors()[:, :3] == axes.collections[0].get_facecolors()[0, :3]).all(1)
    assert 40 < first[:150].sum() < 110


def test_colours():
    for classes in (1, 2, 10, 11, 300):
        found = colours(classes)
        assert len(found) == classes and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found)
        assert len(set(found)) > 0.7 * classes
    assert colours(10)[:2] == colours(2) == ["#1f77b4", "#ff7f0e"] != colours(11)[:2]  # tab10, as matplotlib's


def test_the_legend():
    found, _ = few(labels=(0, 1, 2))
    found.classes = torch.tensor([3, 5, 8])
    assert render.classes(found) == list(zip(["3", "5", "8"], colours(3), strict=True))
    found.classes = torch.arange(500)
    assert render.classes(found) == [(str(k), colour) for k, colour in enumerate(colours(500))][:20]
    found.classes = torch.tensor([4])
    assert render.classes(found) == []


def test_images_as_files():
    images = torch.rand(6, 3, 4, 5)
    levels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(imageio.imread(image_png(images[2])), levels[2])
    rows = [np.concatenate(levels[start : start + 3], 1) for start in (0, 3)]
    np.testing.assert_array_equal(imageio.imread(strip_png(images, 3)), np.concatenate(rows))
    grey = imageio.imread(image_png(images[0, :1]))
    np.testing.assert_array_equal(grey[..., 0], (images[0, 0] * 255).round())
    head, content = url(b"abc").split(",")
    assert head == "data:image/png;base64" and base64.b64decode(content) == b"abc"


PLANE = Plane(0, 1, (0.0, 0.0), (1.0, 1.0))


def circles(svg):
    """(x, y, radius) of each circle."""
    found = re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)" r="(\d+)" ', svg)
    return [tuple(float(part) for part in circle) for circle in found]


def test_what_lies_above_the_plane():
    marks = [Mark("A", torch.tensor([0.25, 0.75])), Mark("1", torch.tensor([0.5, 0.1]))]
    way = torch.tensor([[0.0, 1.0], [0.2, 0.4]])
    svg = overlay(PLANE, marks, way, torch.tensor([0.3, 0.6]))
    assert circles(svg) == [(0, 0, 4), (200, 600, 4), (300, 600, 11), (250, 250, 16), (500, 900, 16)]
    assert re.findall(r'<text x="([\d.]+)" y="([\d.]+)" [^>]*>(\w)</text>', svg) == [
        ("250.0", "250.0", "A"), ("500.0", "900.0", "1"),
    ]  # fmt: skip
    assert overlay(PLANE, [], None, None) == ""
    twice = overlay(PLANE, marks, way, torch.tensor([0.3, 0.6]), 2.0)
    assert [radius for *_, radius in circles(twice)] == [8, 8, 22, 32, 32] and 'font-size="38"' in twice


def test_the_pointer_has_a_cross_and_the_name_of_what_is_there():
    z = torch.tensor([0.25, 0.75])
    assert pointer(PLANE, z, "") == '<path d="M238.0 250.0h24M250.0 238.0v24" stroke="#0f172a" stroke-width="3"/>'
    said = pointer(PLANE, z, "<b>&cat")
    assert "&lt;b&gt;&amp;cat</text>" in said and "<b>" not in said
    for place in ([0.999, 0.999], [0.001, 0.001], [0.999, 0.02]):  # beside it, and inside of the picture
        for scale in (1.0, 2.0):
            found = re.search(
                r'<rect x="([\d.]+)" y="([\d.]+)" width="(\d+)" height="(\d+)"',
                pointer(PLANE, torch.tensor(place), "a name", scale),
            )
            left, top, width, height = map(float, found.groups())
            assert 0 < left < left + width < 1000 and 0 < top < top + height < 1000 and height == 30 * scale
            down = 1000 * (1 - place[1])
            assert not top <= down <= top + height


def test_all_in_one_picture(monkeypatch):
    """By what is drawn: the texts, the images as they are, and the marks at their places."""
    figures = []
    monkeypatch.setattr(
        render.pictures, "to_pixels", lambda figure: figures.append(figure) or np.zeros((4, 4, 3), np.uint8)
    )
    found, plane = few("data.image_shape=[3,6,5]")
    image, other, strip = torch.rand(3, 6, 5), torch.rand(3, 6, 5), torch.rand(4, 3, 6, 5)
    marks = [Mark("A", plane.move(found.means[0], 0.3, 0.1)), Mark("2", plane.move(found.means[0], 0.9, 0.6))]
    marks.append(Mark("3", plane.move(found.means[0], 0.5, -0.1)))  # above the plane, where nothing of it may be
    assert imageio.imread(snapshot(found, plane, marks, {"decoded": image, "a $ <b>": other}, strip)).shape == (4, 4, 3)
    axes, *images = figures[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "1"]
    assert [(text.get_text(), *text.get_position()) for text in axes.texts] == [
        ("A", pytest.approx(0.3), pytest.approx(0.9)), ("2", pytest.approx(0.9), pytest.approx(0.4)),
    ]  # fmt: skip
    assert [part.get_title() for part in images] == ["decoded", "a $ <b>", "from A to B"]
    assert not any(part.title.get_parse_math() for part in images)  # a name with two $ is no formula
    shown = [part.images[0].get_array() for part in images]
    for pixels, wanted in zip(shown, (image, other, torch.cat(list(strip), 2)), strict=True):
        np.testing.assert_array_equal(pixels, (wanted * 255).round().byte().permute(1, 2, 0).numpy())
    snapshot(found, plane, [], {"decoded": image}, None)
    assert len(figures[1].axes) == 2 and len(figures[1].axes[0].texts) == 0


def test_the_picture_of_one_dimension_is_drawn():
    found = space("model.latent_dim=1")
    plane = found.first_plane()
    content = snapshot(found, plane, [Mark("z", found.means[0])], {"decoded": found.original(0)}, None)
    assert imageio.imread(content).shape == (1040, 1430, 3)
    assert imageio.imread(plane_png(found, plane)).shape == (1000, 1000, 3)
