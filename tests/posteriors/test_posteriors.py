"""Every posterior is a density that it samples from; a new one needs a line in POSTERIORS."""

import copy
import inspect
import io
import math
from functools import partial

import numpy as np
import pytest
import torch
from code_vaes import CODES
from conftest import ROOT
from densities import assert_moments, integrals, shaken
from omegaconf import OmegaConf
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence
from zuko.flows import MaskedAutoregressiveTransform

from cvae import posteriors
from cvae.distributions import TriangularNormal, rsample_and_log_prob, stable
from cvae.errors import ConfigError
from cvae.likelihoods import Bernoulli as BernoulliLikelihood
from cvae.networks import mlp
from cvae.posteriors import IAF, DiagonalGaussian, FlowPosterior, FullGaussian, Posterior, WrappedNormal
from cvae.posteriors.gaussian import fill_triangular
from cvae.priors import StandardNormal

POSTERIORS = {
    "diagonal_gaussian": DiagonalGaussian,
    "full_gaussian": FullGaussian,
    "iaf": partial(IAF, transforms=2, hidden=8, context=3),
    "flow": partial(FlowPosterior, transforms=2, hidden=8, context=3, bins=4),
    "flow, affine": partial(FlowPosterior, transform="affine", transforms=2, hidden=8, context=3),
    "wrapped_normal": WrappedNormal,
    "wrapped_normal, less curved": partial(WrappedNormal, curvature=0.3),
}
GAUSSIANS = ["diagonal_gaussian", "full_gaussian"]


@pytest.fixture(params=POSTERIORS)
def make(request):
    return POSTERIORS[request.param]


def features_of(posterior, batch=3, dtype=torch.float64):
    return (0.7 * torch.randn(batch, posterior.num_features, dtype=dtype)).requires_grad_()


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_shapes(make, dims):
    q = (posterior := make(dims))(features_of(posterior, 3, torch.float32))
    assert (q.batch_shape, q.event_shape, q.mean.shape) == ((3,), (dims,), (3, dims))
    for shape in ((), (4,), (4, 2)):
        z, log_q = rsample_and_log_prob(q, shape)
        assert z.shape == q.rsample(shape).shape == q.sample(shape).shape == (*shape, 3, dims)
        assert log_q.shape == q.log_prob(z).shape == (*shape, 3)
    every = q.log_prob(torch.randn(7, 1, dims))  # each z under each posterior of the batch
    assert every.shape == (7, 3)


@pytest.mark.parametrize("dims", [1, 2])
def test_density_integrates_to_one_and_is_sampled_from(make, dims):
    posterior = shaken(make(dims))
    q = posterior(features_of(posterior, 1).detach())
    total, mean, covariance = integrals(q.log_prob, dims, points=4801 if dims == 1 else 241)  # splines have kinks
    assert total.item() == pytest.approx(1, abs=1e-4)
    assert_moments(q.sample((40_000,))[:, 0], mean, covariance)


def test_log_prob_of_z_broadcasts(make):
    posterior = shaken(make(3))
    q, z = posterior(features_of(posterior, 2)), torch.randn(4, 1, 3, dtype=torch.float64)
    alone = torch.stack([q.log_prob(row.expand(2, -1)) for row in z[:, 0]])
    torch.testing.assert_close(q.log_prob(z), alone)


@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_density_of_own_draws_is_that_of_log_prob(make, dims, shape):
    posterior = shaken(make(dims))
    q = posterior(features_of(posterior))
    z, log_q = rsample_and_log_prob(q, shape)
    torch.testing.assert_close(log_q, q.log_prob(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_gradients_of_own_draws_are_those_of_log_prob(make, dims):
    """The total derivative, through z and through q, whether the density comes with the draw or from log_prob."""
    posterior = shaken(make(dims))
    features = features_of(posterior)
    inputs = [features, *posterior.parameters()]
    gradients = []
    for at_once in (True, False):
        torch.manual_seed(1)
        q = posterior(features)
        z, log_q = rsample_and_log_prob(q, (4,)) if at_once else (z := q.rsample((4,)), q.log_prob(z))
        gradients.append(torch.autograd.grad((log_q + z.square().sum(-1)).sum(), inputs))
    for at_once, afterwards in zip(*gradients, strict=True):
        assert at_once.isfinite().all() and at_once.any()
        torch.testing.assert_close(at_once, afterwards, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_without_the_score_the_gradient_comes_through_z_alone(make, dims):
    """The chain rule by hand: d log q(z) / dz at fixed parameters, then dz / d parameters at fixed noise."""
    posterior = shaken(make(dims))
    features = features_of(posterior)
    inputs = [features, *posterior.parameters()]
    torch.manual_seed(1)
    z, expected_log_q = rsample_and_log_prob(posterior(features), (4,))
    at_z = z.detach().requires_grad_()
    (through_z,) = torch.autograd.grad(posterior(features.detach()).log_prob(at_z).sum(), at_z)
    expected = torch.autograd.grad(z, inputs, through_z)
    torch.manual_seed(1)
    again, log_q = rsample_and_log_prob(posterior(features), (4,), score=False)
    assert torch.equal(again, z) and torch.equal(log_q, expected_log_q)
    for ours, by_hand in zip(torch.autograd.grad(log_q.sum(), inputs), expected, strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-6)


def test_without_the_score_no_gradient_is_needed(make):
    posterior = make(3)
    with torch.no_grad():
        z, log_q = rsample_and_log_prob(posterior(features_of(posterior, dtype=torch.float32)), (4,), score=False)
    assert not z.requires_grad and not log_q.requires_grad


def test_reload_is_identical(make):
    trained, file = shaken(make(3)), io.BytesIO()
    torch.save(trained.state_dict(), file)
    fresh = make(3).double()
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    features, z = features_of(trained), torch.randn(4, 3, 3, dtype=torch.float64)
    for other in (fresh, copy.deepcopy(trained)):
        assert torch.equal(other(features).log_prob(z), trained(features).log_prob(z))


@pytest.mark.parametrize("spread", ["narrow", "wide", "mixed", "far"])
def test_extreme_features_stay_finite(make, spread):
    """Log-variances of +-30 (all features of the other kinds too), and means of 1e4, in float32."""
    posterior = make(8)
    values = torch.full((6, posterior.num_features), {"narrow": -30.0, "wide": 30.0}.get(spread, 0.0))
    if spread == "mixed":
        values = 30.0 * torch.randn_like(values).sign()
    if spread == "far":
        values[:, :8] = 1e4
    values.requires_grad_()
    z, log_q = rsample_and_log_prob(posterior(values), (5,))
    assert z.isfinite().all() and log_q.isfinite().all()
    for gradient in torch.autograd.grad(log_q.sum() + z.sum(), [values, *posterior.parameters()]):
        assert gradient.isfinite().all()


def test_no_value_is_checked(make):
    """A check would wait for the device at every step; the training module sees that the loss is not finite."""
    posterior = make(3)
    q = posterior(torch.full((2, posterior.num_features), math.nan))
    assert q.log_prob(torch.full((2, 3), math.nan)).isnan().all()
    z, log_q = rsample_and_log_prob(q)
    assert z.isnan().all() and log_q.isnan().all()


def test_diagonal_gaussian_is_a_product_of_normals():
    features, z = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 3, 2, dtype=torch.float64)
    (m0, m1), (v0, v1) = features[:, :2].T, features[:, 2:].exp().T
    expected = Normal(m0, v0.sqrt()).log_prob(z[..., 0]) + Normal(m1, v1.sqrt()).log_prob(z[..., 1])
    torch.testing.assert_close(DiagonalGaussian(2)(features).log_prob(z), expected)


def test_full_gaussian_against_covariance():
    """By the covariance, in plain linear algebra. Before the softplus entries (a, b, c) make L = [[c, 0], [b, a]]."""
    features, z = torch.randn(1, 5, dtype=torch.float64), torch.randn(7, 1, 2, dtype=torch.float64)
    a, b, c = features[0, 2:].tolist()
    first, second = (math.log1p(math.exp(value)) + 1e-5 for value in (c, a))
    tril = torch.tensor([[first, 0], [b, second]], dtype=torch.float64)
    covariance = tril @ tril.T
    away = z[:, 0] - features[0, :2]
    squared = torch.einsum("ni,ij,nj->n", away, torch.linalg.inv(covariance), away)
    expected = -(squared + torch.logdet(covariance) + 2 * math.log(2 * math.pi)) / 2
    torch.testing.assert_close(FullGaussian(2)(features).log_prob(z)[:, 0], expected)


def test_triangular_fill_is_tensorflow_probabilitys():
    """The example in the documentation of tfp.math.fill_triangular."""
    expected = torch.tensor([[4, 0, 0], [6, 5, 0], [3, 2, 1]])
    assert torch.equal(fill_triangular(torch.arange(1, 7), 3), expected)
    assert torch.equal(fill_triangular(torch.arange(1, 13).view(2, 6), 3)[1], expected + 6 * (expected > 0))


def test_full_gaussian_is_tensorflow_probabilitys():
    """The MultivariateNormalTriL layer of TensorFlow's probabilistic-layers tutorial, 16 dimensions."""
    with np.load(ROOT / "tests" / "fixtures" / "tfp_layers.npz") as arrays:
        keys = ("params", "mean", "scale_tril", "z", "logqz_x")
        params, mean, tril, z, log_q = (torch.from_numpy(arrays[f"fwd/{key}"]) for key in keys)
    q = FullGaussian(16)(params)
    assert torch.equal(q.mean, mean)
    torch.testing.assert_close(q.scale_tril, tril, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-5, atol=0)


def test_full_gaussian_keeps_its_digits_in_many_dimensions():
    """In float32, where log_prob of the same z, by a triangular solve, is off by more than a million nats."""
    posterior = FullGaussian(64)
    q = posterior(torch.randn(8, posterior.num_features))
    torch.manual_seed(1)
    z, log_q = rsample_and_log_prob(q, (4,))
    torch.manual_seed(1)
    eps = torch.randn(4, 8, 64)
    torch.testing.assert_close(z, q.loc + (q.scale_tril @ eps.unsqueeze(-1)).squeeze(-1), rtol=1e-5, atol=1e-5)
    expected = Normal(0, 1).log_prob(eps.double()).sum(-1) - q.scale_tril.double().logdet()
    torch.testing.assert_close(log_q.double(), expected, rtol=1e-5, atol=0)
    assert (q.log_prob(z) - log_q).abs().max() > 1e6


@pytest.mark.parametrize("name", GAUSSIANS)
def test_closed_form_kl_agrees_with_monte_carlo(name):
    """Against the standard normal and against another diagonal normal."""
    posterior = POSTERIORS[name](3)
    q = posterior(features_of(posterior, 2).detach())
    for loc, scale in ((torch.zeros(3), torch.ones(3)), (torch.tensor([1.0, 0, -2]), torch.tensor([0.5, 1, 3]))):
        p = Independent(Normal(loc.double(), scale.double()), 1)
        z, log_q = rsample_and_log_prob(q, (50_000,))
        draws = log_q - p.log_prob(z)  # (K, B)
        closed_form, error = kl_divergence(q, p), draws.std(0) / len(draws) ** 0.5
        assert closed_form.shape == (2,)
        assert ((closed_form - draws.mean(0)).abs() < 5 * error).all()


def test_closed_form_kl_of_full_covariance_is_torchs():
    q = FullGaussian(3)(torch.randn(2, 9, dtype=torch.float64))
    loc, scale = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    expected = kl_divergence(q, MultivariateNormal(loc, scale_tril=scale.diag()))
    torch.testing.assert_close(kl_divergence(q, Independent(Normal(loc, scale), 1)), expected)
    rows = TriangularNormal(q.loc.expand(4, 2, 3), scale_tril=q.scale_tril)
    torch.testing.assert_close(kl_divergence(rows, Independent(Normal(loc, scale), 1)), expected.expand(4, 2))
    for other in (Independent(Bernoulli(torch.full((3,), 0.5)), 1), Independent(Normal(torch.zeros(2, 3), 1.0), 2)):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, other)


@pytest.mark.parametrize("dims", [1, 4])
def test_iaf_by_change_of_variables(dims):
    """log q(z) = log N(z_0) - log |det dz/dz_0|, with the Jacobian by automatic differentiation."""
    posterior = shaken(IAF(dims, transforms=3, hidden=8, context=2))
    q = posterior(features_of(posterior, 1).detach())
    torch.manual_seed(1)
    z_0 = q.base.sample()
    torch.manual_seed(1)
    z, log_q = q.rsample_and_log_prob()
    torch.testing.assert_close(q.transform.inv(z_0), z)
    jacobian = torch.autograd.functional.jacobian(lambda z_0: q.transform.inv(z_0)[0], z_0)[:, 0]  # (D, D)
    expected = q.base.log_prob(z_0) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(log_q, expected)
    torch.testing.assert_close(q.log_prob(z), expected)
    assert dims == 1 or (jacobian.abs() > 1e-6).all(), "every dimension of z depends on every dimension of the noise"


def test_iaf_samples_with_one_network_pass_a_transform():
    posterior, passes = IAF(5, transforms=3), []
    for transform in posterior.transforms:
        transform.hyper.register_forward_hook(lambda *_: passes.append(1))
    q = posterior(features_of(posterior, dtype=torch.float32))
    z, _ = rsample_and_log_prob(q, (4,))
    assert len(passes) == 3
    q.log_prob(z)
    assert len(passes) == 3 + 3, "the way back computes each unit once, then comes a pass for the Jacobian"


def test_iaf_reverses_the_order_from_one_transform_to_the_next():
    """In f_1 dimension i depends on those up to i, in f_2 on those from i on, and so on."""
    posterior = shaken(IAF(4, transforms=4, hidden=16, context=2))
    context, z = torch.randn(2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    for i, transform in enumerate(posterior.transforms):
        jacobian = torch.autograd.functional.jacobian(transform(context), z)
        depends = torch.ones(4, 4).tril() if i % 2 == 0 else torch.ones(4, 4).triu()
        assert torch.equal(jacobian != 0, depends.bool())


def test_iaf_has_two_hidden_layers_of_elus():
    posterior = IAF(3, transforms=2, hidden=7, context=5)
    for transform in posterior.transforms:
        assert [layer.out_features for layer in list(transform.hyper)[::2]] == [7, 7, 6]
        assert all(isinstance(layer, torch.nn.ELU) for layer in list(transform.hyper)[1::2])


def test_flows_start_at_a_hundredth_of_their_last_layer():
    """Which is what keeps a new flow close to the identity, also in one dimension without a network."""
    transform = MaskedAutoregressiveTransform(3, 2)
    before = transform.hyper[-1].weight.detach().clone()
    assert stable(transform) is transform
    torch.testing.assert_close(transform.hyper[-1].weight, before / 100)
    assert not transform.hyper[-1].bias.any()
    plain = MaskedAutoregressiveTransform(1, 0)
    before = [parameter.detach().clone() for parameter in plain.phi]
    stable(plain)
    torch.testing.assert_close(list(plain.phi), [parameter / 100 for parameter in before])
    for transform in IAF(3).transforms:
        assert transform.hyper[-1].weight.abs().max() <= 0.01 / 128**0.5


def test_iaf_starts_close_to_its_base():
    posterior = IAF(5)
    features = torch.randn(3, posterior.num_features)
    q, z = posterior(features), torch.randn(4, 3, 5)
    base = DiagonalGaussian(5)(features[:, :10])
    assert 0 < (q.log_prob(z) - base.log_prob(z)).abs().max() < 0.5


def test_iaf_mean_is_where_the_base_mean_goes():
    """At the start, when the flow is nearly the identity, that is nearly E[z]; later it is a centre."""
    posterior = IAF(3)
    q = posterior(features := torch.randn(2, posterior.num_features))
    torch.testing.assert_close(q.mean, features[:, :3], rtol=0, atol=0.1)
    posterior = shaken(IAF(3, hidden=8, context=2))
    q = posterior(features := torch.randn(2, posterior.num_features, dtype=torch.float64))
    assert torch.equal(q.mean, q.transform.inv(q.base.mean))
    torch.testing.assert_close(q.transform(q.mean), features[:, :3])


@pytest.mark.parametrize("key", ["transforms", "hidden", "context"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "two", True, None])
def test_iaf_refuses_impossible_options(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}=.*must be a positive integer"):
        IAF(2, **{key: value})


OF_FILES = [name for name in POSTERIORS if "," not in name]


CODE_FILES = [name for name in CODES if "," not in name]


@pytest.mark.parametrize("name", [*OF_FILES, *CODE_FILES])
def test_every_option_stands_in_its_file(name):
    options = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "posterior" / f"{name}.yaml"))
    cls = getattr(posteriors, options.pop("_target_").removeprefix("cvae.posteriors."))
    defaults = {
        key: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if key != "latent_dim"
    }
    assert options.pop("defaults", None) == (
        [{"temperature": None}, "_self_"][::-1] if "temperature" in defaults else None
    )
    assert options == defaults
    assert {file.stem for file in (ROOT / "conf" / "posterior").glob("*.yaml")} == {
        *OF_FILES,
        *CODE_FILES,
        "deterministic",
        "power_spherical",
    }, "a line is missing"


def test_a_posterior_without_forward_cannot_be_made(make):
    assert isinstance(make(2), Posterior)
    with pytest.raises(TypeError, match="forward"):
        type("Unfinished", (Posterior,), {})()


@pytest.mark.parametrize("name", GAUSSIANS)
def test_a_step_compiles_without_a_graph_break(name):
    """Encoder, draw, density with and without the score, decoder and likelihood in one graph, with the same values."""
    posterior, likelihood, prior = POSTERIORS[name](3), BernoulliLikelihood((1, 4, 4)), StandardNormal(3)
    encoder, decoder = mlp((1, 4, 4), 3, posterior.num_features, likelihood.num_params, hidden=[])
    x = torch.rand(2, 1, 4, 4).round()

    def step(x):
        q = posterior(encoder(x))
        z, log_q = rsample_and_log_prob(q)
        log_px = likelihood(decoder(z)).log_prob(x)
        return (log_q - prior().log_prob(z) - log_px).mean() + rsample_and_log_prob(q, (2,), score=False)[1].mean()

    losses, parameters = [], [*encoder.parameters(), *decoder.parameters()]
    for run in (step, torch.compile(step, fullgraph=True, backend="eager")):
        torch.manual_seed(1)
        loss = run(x)
        losses.append([loss, *torch.autograd.grad(loss, parameters)])
    torch.testing.assert_close(*losses)


def test_a_spline_is_nowhere_flatter_than_a_thousandth():
    """Its parameters may be anything: with derivatives as small as they can be, that at the knot in the middle."""
    posterior = FlowPosterior(1, transforms=1, hidden=4, context=2, bins=8).double()
    bias = posterior.transforms[0].hyper[-1].bias
    with torch.no_grad():
        posterior.transforms[0].hyper[-1].weight.zero_()
        bias.copy_(torch.tensor([0.0] * 16 + [-1e9] * 7))  # widths and heights alike, then the derivatives
    q, zero = posterior(torch.zeros(1, 4, dtype=torch.float64)), torch.zeros(1, 1, dtype=torch.float64)
    expected = -0.5 * math.log(2 * math.pi) - math.log(1e-3)
    assert q.log_prob(zero).item() == pytest.approx(expected, rel=1e-4)
