"""Discretized logistics: what tests/likelihoods cannot ask of every likelihood."""

import pytest
import torch

from cvae.distributions.discretized import DiscretizedLogistic, MixtureOfLogistics, log_mass

LEVELS = torch.arange(256.0, dtype=torch.float64)


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, 0.0, 7.0])
def test_masses_sum_to_one_however_narrow_wide_or_far(log_scale):
    mean = torch.tensor([-1e4, -1.2, -1.0, -0.3, 0.0, 0.999, 1.0, 3.0, 1e4], dtype=torch.float64)[:, None]
    total = log_mass(LEVELS, mean, torch.tensor(log_scale, dtype=torch.float64)).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0)


def test_far_levels_keep_their_tail():
    """Where the CDFs' difference is 0 even in float64, the log-mass falls with the tail, exp(-distance / scale)."""
    mean, log_scale = torch.tensor(-1.0), torch.tensor(-7.0)
    steps = log_mass(torch.arange(3.0, 255.0), mean, log_scale).diff()
    torch.testing.assert_close(
        steps, torch.full((251,), -torch.exp(torch.tensor(7.0)).item() / 127.5), rtol=1e-3, atol=0
    )


def test_values_between_levels_count_as_the_nearest():
    p = DiscretizedLogistic(double(256), double(256))
    torch.testing.assert_close(p.log_prob((LEVELS + 0.3) / 255), p.log_prob(LEVELS / 255), rtol=0, atol=0)


def mixture(logits, mean, log_scale, coefficients, channels):
    """The mixture of the first channels alone."""
    pairs = channels * (channels - 1) // 2
    mean, log_scale = mean[..., :channels, :, :], log_scale[..., :channels, :, :]
    return MixtureOfLogistics(logits, mean, log_scale, coefficients[..., :pairs, :, :])


def test_chain_rule_over_the_channels():
    """p(r, g, b) summed over b is p(r, g); that over g is p(r); that over r is 1: so all 2^24 colours sum to 1."""
    parts = double(7, 4, 1, 1), double(7, 4, 3, 1, 1), double(7, 4, 3, 1, 1) - 2, double(7, 4, 3, 1, 1).tanh()
    before = torch.randint(0, 256, (256, 7, 2, 1, 1)) / 255.0  # r and g, the same along the levels of the last channel
    before = before[:1].double().expand(256, -1, -1, -1, -1)
    last = (LEVELS / 255).reshape(-1, 1, 1, 1, 1).expand(-1, 7, -1, -1, -1)
    for channels in (3, 2, 1):
        x = torch.cat([before[:, :, : channels - 1], last], 2)
        total = mixture(*parts, channels).log_prob(x).logsumexp(0)
        expected = mixture(*parts, channels - 1).log_prob(x[0, :, :-1]) if channels > 1 else torch.zeros_like(total)
        torch.testing.assert_close(total, expected, rtol=1e-11, atol=1e-11)


def test_one_component_without_dependence_is_one_logistic_a_channel():
    mean, log_scale, x = double(5, 1, 3, 4, 4), double(5, 1, 3, 4, 4), torch.randint(0, 256, (5, 3, 4, 4)) / 255.0
    p = MixtureOfLogistics(double(5, 1, 4, 4), mean, log_scale, torch.zeros_like(mean))
    plain = DiscretizedLogistic(mean.squeeze(1), log_scale.squeeze(1))
    torch.testing.assert_close(p.log_prob(x), plain.log_prob(x).sum((1, 2, 3)))
    torch.testing.assert_close(p.mean, plain.mean)


def test_mean_of_colours_within_the_range():
    """Narrow components, dependent channels, nothing clipped: .mean is the mean of the draws but for rounding."""
    mean = 0.15 * double(1, 4, 3, 2, 2).clamp(-2, 2)
    p = MixtureOfLogistics(double(1, 4, 2, 2), mean, torch.full_like(mean, -4), double(1, 4, 3, 2, 2).tanh())
    draws = p.sample((4000,))
    noise = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - p.mean).abs() <= 4.5 * noise + 0.5 / 255).all()


def test_channels_are_drawn_together():
    """One component black, one white, each pixel's channels of the same one, and half the pixels of each."""
    mean = torch.tensor([-1.5, 1.5]).reshape(2, 1, 1, 1).expand(2, 3, 10, 10)
    p = MixtureOfLogistics(torch.zeros(2, 10, 10), mean, torch.full_like(mean, -7), torch.zeros(2, 3, 10, 10))
    draws = p.sample((20,))
    assert draws.shape == (20, 3, 10, 10)
    assert torch.equal(draws, draws[:, :1].expand_as(draws))
    assert set(draws.unique().tolist()) == {0, 1}
    assert abs(draws.mean().item() - 0.5) < 0.05
