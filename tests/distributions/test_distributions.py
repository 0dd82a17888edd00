"""Helpers around torch's distributions."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

from cvae.distributions import Mixture, rsample_and_log_prob
from cvae.distributions.mixture import diagonal_normal_log_prob


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


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_diagonal_normals_by_matrix_products(scale, dtype, rtol):
    """As torch's plain formula in float64, also close to a narrow mean, where the multiplied-out square cancels."""
    generator = torch.Generator().manual_seed(0)
    loc = 3 * torch.randn(5, 40, generator=generator, dtype=dtype)
    scales = scale * (0.5 + torch.rand(5, 40, generator=generator, dtype=dtype))
    z = torch.cat(
        [loc + scales * torch.randn(5, 40, generator=generator, dtype=dtype), torch.zeros(1, 40, dtype=dtype)]
    )
    expected = Normal(loc.double(), scales.double()).log_prob(z.double()[:, None]).sum(-1)
    torch.testing.assert_close(diagonal_normal_log_prob(z, loc, scales), expected, rtol=rtol, atol=rtol)


def test_a_mixture_scores_diagonal_normals_as_any_other_components():
    logits, loc, scale = torch.randn(7), torch.randn(7, 3), 0.1 + torch.rand(7, 3)
    z = torch.randn(4, 2, 3)
    fast = Mixture(Categorical(logits=logits), Independent(Normal(loc, scale), 1))
    plain = Mixture(Categorical(logits=logits), MultivariateNormal(loc, scale_tril=scale.diag_embed()))
    torch.testing.assert_close(fast.log_prob(z), plain.log_prob(z))
    assert fast.log_prob(z).dtype == torch.float32
