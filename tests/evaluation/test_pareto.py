"""Pareto k-hat of importance weights, against weights whose shape is known."""

import math
import warnings

import pytest
import torch

from cvae.evaluation import pareto
from cvae.evaluation.pareto import pareto_k

F64 = torch.float64


def weights(k, samples=4000):
    """log w at the quantiles of a Pareto distribution of shape k, in an order of chance: w = u^-k, (samples, 1)."""
    u = (torch.arange(samples, dtype=F64) + 0.5) / samples
    return -k * u[torch.randperm(samples)].log()[:, None]


def test_the_shape_of_a_pareto_distribution_is_found():
    pytest.importorskip("arviz_stats")
    shapes = [0.2, 0.9, 0.5]
    log_w = torch.cat([weights(k) for k in shapes], 1)
    found = pareto_k(log_w)
    assert found.dtype == F64 and found.tolist() == pytest.approx(shapes, abs=0.03)
    # neither the weights' scale nor what does not lie in the tail matters
    torch.testing.assert_close(pareto_k(log_w - 700), found)
    body = log_w < log_w.quantile(0.9, 0)
    torch.testing.assert_close(pareto_k(torch.where(body, torch.tensor(-math.inf, dtype=F64), log_w)), found)


def test_where_there_is_none_it_is_nan():
    pytest.importorskip("arviz_stats")
    assert pareto_k(weights(0.5, 24)).isnan().all() and pareto_k(weights(0.5, 25)).isfinite().all()
    mixed = pareto_k(torch.cat([torch.zeros(100, 1, dtype=F64), weights(0.5, 100)], 1))
    assert mixed.isnan().tolist() == [True, False]  # equal weights have no tail
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pareto_k(torch.eye(100, 1, dtype=F64))  # equal weights and a single larger one


def test_without_the_package_it_is_nan(monkeypatch):
    monkeypatch.setattr(pareto, "can_fit", lambda: False)
    assert pareto_k(weights(0.5)).isnan().tolist() == [True]
