"""Latents on a sphere: densities by quadrature, draws by their moments, and ways that stay on it."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import config
from tiny import trained
from torch import nn
from torch.distributions import kl_divergence

import cvae
from cvae.build import build_vae
from cvae.distributions import PowerSpherical, UniformSphere
from cvae.errors import ConfigError
from cvae.models.latent_paths import along_sphere, posterior_mean
from cvae.posteriors import PowerSphericalPosterior

F64 = torch.float64
WORDS = ["posterior=power_spherical", "prior=uniform_sphere"]


def q_of(dims, *concentrations):
    loc = F.normalize(torch.randn(len(concentrations), dims, dtype=F64), dim=-1)
    return PowerSpherical(loc, torch.tensor(concentrations, dtype=F64))


def uniform(dims):
    return UniformSphere(torch.zeros(dims, dtype=F64))


def points(steps=400):
    """Of the sphere in three numbers: (points, area of each)."""
    height = (torch.arange(steps, dtype=F64) + 0.5) / steps * 2 - 1
    angle = torch.arange(2 * steps, dtype=F64) / (2 * steps) * 2 * math.pi
    z, a = torch.meshgrid(height, angle, indexing="ij")
    across = (1 - z**2).sqrt()
    return torch.stack([across * a.cos(), across * a.sin(), z], -1).flatten(0, 1), 4 * math.pi / z.numel()


def test_features_are_a_direction_and_a_concentration():
    features = torch.tensor([[3.0, 0, 4, -2], [0, -5, 0, 7]])
    q = PowerSphericalPosterior(3)(features)
    torch.testing.assert_close(q.loc, torch.tensor([[0.6, 0, 0.8], [0, -1, 0]]))
    torch.testing.assert_close(q.concentration, (1 + torch.tensor([-2.0, 7.0]).exp()).log())
    assert PowerSphericalPosterior(2)(features[:, :3]).loc.shape == (2, 2)  # a circle


@pytest.mark.parametrize("concentration", [0.0, 0.3, 5.0, 60.0])
def test_densities_on_the_sphere_integrate_to_one(concentration):
    q, (z, area) = q_of(3, concentration), points()
    density = q.log_prob(z).exp()
    assert (density.sum() * area).item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close((density[:, None] * z).sum(0) * area, q.mean[0], atol=1e-4, rtol=0)
    assert (uniform(3).log_prob(z).exp().sum() * area).item() == pytest.approx(1, abs=1e-9)
    by_integral = (density * (q.log_prob(z) - uniform(3).log_prob(z))).sum() * area
    assert kl_divergence(q, uniform(3)).item() == pytest.approx(by_integral.item(), abs=1e-4)


def test_densities_on_the_circle_integrate_to_one():
    angle = (torch.arange(4000, dtype=F64) + 0.5) / 4000 * 2 * math.pi
    z, q = torch.stack([angle.cos(), angle.sin()], -1), q_of(2, 3.0)
    assert (q.log_prob(z).exp().mean() * 2 * math.pi).item() == pytest.approx(1, abs=1e-6)
    assert uniform(2).log_area == pytest.approx(math.log(2 * math.pi))


@pytest.mark.parametrize("dims", [2, 3, 8])
def test_draws_have_the_moments_of_the_density(dims):
    torch.manual_seed(0)
    q = q_of(dims, 0.5, 4.0, 30.0)
    z = q.rsample((40000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones_like(z[..., 0]), atol=1e-9, rtol=0)
    error = z.std(0) / 200
    assert ((z.mean(0) - q.mean).abs() < 4.5 * error + 1e-12).all()
    along = (z * q.loc).sum(-1)  # 2 beta - 1: its variance is that of the beta variable, times four
    n = q.alpha + q.beta
    torch.testing.assert_close(along.var(0), 4 * q.alpha * q.beta / (n**2 * (n + 1)), rtol=0.05, atol=0)
    sampled = q.log_prob(z) - uniform(dims).log_prob(z)
    closed = kl_divergence(q, uniform(dims))
    assert ((sampled.mean(0) - closed).abs() < 4.5 * sampled.std(0) / 200).all() and (closed > 0).all()
    assert uniform(dims).sample((40000,)).mean(0).abs().max() < 4.5 / 200


def test_draws_are_reparameterized():
    """The gradient of E[z . a] by the draws is that of the mean, which is known."""
    torch.manual_seed(0)
    features = torch.randn(1, 5, dtype=F64).requires_grad_()
    posterior, a = PowerSphericalPosterior(4), torch.randn(4, dtype=F64)
    (exact,) = torch.autograd.grad((posterior(features).mean @ a).sum(), features)
    many = features.detach().expand(20000, -1).clone().requires_grad_()
    (each,) = torch.autograd.grad((posterior(many).rsample() @ a).sum(), many)
    error = each.std(0) / 20000**0.5
    assert ((each.mean(0) - exact[0]).abs() < 4.5 * error).all() and (exact.abs() > 3 * error).any()


def test_at_the_first_axis_and_at_the_antipode_all_is_finite():
    loc = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    q = PowerSpherical(loc, torch.tensor([200.0]))
    z = q.rsample((1000,))
    assert z.mean(0)[0, 0] > 0.98 and q.log_prob(-loc).isfinite().all()
    z.sum().backward()
    assert loc.grad.isfinite().all()


def test_ways_stay_on_the_sphere():
    z = F.normalize(torch.randn(4, 3, dtype=F64), dim=-1)
    moved = along_sphere(z, [2, 0], torch.tensor([[-2.0, 0.0, 0.5], [0.1, 0.2, 1.0]]))
    assert moved.shape == (2, 3, 4, 3)
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(2, 3, 4, dtype=F64))
    torch.testing.assert_close(moved[0, 2, :, 2], torch.full((4,), 0.5, dtype=F64))
    torch.testing.assert_close(F.normalize(moved[0, 2, :, :2], dim=-1), F.normalize(z[:, :2], dim=-1))
    vae = build_vae(config("data=synthetic", "data.image_shape=[1,8,8]", "model=mlp", "model.latent_dim=3", *WORDS))
    x, seen = torch.rand(2, 1, 8, 8), []
    vae.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    vae.interpolate(x[:1], x[1:], steps=5), vae.traverse(x), vae.sample(4), vae.reconstruct(x)
    for rows in seen[1:]:  # the first asks for shapes
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))
    assert torch.equal(posterior_mean(vae.encode(x)), vae.encode(x).loc)
    with pytest.raises(ConfigError, match="^temperature=0.5: must be 1 with prior=uniform_sphere"):
        vae.sample(2, temperature=0.5)
    with pytest.raises(ConfigError, match="latent_dim=1: must be at least 2 for a sphere"):
        PowerSphericalPosterior(1)


def test_a_run_and_the_commands_after_it(tmp_path, call):
    run = tmp_path / "run"
    trained(run, *WORDS, "model.latent_dim=3", "evaluation.samples=3")
    assert (run / "latent_manifold.png").is_file() and isinstance(cvae.load(run).posterior, nn.Module)
    for words in (["sample", run], ["interpolate", run, 0, 1], ["traverse", run], ["encode", run, "--split", "test"]):
        code, printed = call(*words)
        assert code == 0, printed
    for words, said in (
        (["explore", run, "--html", tmp_path / "x.html"], "this model's latents lie on a sphere"),
        (["fit-prior", run, "prior=gmm"], "must be left out: latents on a sphere keep prior=uniform_sphere"),
    ):
        code, printed = call(*words)
        assert code and said in printed
