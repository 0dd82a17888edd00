"""Mixtures: their chunks, and components that are diagonal Gaussians."""

from functools import partial

import pytest
import torch
from torch.distributions import Categorical, Independent, Laplace, MixtureSameFamily, MultivariateNormal, Normal

from cvae.distributions import Mixture
from cvae.distributions.mixture import diagonal_normal_log_prob
from cvae.posteriors import IAF, FlowPosterior


def mixture(components):
    return Mixture(Categorical(logits=torch.randn(components.batch_shape)), components, validate_args=False)


def diagonal(num, dims):
    return Independent(Normal(torch.randn(num, dims), 0.1 + torch.rand(num, dims)), 1)


def full(num, dims):
    return MultivariateNormal(torch.randn(num, dims), scale_tril=torch.eye(dims).expand(num, -1, -1))


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_diagonal_normals_by_matrix_products(scale, dtype, rtol):
    """As torch's plain formula in float64, also close to a narrow mean, where the multiplied-out square cancels."""
    loc = 3 * torch.randn(5, 40, dtype=dtype)
    scales = scale * (0.5 + torch.rand(5, 40, dtype=dtype))
    z = torch.cat([loc + scales * torch.randn(5, 40, dtype=dtype), torch.zeros(1, 40, dtype=dtype)])
    expected = Normal(loc.double(), scales.double()).log_prob(z.double()[:, None]).sum(-1)
    torch.testing.assert_close(diagonal_normal_log_prob(z, loc, scales), expected, rtol=rtol, atol=rtol)


def test_a_mixture_scores_diagonal_normals_as_any_other_components():
    logits, loc, scale = torch.randn(7), torch.randn(7, 3), 0.1 + torch.rand(7, 3)
    z = torch.randn(4, 2, 3)
    fast = Mixture(Categorical(logits=logits), Independent(Normal(loc, scale), 1))
    plain = Mixture(Categorical(logits=logits), MultivariateNormal(loc, scale_tril=scale.diag_embed()))
    torch.testing.assert_close(fast.log_prob(z), plain.log_prob(z))
    assert fast.log_prob(z).dtype == torch.float32


def test_chunks_are_as_large_as_the_memory_allows(monkeypatch):
    """2^24 floats: for one z, K components take 2 K (diagonal, in float64), K D, or K times what the component says."""
    iaf = IAF(3, transforms=2, hidden=8, context=4)
    of_flow = iaf(torch.randn(5, iaf.num_features))
    for components, scored in ((diagonal(5, 3), 2), (full(5, 3), 3), (of_flow, of_flow.scratch())):
        p = mixture(components)
        assert p._chunk() == 2**24 // (5 * scored)
        assert p._chunk(drawn=True) == 2**24 // (5 * 3)
    monkeypatch.setattr(Mixture, "floats", 9)
    assert mixture(diagonal(5, 3))._chunk() == 1


def test_only_normals_of_vectors_take_the_fast_way():
    maps = Independent(Normal(torch.randn(5, 2, 3), 1.0), 2)
    laplace = Independent(Laplace(torch.randn(5, 3), 1.0), 1)
    for components in (maps, full(5, 3), laplace):
        assert mixture(components)._diagonal is None
    components = diagonal(5, 3)
    assert mixture(components)._diagonal is components.base_dist


def test_other_independent_components_keep_their_density():
    p = mixture(Independent(Laplace(torch.randn(5, 3), 1.0), 1))
    z = torch.randn(7, 3)
    torch.testing.assert_close(p.log_prob(z), MixtureSameFamily.log_prob(p, z))


def saved_floats(function):
    """How many numbers the forward pass keeps for the backward pass."""
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t  # held, so that no other takes its address
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        function()
    return sum(t.untyped_storage().nbytes() for t in kept.values()) / 4


IN_FORCE = {"float32": (torch.float32, False), "float64": (torch.float64, False), "autocast": (torch.float32, True)}
FLOWS = {
    "iaf": IAF(8, transforms=3, hidden=32, context=8),
    "iaf of a large context": IAF(8, transforms=2, hidden=4, context=128),
    "iaf of two dimensions": IAF(2, transforms=3, hidden=32, context=8),
    "affine": FlowPosterior(8, "affine", transforms=3, hidden=32, context=8),
    "spline": FlowPosterior(8, "spline", transforms=2, hidden=32, context=8),
    "spline of many bins": FlowPosterior(4, "spline", transforms=2, hidden=4, context=4, bins=32),
    "iaf of one dimension": IAF(1, transforms=6, hidden=8, context=8),
    "affine of one dimension": FlowPosterior(1, "affine", transforms=3, hidden=8, context=8),
    "spline of one dimension": FlowPosterior(1, "spline", transforms=3, hidden=8, context=8, bins=4),
}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("in_force", IN_FORCE)
def test_a_chunk_of_flows_keeps_as_much_as_is_allowed(monkeypatch, name, in_force):
    """2^20 floats here, for the backward pass, whatever dtype is in force where the mixture is asked."""
    dtype, half = IN_FORCE[in_force]
    flow = FLOWS[name].to(dtype)
    p = mixture(flow(torch.randn(3, flow.num_features, dtype=dtype)))
    monkeypatch.setattr(Mixture, "floats", 2**20)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        num = p._chunk()
        z = torch.randn(num, flow.sizes[0], dtype=dtype)
        kept = saved_floats(partial(p.log_prob, z)) - saved_floats(partial(p.log_prob, z[:1]))  # without the weights
    assert num > 10
    assert 0.85 < kept / (2**20 * (num - 1) / num) < 1.1


def test_the_backward_pass_recomputes_the_chunks(monkeypatch):
    loc, z = torch.randn(5, 3, requires_grad=True), torch.randn(100, 3)
    p = mixture(Independent(Normal(loc, 1.0), 1))
    at_once = saved_floats(lambda: p.log_prob(z))
    monkeypatch.setattr(Mixture, "floats", 5 * 2 * 20)  # 20 z a chunk
    assert saved_floats(lambda: p.log_prob(z)) < at_once / 2


def test_z_are_scored_and_drawn_in_chunks(monkeypatch):
    """Of all leading dimensions together; a draw takes K D floats, a score of diagonal components 2 K."""
    p = mixture(diagonal(5, 3))
    monkeypatch.setattr(Mixture, "floats", 5 * 2 * 9)  # 9 z are scored at once, 6 drawn
    scored, score = [], Mixture._log_prob
    monkeypatch.setattr(Mixture, "_log_prob", lambda p, z: scored.append(tuple(z.shape)) or score(p, z))
    drawn, draw = [], Mixture._sample
    monkeypatch.setattr(Mixture, "_sample", lambda p, num: drawn.append(num) or draw(p, num))
    z = p.sample((2, 10))
    assert z.shape == (2, 10, 3) and drawn == [6, 6, 6, 2]
    assert p.log_prob(z).shape == (2, 10) and scored == [(9, 3), (9, 3), (2, 3)]
    p.log_prob(z[0, :9]), p.sample((3, 2))
    assert scored[3:] == [(9, 3)] and drawn[4:] == [6]


def test_draws_are_torchs():
    """From the same random numbers: the component of each draw, and its noise."""
    for p in (mixture(diagonal(5, 3)), mixture(full(5, 3))):
        torch.manual_seed(3)
        ours = p.sample((20,))
        torch.manual_seed(3)
        torch.testing.assert_close(ours, MixtureSameFamily.sample(p, (20,)))
