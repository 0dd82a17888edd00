"""The continuous Bernoulli against quadrature, above all around 0, where a series takes over."""

import numpy as np
import pytest
import torch

from cvae.distributions import ContinuousBernoulli

LOGITS = (
    -40.0,
    -3.0,
    -0.49,
    -0.2501,
    -0.2499,
    -0.2,
    -0.05,
    -1e-6,
    0.0,
    1e-6,
    0.05,
    0.2,
    0.2499,
    0.2501,
    0.49,
    3.0,
    40.0,
)


def quadrature():
    """Points and weights on [0, 1], exact to every digit here."""
    points, weights = (torch.from_numpy(part) / 2 for part in np.polynomial.legendre.leggauss(80))
    return points + 0.5, weights


@pytest.mark.parametrize("logit", LOGITS)
def test_density_mean_and_gradient(logit):
    x, weights = quadrature()
    logit = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    p = ContinuousBernoulli(logit)
    unnormalized = (logit.detach() * x).exp() * weights
    mass = unnormalized.sum()
    mean = (unnormalized @ x) / mass
    torch.testing.assert_close(p.log_prob(x), logit.detach() * x - mass.log(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(p.mean, mean, rtol=1e-10, atol=1e-10)
    for value in (0.0, 0.3, 1.0):  # an exponential family: d log p(x) / d logit = x - mean
        log_prob = ContinuousBernoulli(logit).log_prob(torch.tensor(value, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(log_prob, logit)
        torch.testing.assert_close(gradient, value - mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("logit", LOGITS)
def test_draws_have_the_mean(logit):
    p = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    draws = p.sample((20_000,))
    assert 0 <= draws.min() and draws.max() <= 1
    assert (draws.mean() - p.mean).abs() < 5 * draws.std() / 20_000**0.5
