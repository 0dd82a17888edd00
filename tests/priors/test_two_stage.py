"""The second VAE as prior: its density on average, its draws, and what it learns."""

import math
from functools import partial

import pytest
import torch
from densities import grid, shaken
from torch.distributions import Independent, Normal
from zuko.distributions import NormalizingFlow

from cvae.distributions import from_noise
from cvae.errors import ConfigError
from cvae.evaluation.fit import fit
from cvae.priors import Standardized, TwoStage

F64 = torch.float64


def exact(prior, z, u, volume):
    """log p(z) for z (N, D), by the integral over u."""
    p = prior()
    joint = p.given(u).log_prob(z[:, None]) + p.base().log_prob(u)
    return joint.logsumexp(1) + math.log(volume)


@torch.no_grad()
def test_the_density_is_right_on_average():
    torch.manual_seed(0)
    prior = shaken(TwoStage(1, hidden=8, samples=4), 0.3)
    u, volume = grid(1, 8.0, 2001)
    z = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    p, truth = prior(), exact(prior, z, u, volume)
    estimates = p.log_prob(z.expand(20000, -1, -1))
    assert estimates.shape == (20000, 5)
    mean, error = estimates.exp().mean(0), estimates.exp().std(0) / 20000**0.5
    assert ((mean - truth.exp()).abs() < 4.5 * error).all()
    assert (estimates.mean(0) < truth).all()  # a bound
    prior.samples = 400
    torch.testing.assert_close(prior().log_prob(z), truth, atol=0.2, rtol=0)


@torch.no_grad()
def test_draws_have_the_moments_of_the_density():
    torch.manual_seed(0)
    prior = shaken(TwoStage(1, hidden=8), 0.5)
    z, volume = grid(1, 12.0, 1201)
    mass = exact(prior, z, *grid(1, 8.0, 1001)).exp() * volume
    assert mass.sum().item() == pytest.approx(1, abs=1e-3)
    drawn = prior().sample((40000,))
    for power in (1, 2):
        values = drawn**power
        assert ((values.mean(0) - mass @ z**power).abs() < 4.5 * values.std(0) / 200 + 1e-3).all()


def test_it_learns_what_one_gaussian_cannot_say():
    """A ring, fitted as fit-prior does; in another unit."""
    torch.manual_seed(0)
    angle = 2 * math.pi * torch.rand(3000)
    z = 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.3 * torch.randn(3000, 2) + 40
    prior = Standardized(2, None, partial(TwoStage, hidden=32))
    gaussian = Independent(Normal(z.mean(0), z.std(0)), 1)
    found = fit(prior, z, range(40))
    assert found < -gaussian.log_prob(z).mean().item() - 0.5
    radius = (prior().sample((2000,)) - 40).norm(dim=1)
    assert radius.quantile(0.1) > 3 and radius.quantile(0.9) < 7


def test_its_draws_are_no_function_of_noise():
    p = Standardized(2, None, TwoStage)()
    assert isinstance(p, NormalizingFlow) and p.sample((3,)).shape == (3, 2)
    with pytest.raises(ConfigError, match="^prior=Marginal: must be made of normal distributions"):
        from_noise(p, torch.zeros(1, 2), torch.zeros(1))
    for key in ("hidden", "samples"):
        with pytest.raises(ConfigError, match=f"^{key}=0: must be a positive integer"):
            TwoStage(2, **{key: 0})
