"""Every prior is a density that it samples from; a new one needs a line in PRIORS."""

import copy
import inspect
import io
import math
from functools import partial

import pytest
import torch
from code_vaes import OF_CODES
from conftest import ROOT
from densities import assert_moments, integrals, shaken
from omegaconf import OmegaConf
from torch import nn
from torch.distributions import Normal

from cvae import priors
from cvae.distributions import Mixture, rsample_and_log_prob
from cvae.errors import ConfigError
from cvae.likelihoods import Bernoulli
from cvae.models.vae import VAE
from cvae.posteriors import IAF, DiagonalGaussian, FullGaussian
from cvae.priors import FlowPrior, MixtureOfGaussians, Prior, StandardNormal, VampPrior

SMALL_IAF = partial(IAF, transforms=2, hidden=8, context=3)
VAMP = partial(VampPrior, components=3, pseudo_mean=0.5, pseudo_std=0.3)
PRIORS = {  # what the test is called: the prior and, where it matters, the posterior
    "standard_normal": (StandardNormal, DiagonalGaussian),
    "mixture": (partial(MixtureOfGaussians, components=3), DiagonalGaussian),
    "vamp": (VAMP, DiagonalGaussian),
    "vamp of full_gaussian": (VAMP, FullGaussian),
    "vamp of iaf": (VAMP, SMALL_IAF),
    "flow": (partial(FlowPrior, transforms=2, hidden=8, bins=4), DiagonalGaussian),
}


@pytest.fixture(params=PRIORS)
def make(request):
    """latent_dim -> a VAE of 2 x 2 images with this prior."""
    return lambda dims: vae_of(*PRIORS[request.param], dims)


def vae_of(prior, posterior, dims):
    posterior, likelihood, image_shape = posterior(dims), Bernoulli((1, 2, 2)), (1, 2, 2)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, posterior.num_features))
    decoder = nn.Sequential(nn.Linear(dims, 4), nn.Unflatten(1, image_shape))
    return VAE(encoder, posterior, prior(dims, image_shape), decoder, likelihood)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_shapes(make, dims):
    p = make(dims).p_z()
    assert (p.batch_shape, p.event_shape) == ((), (dims,))
    for shape in ((), (6,), (4, 6)):
        z = p.sample(shape)
        assert z.shape == (*shape, dims) and not z.requires_grad
        assert p.log_prob(z).shape == shape


@pytest.mark.parametrize("dims", [1, 2])
def test_density_integrates_to_one_and_is_sampled_from(make, dims):
    p = shaken(make(dims)).p_z()
    total, mean, covariance = integrals(p.log_prob, dims)
    assert total.item() == pytest.approx(1, abs=1e-3)
    assert_moments(p.sample((40_000,)), mean, covariance)


def test_log_prob_does_not_depend_on_the_shape_of_z(make):
    p, z = shaken(make(3)).p_z(), torch.randn(4, 5, 3, dtype=torch.float64)
    alone = torch.stack([p.log_prob(row) for row in z.flatten(0, 1)])
    torch.testing.assert_close(p.log_prob(z), alone.view(4, 5))


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_gradients(make, dims):
    vae = shaken(make(dims))
    z = torch.randn(4, 5, dims, dtype=torch.float64, requires_grad=True)
    vae.p_z().log_prob(z).sum().backward()
    trained = [z, *vae.prior.parameters()]
    if isinstance(vae.prior, VampPrior):
        trained += [*vae.encoder.parameters(), *vae.posterior.parameters()]
    for parameter in trained:
        assert parameter.grad.isfinite().all() and parameter.grad.any()


def test_reload_is_identical(make):
    trained, file = shaken(make(3)), io.BytesIO()
    torch.save(trained.state_dict(), file)
    fresh = make(3).double()
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    z = torch.randn(4, 3, dtype=torch.float64)
    for other in (fresh, copy.deepcopy(trained)):
        assert torch.equal(other.p_z().log_prob(z), trained.p_z().log_prob(z))


@pytest.mark.parametrize("far", [100.0, 1e6])
def test_far_away_stays_finite(make, far):
    """In float32, with the gradients."""
    vae = make(4)
    z = torch.stack([torch.full((4,), far), torch.full((4,), -far), torch.tensor([far, 0, -far, 1])]).requires_grad_()
    log_p = vae.p_z().log_prob(z)
    log_p.sum().backward()
    assert log_p.isfinite().all() and z.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in vae.prior.parameters())


def test_no_value_is_checked(make):
    """A check would wait for the device at every step; the training module sees that the loss is not finite."""
    vae = make(3)
    assert vae.p_z().log_prob(torch.full((2, 3), math.nan)).isnan().all()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.fill_(math.nan)
    if not isinstance(vae.prior, StandardNormal):
        assert vae.p_z().log_prob(torch.zeros(2, 3)).isnan().all()


def test_mixture_equals_a_sum_over_components():
    prior = shaken(MixtureOfGaussians(2, components=3))
    z, weights = torch.randn(5, 2, dtype=torch.float64), prior.logits.softmax(0)
    density = sum(
        w * Normal(mean, variance.sqrt()).log_prob(z).exp().prod(-1)
        for w, mean, variance in zip(weights, prior.mean, prior.logvar.exp(), strict=True)
    )
    torch.testing.assert_close(prior().log_prob(z), density.log())


def test_mixture_starts_near_the_standard_normal():
    p = MixtureOfGaussians(3, components=2000)()
    torch.testing.assert_close(p.mean, torch.zeros(3), rtol=0, atol=0.1)
    torch.testing.assert_close(p.variance, torch.ones(3), rtol=0, atol=0.1)


def test_mixture_starts_with_equal_weights_and_halved_variances():
    prior = MixtureOfGaussians(3, components=4000)
    assert not prior.logits.any()
    torch.testing.assert_close(prior.logvar.exp(), torch.full((4000, 3), 0.5))
    assert prior.mean.std().item() == pytest.approx(0.5**0.5, rel=0.05)


def test_what_is_learned_and_what_is_saved(make):
    """The standard normal learns and saves nothing, a mixture its weights too, a VampPrior its pseudo-inputs alone."""
    learned = {
        StandardNormal: set(),
        MixtureOfGaussians: {"logits", "mean", "logvar"},
        VampPrior: {"pseudo_inputs"},
    }
    prior = make(2).prior
    names = {name for name, parameter in prior.named_parameters() if parameter.requires_grad}
    assert names == learned.get(type(prior), names) and prior.state_dict().keys() >= names
    if type(prior) in learned:
        assert prior.state_dict().keys() == names
    assert all(buffer.shape for buffer in prior.buffers())


def test_standard_normal_follows_the_model_to_its_dtype():
    p = StandardNormal(2).double()()
    assert p.log_prob(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64
    torch.testing.assert_close(p.log_prob(torch.tensor([1.0, -2.0]).double()).item(), -math.log(2 * math.pi) - 2.5)


@pytest.mark.parametrize("pixel", [0, 1])
def test_vamp_may_start_black_or_white(pixel):
    prior = VampPrior(2, (1, 2, 2), components=3, pseudo_mean=pixel, pseudo_std=1e-9)
    torch.testing.assert_close(prior.pseudo_inputs.detach(), torch.full((3, 1, 2, 2), float(pixel)))


def test_vamp_has_equal_weights():
    p = vae_of(VAMP, DiagonalGaussian, 2).p_z()
    torch.testing.assert_close(p.mixture_distribution.probs, torch.full((3,), 1 / 3))


def test_vamp_reads_pseudo_inputs_in_float32_under_autocast():
    """So does the density: only the products of matrices of the encoder are done in bfloat16."""
    vae, read = vae_of(VAMP, DiagonalGaussian, 2), []
    vae.encoder.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        log_p = vae.p_z().log_prob(torch.randn(4, 2))
    assert read == [torch.float32] and log_p.dtype == torch.float32


def test_vamp_equals_a_mixture_by_hand():
    """(1/K) sum_k N(z; W u_k + b), term by term, with u_k clamped to [0, 1]."""
    vae = shaken(vae_of(VAMP, DiagonalGaussian, 2), 1.0)
    pseudo_inputs, linear = vae.prior.pseudo_inputs, vae.encoder[1]
    assert (pseudo_inputs < 0).any() and (pseudo_inputs > 1).any()
    for z in torch.randn(4, 2, dtype=torch.float64):
        density = 0.0
        for u in pseudo_inputs.detach():
            features = (linear.weight @ u.flatten().clamp(0, 1) + linear.bias).tolist()
            log_q = 0.0
            for mean, logvar, value in zip(features[:2], features[2:], z.tolist(), strict=True):
                log_q -= 0.5 * (math.log(2 * math.pi) + logvar + (value - mean) ** 2 / math.exp(logvar))
            density += math.exp(log_q) / 3
        assert vae.p_z().log_prob(z).item() == pytest.approx(math.log(density), rel=1e-10)


@pytest.mark.parametrize("posterior", [DiagonalGaussian, FullGaussian, SMALL_IAF])
def test_vamp_of_one_image_is_its_posterior(posterior):
    """With one pseudo-input, or with equal ones, p(z) = q(z|u)."""
    vae = shaken(vae_of(VAMP, posterior, 2))
    with torch.no_grad():
        vae.prior.pseudo_inputs.copy_(torch.rand(1, 1, 2, 2).expand(3, -1, -1, -1))
    z = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(vae.p_z().log_prob(z), vae.encode(vae.prior.pseudo_inputs[:1]).log_prob(z))


def test_vamp_shares_the_models_encoder():
    """Also in a copy, which goes its own way; and the checkpoint holds each weight once."""
    vae = shaken(vae_of(VAMP, SMALL_IAF, 2))
    twin, z = copy.deepcopy(vae), torch.randn(4, 2, dtype=torch.float64)
    before = vae.p_z().log_prob(z)
    with torch.no_grad():
        for parameter in (*twin.encoder.parameters(), *twin.posterior.parameters()):
            parameter.zero_()
    assert torch.equal(vae.p_z().log_prob(z), before)
    torch.testing.assert_close(twin.p_z().log_prob(z), Normal(0, 1).log_prob(z).sum(-1).double())
    assert [key for key in vae.state_dict() if key.startswith("prior.")] == ["prior.pseudo_inputs"]
    assert sum(value.numel() for value in vae.parameters()) == sum(
        value.numel() for key, value in vae.state_dict().items() if not key.endswith(("mask", "order"))
    )


def test_vamp_starts_with_the_pixels_it_is_told():
    prior = VampPrior(2, (3, 8, 8), components=50, pseudo_mean=0.4, pseudo_std=0.05)
    assert prior.pseudo_inputs.shape == (50, 3, 8, 8)
    assert prior.pseudo_inputs.mean().item() == pytest.approx(0.4, abs=0.005)
    assert prior.pseudo_inputs.std().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("name", [name for name in PRIORS if name.startswith(("mixture", "vamp"))])
def test_chunks_change_nothing(name, monkeypatch):
    """Neither the values nor the gradients, from one chunk for all z to one for each."""
    vae = shaken(vae_of(*PRIORS[name], 2))
    z = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    results = []
    for floats in (Mixture.floats, 1):
        monkeypatch.setattr(Mixture, "floats", floats)
        p = vae.p_z()
        assert p._chunk() == 1 if floats == 1 else p._chunk() >= 20
        log_p = p.log_prob(z)
        results.append([log_p, *torch.autograd.grad(log_p.square().sum(), [z, *vae.prior.parameters()])])
        assert p.sample((2, 3)).shape == (2, 3, 2)
    torch.testing.assert_close(*results)


def test_draws_in_chunks_have_the_moments_of_the_density(monkeypatch):
    p = shaken(MixtureOfGaussians(2, components=3))()
    monkeypatch.setattr(Mixture, "floats", 6 * 999)  # 999 draws a chunk, the last is smaller
    chunks, whole = [], Mixture._sample
    monkeypatch.setattr(Mixture, "_sample", lambda p, num: chunks.append(num) or whole(p, num))
    assert p.sample((2, 1000)).shape == (2, 1000, 2) and chunks == [999, 999, 2]
    assert_moments(p.sample((20_000,)).detach(), p.mean.detach(), integrals(p.log_prob, 2)[2])


@pytest.mark.parametrize("dims", [1, 4])
def test_flow_by_change_of_variables(dims):
    """log p(z) = log N(f(z); 0, I) + log |det df/dz|, the Jacobian by automatic differentiation; f is invertible."""
    p = shaken(FlowPrior(dims, hidden=8))()
    for z in (*torch.randn(5, dims, dtype=torch.float64), torch.full((dims,), 6.0, dtype=torch.float64)):
        jacobian = torch.autograd.functional.jacobian(p.transform, z)
        expected = Normal(0, 1).log_prob(p.transform(z)).sum() + torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(p.log_prob(z), expected)
        torch.testing.assert_close(p.transform.inv(p.transform(z)), z)


@pytest.mark.parametrize("dims", [2, 4])
def test_flow_prior_scores_its_draws_by_the_density_that_they_have_under_autocast(dims):
    """Far from its start, where a spline between knots in bfloat16 is off by a tenth of a nat on average."""
    prior = shaken(FlowPrior(dims, hidden=32), 0.3).float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        z, log_p = rsample_and_log_prob(prior(), (500,))
        again = prior().log_prob(z)
    assert (log_p - again).abs().mean() < 1e-3 and log_p.dtype == again.dtype == torch.float32


def test_flow_prior_reverses_the_order_from_one_transform_to_the_next():
    """In the first transform dimension i depends on those up to i, in the second on those from i on, and so on."""
    prior, z = shaken(FlowPrior(4, hidden=16), 1.0), torch.randn(4, dtype=torch.float64)
    assert len(prior.flow.transform.transforms) == 3
    for i, transform in enumerate(prior.flow.transform.transforms):
        jacobian = torch.autograd.functional.jacobian(transform(), z)
        depends = torch.ones(4, 4).tril() if i % 2 == 0 else torch.ones(4, 4).triu()
        assert torch.equal(jacobian != 0, depends.bool())


def test_flow_prior_has_the_sizes_it_is_told():
    """Two hidden layers; for `bins` pieces 3 bins - 1 numbers in each dimension; plain parameters in one dimension."""
    for transform in FlowPrior(3, transforms=2, hidden=7, bins=5).flow.transform.transforms:
        assert [layer.out_features for layer in list(transform.hyper)[::2]] == [7, 7, 3 * 14]
    for transform in FlowPrior(1, bins=5).flow.transform.transforms:
        assert [parameter.shape[-1] for parameter in transform.phi] == [5, 5, 4]


def test_flow_prior_starts_at_a_hundredth_of_its_last_layer():
    for dims in (1, 3):
        for transform in FlowPrior(dims).flow.transform.transforms:
            if dims == 1:
                assert all(0 < parameter.abs().max() < 0.05 for parameter in transform.phi)
            else:
                assert not transform.hyper[-1].bias.any()
                assert 0 < transform.hyper[-1].weight.abs().max() <= 0.01 / 128**0.5


def test_flow_starts_near_the_standard_normal():
    for dims in (1, 2, 16):
        z = torch.randn(100, dims)
        difference = FlowPrior(dims)().log_prob(z) - StandardNormal(dims)().log_prob(z)
        assert 0 < difference.abs().max() < 0.5


def test_flow_draws_in_float32_are_finite():
    """Through the inverse of the splines, whose discriminant must not fall below 0 by rounding; with gradients."""
    prior = FlowPrior(4, hidden=16)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    z = prior().rsample((5_000,))
    assert z.isfinite().all()
    for gradient in torch.autograd.grad(z.square().sum(), list(prior.parameters())):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "cls, key, value",
    [(cls, key, value) for cls, key in (
        (MixtureOfGaussians, "components"), (VampPrior, "components"), (FlowPrior, "transforms"), (FlowPrior, "hidden"),
        (FlowPrior, "bins"),
    ) for value in (0, -1, 1.5, "two", True)]
    + [(FlowPrior, "bins", 1)]
    + [(VampPrior, "pseudo_mean", value) for value in (-0.1, 1.1, "grey", math.nan)]
    + [(VampPrior, "pseudo_std", value) for value in (0, -1, math.inf, "some")],
)  # fmt: skip
def test_impossible_options_are_refused(cls, key, value):
    with pytest.raises(ConfigError, match=rf"^{key}={value}: must be"):
        cls(2, (1, 2, 2), **{key: value})


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "prior").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_option_stands_in_its_file(file):
    options = OmegaConf.to_container(OmegaConf.load(file))
    cls = getattr(priors, options.pop("_target_").removeprefix("cvae.priors."))
    given = ("latent_dim", "image_shape", "num_codes")
    assert options == {
        key: parameter.default for key, parameter in inspect.signature(cls).parameters.items() if key not in given
    }
    assert file.stem in (*PRIORS, *OF_CODES, "none", "uniform_sphere", "wrapped_normal"), "a line is missing"


def test_a_prior_without_forward_cannot_be_made(make):
    assert isinstance(make(2).prior, Prior)
    with pytest.raises(TypeError, match="forward"):
        type("Unfinished", (Prior,), {})()
