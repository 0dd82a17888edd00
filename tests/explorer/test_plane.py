"""What a place in the plane means, and which image is where."""

import pytest
import torch
from test_space import close

from cvae.explorer.plane import Placed, Plane, nearest, rows_of_classes, window

PLANE = Plane(2, 0, (-1.0, 10.0), (3.0, 20.0))  # z[2] from -1 to 3 to the right, z[0] from 10 to 20 upwards


@pytest.mark.parametrize(
    ("across", "down", "expected"),
    [
        (0, 0, [20, 7, -1, 8]), (1, 1, [10, 7, 3, 8]), (0.25, 0.1, [19, 7, 0, 8]), (0.5, 0.5, [15, 7, 1, 8]),
        (-0.3, 1.2, [10, 7, -1, 8]), (1.5, -0.1, [20, 7, 3, 8]),
    ],
)  # fmt: skip
def test_where_a_pointer_is(across, down, expected):
    z = torch.tensor([6.0, 7, 7, 8])
    close(PLANE.move(z, across, down), [float(value) for value in expected])
    assert z.tolist() == [6, 7, 7, 8]  # as it was


def test_places_are_the_way_back():
    z = torch.tensor([[12.0, 0, 0, 0], [20, 5, -1, 5], [10, 1, 3, 1]])
    close(PLANE.places(z), [[0.25, 0.8], [0, 0], [1, 1]])
    for point in z:
        across, down = PLANE.places(point[None])[0].tolist()
        close(PLANE.move(point, across, down), point)


def test_one_dimension():
    plane = Plane(0, None, (-2.0, -2.0), (2.0, 2.0))
    close(plane.move(torch.tensor([9.0]), 0.75, 0.1), [1.0])
    close(plane.places(torch.tensor([[1.0], [-2]])), [[0.75, 0.5], [0, 0.5]])


def test_rows_of_classes():
    places = torch.tensor([[0.1, 0.5]] * 400)
    y = torch.arange(400) % 4
    found = rows_of_classes(places, y)
    assert (found[:, 0] == 0.1).all()
    for label in range(4):  # the first class below; spread over the middle 80 % of its row
        within = 4 * (1 - found[y == label, 1]) - label
        assert 0.0999 < within.min() < 0.13 and 0.87 < within.max() < 0.9001


def test_nearest():
    places = torch.tensor([[0.0, 0], [0.5, 0.5], [0.9, 0.1], [0.5, 0.9]])
    assert [nearest(places, *place)[0] for place in ((0.2, 0.1), (0.6, 0.5), (0.8, 0.2), (0.5, 0.75))] == [0, 1, 2, 3]
    assert nearest(places, 0.8, 0.5)[1] == pytest.approx(0.3)


def test_principal_components():
    """Two orthonormal directions: a place sets z along them, and leaves the rest of z alone."""
    directions = ((0.6, 0.8, 0.0), (-0.8, 0.6, 0.0))
    plane = Plane(0, 1, (-1.0, -2.0), (3.0, 2.0), directions)
    z = torch.tensor([1.0, 2.0, 5.0])
    close(plane.coordinates(z), [2.2, 0.4])
    moved = plane.move(z, 0.75, 0.25)  # to (2, 1)
    close(moved, [0.6 * 2 - 0.8 * 1, 0.8 * 2 + 0.6 * 1, 5.0])
    close(plane.places(moved[None]), [[0.75, 0.25]])
    assert plane.names == ("PC 1", "PC 2") and plane.dims == []
    assert PLANE.names == ("z[2]", "z[0]") and PLANE.dims == [2, 0]
    one = Plane(0, None, (-2.0, -2.0), (2.0, 2.0))
    assert one.names == ("z[0]", "class") and one.dims == [0]


POINTS = Placed(
    torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 5, 0], [9, 9, 9]]), torch.tensor([[0.0, 0], [4, 0], [0, 2], [4, 6]]),
    ("UMAP 1", "UMAP 2"),
)  # fmt: skip
UMAP = Plane(0, 1, (-1.0, -1.0), (7.0, 7.0), placed=POINTS)


def test_points_that_are_placed():
    """A place means the z of the point that is nearest to it; a z stands at the point whose own is nearest."""
    z = torch.tensor([7.0, 7, 7])
    for place, index in (((0.2, 0.8), 0), ((0.2, 0.7), 2), ((0.6, 0.3), 3), ((1.5, 2.0), 1)):
        assert torch.equal(UMAP.move(z, *place), POINTS.z[index])
    found = torch.stack([z, *POINTS.z, torch.tensor([0.0, 3, 0])])
    close(UMAP.coordinates(found), POINTS.at[[3, 0, 1, 2, 3, 2]])
    close(UMAP.coordinates(z), [4.0, 6.0])
    close(UMAP.places(found[:3]), [[0.625, 0.125], [0.125, 0.875], [0.625, 0.875]])
    assert UMAP.names == ("UMAP 1", "UMAP 2") and UMAP.dims == []
    assert UMAP.zoomed(0.1, 0.1, 0.5).placed is POINTS


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(
    ("start", "step", "far", "expected"),
    [
        (0, (1, 0), 0.02, 1), (0, (0, -1), 0.02, 2), (0, (0, -1), 0.3, 3), (0, (-1, 0), 0.02, 0), (0, (0, 1), 0.02, 0),
        (3, (-1, 0), 0.02, 2), (3, (0, 1), 0.02, 2), (1, (0, -1), 0.02, 3), (2, (0, 1), 0.1, 0),
    ],
)  # fmt: skip
def test_a_step_leads_to_the_next_point_there(start, step, far, expected, side):
    """Within 45 degrees of the direction, and so far away along it; where there is none one stays. Also mirrored."""
    mirrored = Placed(POINTS.z, POINTS.at * torch.tensor([side, 1.0]), POINTS.names)
    plane = Plane(0, 1, (3.0 * side - 4, -1.0), (3.0 * side + 4, 7.0), placed=mirrored)
    assert torch.equal(plane.step(POINTS.z[start], side * step[0], step[1], far), POINTS.z[expected])


def test_a_step_in_a_plane_of_dimensions():
    z = torch.tensor([15.0, 7, 1, 8])
    close(PLANE.step(z, 1, 0, 0.1), [15.0, 7, 1.4, 8])
    close(PLANE.step(z, 0, -1, 0.1), [16.0, 7, 1, 8])


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_zoom_leaves_the_place_where_it_is(factor):
    z = PLANE.move(torch.zeros(4), 0.3, 0.9)
    plane = PLANE.zoomed(0.3, 0.9, factor)
    close(plane.places(z[None]), [[0.3, 0.9]])
    close(plane.high[0] - plane.low[0], 4 * factor)
    close(plane.high[1] - plane.low[1], 10 * factor)
    close(PLANE.zoomed(0, 1, 0.5)[2:4], [[-1.0, 10.0], [1.0, 15.0]])  # the corner below on the left
    assert plane[:2] == PLANE[:2] and plane.directions is None


def test_a_window_shows_the_points_and_not_what_lies_apart():
    values = torch.linspace(0, 1, 1001)
    close(window(values, 0.0), [-0.05, 1.05])
    apart = torch.cat([values, torch.tensor([90.0])])  # a single one
    low, high = window(apart, 0.0)
    assert low == pytest.approx(-0.05, abs=0.1) and 1.2 < high < 1.7
    for count, seen in ((5, False), (15, True)):  # of 1,000, of which one in a hundred may lie apart
        far = torch.cat([values[:1000], torch.full((count,), 90.0)])
        assert (window(far, 0.0)[1] > 90) is seen
    close(window(torch.tensor([2.0, 2.0]), 3.0), [0.5, 3.5])  # no image differs: as long as is asked for
    close(window(torch.tensor([2.0]), 3.0), [0.5, 3.5])
