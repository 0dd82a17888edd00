"""Paths through the latent space, by their points."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, ExpTransform

from cvae.models.latent_paths import along, from_to, posterior_mean

F64 = torch.float64


def test_a_straight_way_is_walked_in_even_steps():
    a, b = torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.tensor([[4.0, 3.0], [2.0, -2.0]])
    way = from_to(a, b, 5, spherical=False)
    assert way.shape == (5, 2, 2)
    torch.testing.assert_close(way[:, 0], torch.tensor([[0, 1], [1, 1.5], [2, 2], [3, 2.5], [4, 3]]))
    torch.testing.assert_close(way[:, 1], torch.tensor([[2.0, 2], [2, 1], [2, 0], [2, -1], [2, -2]]))
    assert torch.equal(from_to(a, b, 1, spherical=False), a[None])


def test_an_arc_turns_at_an_even_pace_at_the_distance_of_its_ends():
    a, b = torch.tensor([3.0, 0.0], dtype=F64), torch.tensor([0.0, 3.0], dtype=F64)
    way = from_to(a, b, 7, spherical=True)
    turned = torch.atan2(way[:, 1], way[:, 0])
    torch.testing.assert_close(turned, torch.linspace(0, math.pi / 2, 7, dtype=F64))
    torch.testing.assert_close(way.norm(dim=-1), torch.full((7,), 3.0, dtype=F64))
    torch.testing.assert_close(way[[0, -1]], torch.stack([a, b]))


def test_an_arc_between_other_distances_keeps_its_ends():
    """Half way the direction is that between the two, at the mean of their distances."""
    a, b = torch.randn(4, 9, dtype=F64), 3 * torch.randn(4, 9, dtype=F64)
    way = from_to(a, b, 5, spherical=True)
    far, near = b.norm(dim=-1), a.norm(dim=-1)
    torch.testing.assert_close(way[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(way.norm(dim=-1), torch.stack([near + (far - near) * part / 4 for part in range(5)]))
    units = way / way.norm(dim=-1, keepdim=True)
    turns = (units[1:] * units[:-1]).sum(-1).acos()  # from step to step
    torch.testing.assert_close(turns, turns[:1].expand(4, 4))
    torch.testing.assert_close(units[2], torch.nn.functional.normalize(units[0] + units[4], dim=-1))


@pytest.mark.parametrize("b", [[2.0, 2.0], [1.0, 1.0 + 1e-7], [-1.0, -1.0], [0.0, 0.0]])
def test_directions_that_span_no_arc_are_joined_straight(b):
    a, b = torch.tensor([1.0, 1.0]), torch.tensor(b)
    way = from_to(a, b, 3, spherical=True)
    assert way.isfinite().all()
    if b.any():
        torch.testing.assert_close(way, torch.stack([a, (a + b) / 2, b]))
    one = from_to(torch.tensor([[1.0]]), torch.tensor([[-2.0]]), 4, spherical=True)  # of one dimension
    torch.testing.assert_close(one.flatten(), torch.tensor([1.0, 0.0, -1.0, -2.0]))


def test_along_single_dimensions():
    z = torch.arange(6.0).view(2, 3)
    moved = along(z, [2, 0], torch.tensor([[10.0, 11, 12, 13], [20, 21, 22, 23]]))
    assert moved.shape == (2, 4, 2, 3)
    assert moved[0, :, 0].tolist() == [[0, 1, 10 + s] for s in range(4)]
    assert moved[1, :, 1].tolist() == [[20 + s, 4, 5] for s in range(4)]
    assert torch.equal(z, torch.arange(6.0).view(2, 3))


def test_the_centre_is_the_mean_or_that_of_draws():
    q = Independent(Normal(torch.tensor([[1.0, 2.0]]), torch.ones(1, 2)), 1)
    assert torch.equal(posterior_mean(q), q.mean)
    unknown = TransformedDistribution(Normal(torch.zeros(50, 2), 1.0), [ExpTransform(), AffineTransform(1.0, 2.0)])
    means = posterior_mean(Independent(unknown, 1))
    assert means.shape == (50, 2)
    assert means.mean().item() == pytest.approx(1 + 2 * math.exp(0.5), abs=0.2)
