"""Helpers around torch's distributions."""

import pytest
import torch
from torch.distributions import Independent, Normal

from cvae.distributions import rsample_and_log_prob


def test_density_is_asked_for_after_the_draw_where_none_comes_with_it():
    q = Independent(Normal(torch.randn(3, 2), torch.rand(3, 2)), 1)
    torch.manual_seed(1)
    z, log_q = rsample_and_log_prob(q, (4,))
    torch.manual_seed(1)
    assert torch.equal(z, q.rsample((4,)))
    assert torch.equal(log_q, q.log_prob(z))


def test_density_that_comes_with_the_draw_is_taken():
    class Knowing(Normal):
        def rsample_and_log_prob(self, shape):
            return self.rsample(shape), torch.zeros(shape)

        def log_prob(self, value):
            pytest.fail("would invert a flow")

    z, log_q = rsample_and_log_prob(Knowing(0.0, 1.0), (4,))
    assert z.shape == (4,) and not log_q.any()
