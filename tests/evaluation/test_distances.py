"""Distances between sets of features, where they are known in closed form, and against torchmetrics on the same."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cvae.evaluation import distances
from cvae.evaluation.distances import (
    BLOCK,
    frechet,
    frechet_extrapolated,
    frechet_of_moments,
    kernel_distance,
    kid,
    moments,
    vendi,
)

F64 = torch.float64


def normal(count, dims, seed=0, dtype=F64):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_moments(mean: Tensor, root: Tensor, count=500, seed=0):
    """Features whose mean and unbiased covariance are exactly `mean` and root root^T."""
    x = normal(count, len(mean), seed)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1))).T
    return mean + white @ root.T


def test_moments_are_the_unbiased_ones():
    x = normal(50, 4)
    mean, covariance = moments(x)
    assert torch.allclose(mean, x.mean(0)) and torch.allclose(covariance, torch.cov(x.T))


def test_frechet_distance_of_normal_distributions_with_diagonal_covariances():
    """|m1 - m2|² + sum (s1 - s2)²."""
    m1, m2 = torch.tensor([0.0, 1.0, -2.0], dtype=F64), torch.tensor([0.5, 1.0, 1.0], dtype=F64)
    s1, s2 = torch.tensor([1.0, 2.0, 0.5], dtype=F64), torch.tensor([3.0, 1.0, 0.25], dtype=F64)
    expected = (m1 - m2).square().sum() + (s1 - s2).square().sum()
    found = frechet(with_moments(m1, s1.diag()), with_moments(m2, s2.diag(), 400, seed=1))
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_where_the_covariances_do_not_commute():
    """In two dimensions tr (C1 C2)^(1/2) is (tr C1 C2 + 2 (det C1 C2)^(1/2))^(1/2)."""
    c1 = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=F64)
    c2 = torch.tensor([[1.0, -0.7], [-0.7, 3.0]], dtype=F64)
    product = c1 @ c2
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    mean = torch.zeros(2, dtype=F64)
    found = frechet_of_moments((mean, c1), (mean, c2))
    assert found == pytest.approx((c1.trace() + c2.trace() - 2 * root).item(), rel=1e-9)
    assert found == pytest.approx(frechet_of_moments((mean, c2), (mean, c1)), rel=1e-9)


def test_frechet_distance_of_fewer_features_than_dimensions():
    x = normal(5, 12)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x + 2) == pytest.approx(4 * 12, rel=1e-6)


def test_frechet_distance_is_that_of_torchmetrics():
    of_torchmetrics = pytest.importorskip("torchmetrics.image.fid")._compute_fid
    one, two = normal(300, 8) @ normal(8, 8, 1), normal(200, 8, 2) @ normal(8, 8, 3) + 0.3
    (m1, c1), (m2, c2) = moments(one), moments(two)
    assert frechet(one, two) == pytest.approx(of_torchmetrics(m1, c1, m2, c2).item(), rel=1e-6)


def test_distances_are_those_of_torch_fidelity():
    """torch-fidelity 0.4.0 gives these figures of the same features; KID by one subset of 300."""
    rng = np.random.default_rng(0)
    real, samples = (torch.from_numpy(x) for x in (rng.normal(size=(400, 8)), 0.8 * rng.normal(size=(300, 8)) + 0.3))
    assert frechet(samples, real) == pytest.approx(1.455535858808224, rel=1e-9)
    assert kid(samples, real[:300])[0] == pytest.approx(0.4437512488944777, rel=1e-9)


def test_extrapolation_takes_the_bias_away():
    """Normal distributions with means 1 apart in one of 20 dimensions: the distance is 1; 300 features make it 1.7."""
    plain, extrapolated = [], []
    for seed in range(8):
        one, two = normal(300, 20, seed), normal(300, 20, 100 + seed)
        two[:, 0] += 1
        plain.append(frechet(one, two))
        extrapolated.append(frechet_extrapolated(one, two))
    plain, extrapolated = torch.tensor(plain), torch.tensor(extrapolated)
    assert plain.mean() > 1.5
    assert abs(extrapolated.mean() - 1) < 3 * extrapolated.std() / 8**0.5 + 0.05
    same = normal(2000, 20, 5), normal(2000, 20, 6)
    assert abs(frechet_extrapolated(*same)) < 0.09 < frechet(*same)


def test_extrapolation_is_the_intercept_of_a_line_over_one_over_the_share():
    """Where the distance is a + b / share without noise, a is found: features that are all at two points."""
    one, two = torch.zeros(100, 1, dtype=F64), torch.full((100, 1), 3.0, dtype=F64)
    assert frechet_extrapolated(one, two) == pytest.approx(9, rel=1e-9)


def by_hand(one, two):
    """The unbiased estimator as a sum over pairs."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(one), len(two)
    xx = sum(kernel(one[i], one[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(two[i], two[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in one for b in two) / (n * m)


def test_kernel_distance_by_hand():
    one, two = normal(7, 3), normal(5, 3, 1) + 0.5
    assert kernel_distance(one, two) == pytest.approx(by_hand(one, two), rel=1e-9)


def test_kernel_distance_of_normal_distributions_in_one_dimension():
    """sum over j of binom(3, j) times the squared difference of the j-th moments: for N(0, 1) and N(0.5, 4)."""
    mean, variance = 0.5, 4.0
    of_one, of_two = (1, 0, 1, 0), (1, mean, variance + mean**2, mean**3 + 3 * mean * variance)
    expected = sum(math.comb(3, j) * (of_one[j] - of_two[j]) ** 2 for j in range(4))
    found, error = kid(normal(20_000, 1), normal(20_000, 1, 1) * variance**0.5 + mean)
    assert error is not None and abs(found - expected) < 4 * error < 0.2 * expected


def test_kid_is_that_of_torchmetrics():
    of_torchmetrics = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    one, two = normal(60, 8), normal(60, 8, 1) + 0.3
    assert kid(one, two)[0] == pytest.approx(of_torchmetrics(one, two).item(), rel=1e-9)
    assert kid(one, two)[1] is None


def test_kid_is_unbiased_with_an_error_that_covers():
    """Of the same distribution: 0 within the error, in blocks that do not overlap."""
    inside = 0
    for seed in range(20):
        value, error = kid(normal(4 * BLOCK, 4, seed), normal(5 * BLOCK, 4, 100 + seed))
        inside += abs(value) < 3.2 * error  # Student's t of 3 degrees of freedom: 95 of 100
    assert inside >= 16


def test_kid_does_not_mind_the_order():
    """Features that are sorted by class: blocks in that order would each compare other classes."""
    one = torch.cat([normal(2 * BLOCK, 2), normal(2 * BLOCK, 2, 1) + 5])
    two = torch.cat([normal(2 * BLOCK, 2, 2) + 5, normal(2 * BLOCK, 2, 3)])
    value, error = kid(one, two)
    assert abs(value) < 5 * error


def test_vendi_score_counts_what_is_different():
    eye = torch.eye(6, dtype=F64)
    assert vendi(eye[:4]) == pytest.approx(4)
    assert vendi(3 * eye[[0, 0, 0, 0]]) == pytest.approx(1)  # the length does not matter
    assert vendi(eye[[0, 0, 1, 1, 2, 2]]) == pytest.approx(3)
    shares = torch.tensor([0.75, 0.25], dtype=F64)  # of two kinds: exp of the entropy
    assert vendi(eye[[0, 0, 0, 1]]) == pytest.approx(torch.special.entr(shares).sum().exp().item())


def test_vendi_score_is_that_of_the_matrix_of_cosines():
    x = normal(9, 3) + 0.5
    unit = x / x.norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(unit @ unit.T / 9).clamp(min=1e-300)
    assert vendi(x) == pytest.approx(torch.special.entr(values).sum().exp().item(), rel=1e-9)


def test_the_line_is_through_ten_shares_of_both_sets(monkeypatch):
    """From a fifth of each to all of it: where each distance is 3 + 2 / share, 3 is left."""
    sizes = []
    monkeypatch.setattr(
        distances, "frechet", lambda one, two: sizes.append((len(one), len(two))) or 3 + 2 * 900 / len(one)
    )
    assert distances.frechet_extrapolated(normal(900, 1), normal(450, 1)) == pytest.approx(3, rel=1e-9)
    assert sizes == [(180 + 80 * number, 90 + 40 * number) for number in range(10)]
