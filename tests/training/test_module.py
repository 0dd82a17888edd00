"""Sums over images, the noise of evaluation, and figures that are not finite."""

import math

import pytest
import torch

from cvae.errors import NotFinite
from cvae.noise import fixed_noise
from cvae.objectives import Bound
from cvae.training.module import require_finite
from cvae.training.totals import Totals


def bound(values):
    return Bound(*(torch.as_tensor(values) * factor for factor in (1.0, 2.0, 3.0, 4.0)))


def test_means_are_over_images_whatever_the_batches():
    """Unlike the tutorial's mean of batch means, in which a short last batch weighs as much as a full one."""
    values = torch.randn(10)
    whole, parts, merged = Totals(), Totals(), Totals()
    whole.add(bound(values))
    for part in (values[:7], values[7:]):
        parts.add(bound(part))
        one = Totals()
        one.add(bound(part))
        merged.merge(one)
    for totals in (whole, parts, merged):
        expected = values.double().mean().item()
        assert totals.means()["elbo"] == pytest.approx(expected, abs=1e-7)
        assert totals.means()["loss"] == pytest.approx(4 * expected, abs=1e-6)


def test_sums_keep_small_differences_of_large_figures():
    """60,000 figures near 1e4 that differ in the seventh digit: float32 sums would lose them."""
    totals = Totals()
    for _ in range(600):
        totals.add(bound(torch.full((100,), 10000.001)))
    assert totals.means()["elbo"] == pytest.approx(torch.tensor(10000.001).item(), abs=1e-6)


def test_fixed_noise_repeats_itself_and_leaves_the_stream_alone():
    torch.manual_seed(3)
    expected = [torch.randn(2), torch.randn(2)]
    torch.manual_seed(3)
    first = torch.randn(2)
    with fixed_noise(7, torch.device("cpu")):
        inside = torch.randn(2)
    second = torch.randn(2)
    with fixed_noise(7, torch.device("cpu")):
        assert torch.equal(torch.randn(2), inside)
    assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_are_not_finite_stop_the_run(value):
    require_finite({"elbo": -1.0, "rate": 0.0}, "epoch 1")
    with pytest.raises(NotFinite, match="epoch 1: elbo is"):
        require_finite({"elbo": value, "rate": 0.0}, "epoch 1")
