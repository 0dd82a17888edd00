"""Draws together with their own density, with and without the score."""

import pytest
import torch
from torch.distributions import Independent, Normal, OneHotCategorical

from cvae.distributions import TriangularNormal, rsample_and_log_prob
from cvae.distributions.precision import double
from cvae.distributions.sampling import without_score
from cvae.posteriors import FullGaussian


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


def test_discrete_latents_are_drawn_without_a_gradient():
    """Then log q has the score as its only gradient, and none without it."""
    logits = torch.randn(3, 5, requires_grad=True)
    q = OneHotCategorical(logits=logits)
    for score in (True, False):
        torch.manual_seed(1)
        z, log_q = rsample_and_log_prob(q, (4,), score)
        torch.manual_seed(1)
        assert torch.equal(z, q.sample((4,))) and not z.requires_grad
        assert torch.equal(log_q, q.log_prob(z))
        (gradient,) = torch.autograd.grad(log_q.sum(), logits, retain_graph=True)
        expected = (z - q.probs).sum(0).detach() if score else torch.zeros(3, 5)
        torch.testing.assert_close(gradient, expected)


def test_the_score_costs_nothing_where_no_gradient_is_asked_for():
    class Counting(Normal):
        def log_prob(self, value):
            calls.append(value)
            return super().log_prob(value)

    for requires_grad, expected in ((False, 1), (True, 2)):
        calls = []
        rsample_and_log_prob(Counting(torch.zeros(3, requires_grad=requires_grad), 1.0), (4,), score=False)
        assert len(calls) == expected


def features_of(posterior, scale, batch=3):
    return scale * torch.randn(batch, posterior.num_features)


def gradient_without_score(posterior, features, eps, monkeypatch):
    """Of log q(z), z drawn with the noise eps, with respect to the features."""
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: eps.to(features))
    features = features.detach().requires_grad_()
    _, log_q = rsample_and_log_prob(posterior(features), (len(eps),), score=False)
    assert log_q.dtype == features.dtype
    return torch.autograd.grad(log_q.sum(), features)[0]


@pytest.mark.parametrize("dims", [2, 16, 32, 64])
def test_full_gaussian_without_score_keeps_its_digits(dims, monkeypatch):
    """For features of unit scale, in float32 as in float64; the general way loses all digits at 32 dimensions."""
    posterior = FullGaussian(dims)
    features, eps = features_of(posterior, 1.0), torch.randn(4, 3, dims)
    single = gradient_without_score(posterior, features, eps, monkeypatch).double()
    exact = gradient_without_score(posterior, features.double(), eps.double(), monkeypatch)
    assert ((single - exact).norm(dim=-1) / exact.norm(dim=-1)).max() < 2e-5
    # d log q / d mean = -L^-T eps, here without a solve: L^T (sum over the draws) = -sum of eps
    tril = posterior(features.double()).scale_tril
    back = torch.einsum("bij,bi->bj", tril, exact[:, :dims])
    scale = torch.einsum("bij,bi->bj", tril.abs(), exact[:, :dims].abs())
    assert ((back + eps.double().sum(0)).abs() < 1e-13 * scale).all()


@pytest.mark.parametrize("dims", [2, 16, 32, 64])
def test_full_gaussian_without_score_is_the_general_way(dims, monkeypatch):
    """In float64, for features small enough that the general way keeps its digits too."""
    posterior = FullGaussian(dims)
    features, eps = features_of(posterior, 0.2).double(), torch.randn(4, 3, dims).double()
    ours = gradient_without_score(posterior, features, eps, monkeypatch)
    features.requires_grad_()
    q = posterior(features)
    z, log_q = rsample_and_log_prob(q, (4,))
    (expected,) = torch.autograd.grad(without_score(q, z, log_q).sum(), features)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("shape", [(), (4,), (4, 2)])
def test_triangular_normal_without_score_in_any_shape(batch, shape):
    tril = (torch.randn(*batch, 3, 3).tril(-1) + torch.eye(3)).double()
    loc = torch.randn(*batch, 3, dtype=torch.float64, requires_grad=True)
    q = TriangularNormal(loc, scale_tril=tril)
    torch.manual_seed(1)
    z, log_q = q.rsample_and_log_prob(shape)
    torch.manual_seed(1)
    same_z, same_log_q = q.rsample_and_log_prob(shape, score=False)
    assert torch.equal(same_z, z) and torch.equal(same_log_q, log_q)
    assert not log_q.requires_grad, "the mean moves its draws along, so with the score log q does not depend on it"
    pull = torch.linalg.solve(tril.mT, torch.linalg.solve(tril, (z - loc).unsqueeze(-1))).squeeze(-1)
    expected = -pull.reshape(-1, *loc.shape).sum(0)
    torch.testing.assert_close(torch.autograd.grad(same_log_q.sum(), loc)[0], expected)


def test_the_value_stays_finite_where_the_gradient_overflows():
    posterior = FullGaussian(8)
    q = posterior(torch.full((2, posterior.num_features), -30.0, requires_grad=True))
    torch.manual_seed(1)
    expected = rsample_and_log_prob(q)[1]
    torch.manual_seed(1)
    assert torch.equal(rsample_and_log_prob(q, score=False)[1], expected)


def test_triangular_draws_keep_float32s_digits_under_autocast():
    """z is the draw that log q scores, also where products of matrices are done in bfloat16."""
    posterior = FullGaussian(4)
    q = posterior(features_of(posterior, 1.0))
    with torch.autocast("cpu", torch.bfloat16):
        z, log_q = rsample_and_log_prob(q, (5,))
    assert z.dtype == log_q.dtype == torch.float32
    torch.testing.assert_close(log_q, q.log_prob(z), rtol=1e-4, atol=1e-4)


def test_float64_is_left_out_where_there_is_none():
    class OnMPS:
        device = torch.device("mps")

        def double(self):
            pytest.fail("MPS has no float64")

    on_mps = OnMPS()
    assert double(on_mps) is on_mps
    assert double(torch.zeros(2)).dtype == torch.float64
