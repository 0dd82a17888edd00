"""Measures by nearest neighbours, by hand and where they are known."""

import math

import numpy as np
import pytest
import torch

from cvae.evaluation import neighbours
from cvae.evaluation.neighbours import distances_to_others, fidelity, nearest

F64 = torch.float64


def normal(count, dims, seed=0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture(params=[None, 50], ids=["at once", "in blocks"])
def blocks(request, monkeypatch):
    """All distances at once, or a few rows at a time."""
    if request.param:
        monkeypatch.setattr(neighbours, "NUMBERS", request.param)


def by_hand(real, samples, near, dense):
    """The definitions, pair by pair."""

    def radius(points, i, k):
        return sorted((points[i] - points[j]).norm().item() for j in range(len(points)) if j != i)[k - 1]

    distance = [[(r - s).norm().item() for s in samples] for r in real]
    n, m = range(len(real)), range(len(samples))
    around_real = [radius(real, i, near) for i in n]
    around_sample = [radius(samples, j, near) for j in m]
    wider = [radius(real, i, dense) for i in n]
    return (
        sum(any(distance[i][j] <= around_real[i] for i in n) for j in m) / len(samples),
        sum(any(distance[i][j] <= around_sample[j] for j in m) for i in n) / len(real),
        sum(distance[i][j] <= wider[i] for i in n for j in m) / (dense * len(samples)),
        sum(any(distance[i][j] <= wider[i] for j in m) for i in n) / len(real),
    )


def test_the_four_by_hand(blocks):
    real, samples = normal(17, 2), normal(13, 2, 1) * 1.3 + 0.4
    found = fidelity(real, samples, near=2, dense=4)
    assert found == pytest.approx(by_hand(real, samples, 2, 4))
    assert len({round(value, 6) for value in found}) == 4 and found.density != found.precision


def test_three_neighbours_make_a_radius_of_precision_and_five_one_of_density():
    real, samples = normal(40, 2), normal(30, 2, 1)
    assert fidelity(real, samples) == pytest.approx(by_hand(real, samples, 3, 5))


def test_the_four_are_those_of_prdc_and_torch_fidelity():
    """prdc 0.2 gives these of the same features, torch-fidelity 0.4.0 the first two with three neighbours."""
    rng = np.random.default_rng(0)
    real, samples = (torch.from_numpy(x) for x in (rng.normal(size=(400, 8)), 0.8 * rng.normal(size=(300, 8)) + 0.3))
    assert fidelity(real, samples, near=3, dense=5) == pytest.approx((0.9666666667, 0.5475, 1.2813333333, 0.8375))
    assert fidelity(real, samples, near=5, dense=3) == pytest.approx((0.9866666667, 0.645, 1.2277777778, 0.74))


def test_density_and_coverage_of_the_same_distribution():
    """Their expectations do not depend on the distribution (Naeem et al. 2020, lemmas 1 and 2)."""
    n = m = 1000
    k = 5
    found = fidelity(normal(n, 3), normal(m, 3, 1))
    missed = math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    assert found.density == pytest.approx(1, abs=0.1) and found.coverage == pytest.approx(1 - missed, abs=0.02)


def test_precision_and_recall_of_uniform_distributions():
    """Real in [0, 1], samples in [0, 2]: half of the samples are right, and all of the real ones are covered."""
    real = torch.linspace(0, 1, 2001, dtype=F64)[:, None]
    samples = torch.linspace(0, 2, 2001, dtype=F64)[:, None] + 1e-4
    found = fidelity(real, samples)
    assert found.precision == pytest.approx(0.5, abs=0.01) and found.recall == 1
    turned = fidelity(samples, real)
    assert turned.precision == 1 and turned.recall == pytest.approx(0.5, abs=0.01)


def test_far_apart_and_equal():
    x = normal(50, 4)
    assert fidelity(x, x + 100) == (0, 0, 0, 0)
    same = fidelity(x, x.clone())
    assert same[:2] == (1, 1) and same.coverage == 1


def test_samples_that_are_all_alike_have_precision_without_coverage():
    """What density and coverage are for: one good sample, a hundred times."""
    real = normal(200, 2)
    found = fidelity(real, real[:1] + 1e-6 * normal(100, 2, 1))
    assert found.precision == 1 and found.recall < 0.05 and found.coverage < 0.1


def test_distances_to_others(blocks):
    x = torch.tensor([0.0, 1.0, 3.0, 7.0, 7.0], dtype=F64)[:, None]
    found = distances_to_others(x, (1, 3))
    assert found.tolist() == [[1, 7], [1, 6], [2, 4], [0, 6], [0, 6]]


def test_nearest(blocks):
    among = torch.tensor([[0.0], [10.0], [4.0], [5.0]])
    distance, number = nearest(torch.tensor([[4.6], [0.0], [11.0]]), among, 2)
    assert number.tolist() == [[3, 2], [0, 2], [1, 3]]
    assert torch.allclose(distance, torch.tensor([[0.4, 0.6], [0.0, 4.0], [1.0, 6.0]]))


def test_a_copy_is_at_distance_0_in_float32():
    among = 100 + normal(500, 64).float()
    distance, number = nearest(among[30:90], among)
    assert number[:, 0].tolist() == list(range(30, 90)) and (distance == 0).all()


def test_the_end_of_a_radius_belongs_to_it():
    real = torch.arange(4, dtype=F64)[:, None]
    found = fidelity(real, torch.tensor([[-1.0], [4.0]], dtype=F64), near=1, dense=1)
    assert found.precision == 1 and found.density == 1 and found.coverage == 0.5
