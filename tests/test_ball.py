"""Latents in hyperbolic space: densities by quadrature over the Poincaré disc, draws by these, geodesics, a run."""

import math

import mpmath
import pytest
import torch
from conftest import config
from tiny import trained

import cvae
from cvae.build import build_vae
from cvae.distributions import ExpMap, geodesic, rsample_and_log_prob, to_ball
from cvae.distributions.ball import arsinhc, from_ball, hyperbolic, log_sinhc
from cvae.errors import ConfigError
from cvae.pictures import disc_map
from cvae.posteriors import DiagonalGaussian, WrappedNormal
from cvae.priors import StandardNormal, WrappedNormalPrior

F64 = torch.float64
WORDS = ["posterior=wrapped_normal", "prior=wrapped_normal"]


def distance(a, b, curvature=1.0):
    """In the Poincaré ball, between its points (Mathieu et al. 2019, eq. 1)."""
    squares = [(x * x).sum(-1) * curvature for x in (a - b, a, b)]
    return (1 + 2 * squares[0] / ((1 - squares[1]) * (1 - squares[2]))).acosh() / curvature**0.5


def added(a, b, curvature=1.0):
    """Möbius addition of points of the ball (Mathieu et al. 2019, section 2.2)."""
    ab, aa, bb = (curvature * (x * y).sum(-1, keepdim=True) for x, y in ((a, b), (a, a), (b, b)))
    return ((1 + 2 * ab + bb) * a + (1 - aa) * b) / (1 + 2 * ab + aa * bb)


def exp_map(mu, v, curvature=1.0):
    """exp_mu(v / lambda_mu) in the ball, by the paper's formula."""
    root = curvature**0.5
    length = v.norm(dim=-1, keepdim=True)
    return added(mu, (root * length / 2).tanh() * v / (root * length), curvature)


def by_the_ball(q, points, curvature, dims=2):
    """q's log-density with respect to the ball's own volume."""
    u = from_ball(points, curvature)
    return q.log_prob(u) - (dims - 1) * log_sinhc(curvature * u.square().sum(-1))


@pytest.mark.parametrize("curvature", [0.25, 1.0, 3.0])
def test_the_exponential_map_is_the_papers(curvature):
    m, v = 0.8 * torch.randn(50, 3, dtype=F64), torch.randn(50, 3, dtype=F64)
    u = ExpMap(m, curvature)(v)
    torch.testing.assert_close(to_ball(u, curvature), exp_map(to_ball(m, curvature), v, curvature))
    torch.testing.assert_close(distance(to_ball(m, curvature), to_ball(u, curvature), curvature), v.norm(dim=-1))
    torch.testing.assert_close(distance(torch.zeros_like(u), to_ball(u, curvature), curvature), u.norm(dim=-1))
    torch.testing.assert_close(ExpMap(m, curvature).inv(u), v)
    torch.testing.assert_close(from_ball(to_ball(u, curvature), curvature), u)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda m, v: ExpMap(m, curvature)(v), argnums=1))(m, v)
    torch.testing.assert_close(ExpMap(m, curvature).log_abs_det_jacobian(v, u), jacobian.det().log())


@pytest.mark.parametrize("curvature", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("m", [(0.0, 0.0), (0.9, -0.4)])
def test_densities_integrate_to_one_over_the_disc(curvature, m):
    """By the disc's own area, lambda^2 dz with lambda = 2 / (1 - c |z|^2)."""
    features = torch.tensor([[*m, -1.0, -0.4]], dtype=F64)
    q = WrappedNormal(2, curvature)(features)
    r, a = torch.arange(3000, dtype=F64) + 0.5, torch.arange(300, dtype=F64)
    r, a = torch.meshgrid(r / 3000, a / 300, indexing="ij")
    r, a = r.flatten() / curvature**0.5, a.flatten() * 2 * math.pi
    z = torch.stack([r * a.cos(), r * a.sin()], -1)
    area = r * (2 * math.pi / 300) / (3000 * curvature**0.5) * (2 / (1 - curvature * r**2)) ** 2
    mass = by_the_ball(q, z, curvature).exp() * area
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    prior = WrappedNormalPrior(2).double()()
    assert (by_the_ball(prior, z, curvature).exp() * area).sum().item() == pytest.approx(1, abs=1e-4)
    if m == (0.0, 0.0):  # around the origin it is a normal distribution of z
        plain, u = DiagonalGaussian(2)(features), from_ball(z[::7], curvature)
        torch.testing.assert_close(q.log_prob(u), plain.log_prob(u))
    kl = (mass * (by_the_ball(q, z, curvature) - by_the_ball(prior, z, curvature))).sum()
    drawn, log_q = rsample_and_log_prob(q, (40000,))
    estimates = log_q - prior.log_prob(drawn)
    assert (estimates.mean() - kl).abs() < 4.5 * estimates.std() / 200
    drawn, origin = to_ball(drawn[:, 0], curvature), torch.zeros(2, dtype=F64)
    for moment in (
        lambda z: z,
        lambda z: z.square(),
        lambda z: distance(z, origin, curvature)[:, None],
        lambda z: distance(z, to_ball(features[0, :2], curvature), curvature)[:, None],
    ):
        found, expected = moment(drawn), (mass[:, None] * moment(z)).sum(0)
        assert ((found.mean(0) - expected).abs() < 4.5 * found.std(0) / 200).all()


def test_quotients_near_zero_and_far_out():
    x = torch.tensor([1e-4, 3e-3, 9.9e-3, 1.01e-2, 0.3, 5.0, 40.0], dtype=F64, requires_grad=True)
    exact, ours = (x.sinh() / x).log(), log_sinhc(x.square())
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-15)
    slopes = [torch.autograd.grad(value.sum(), x)[0] for value in (ours, exact)]
    torch.testing.assert_close(slopes[0][1:], slopes[1][1:], rtol=1e-6, atol=1e-12)
    a, sinhc, cosh, versed = hyperbolic(x.square())
    for found, value in ((sinhc, x.sinh() / x), (cosh, x.cosh()), (versed, 2 * (x / 2).sinh().square() / x.square())):
        torch.testing.assert_close(a.exp() * found, value, rtol=1e-10, atol=0)
    torch.testing.assert_close(arsinhc(x.square(), torch.full_like(x, 2.0)), (x * math.exp(2)).asinh() / x)
    assert log_sinhc(torch.tensor([0.0, 1e12], dtype=F64)).isfinite().all()


def boosted_by_mpmath(u, m, curvature):
    """u as seen from m, by the boost of the hyperboloid with 400 digits."""
    with mpmath.workdps(400):
        root = mpmath.sqrt(curvature)
        u, m = (root * mpmath.matrix(x.tolist()) for x in (u, m))
        far, away = mpmath.norm(u), mpmath.norm(m)
        space = u * (mpmath.sinh(far) / far)
        inner = sum(m[i] * space[i] for i in range(len(m)))
        place = space + m * ((mpmath.cosh(away) - 1) / away**2 * inner - mpmath.sinh(away) / away * mpmath.cosh(far))
        length = mpmath.norm(place)
        return torch.tensor([float(x) for x in place * (mpmath.asinh(length) / length / root)], dtype=F64)


@pytest.mark.parametrize("curvature", [0.25, 1.0])
@pytest.mark.parametrize("radius", [0.01, 0.5, 1.0, 3.0, 12.0, 20.0, 60.0, 250.0])
def test_far_out_it_is_as_good_as_the_coordinates(radius, curvature):
    """Against 400 digits: the map itself, its inverse near a point, and anywhere as far as a rounded u tells."""
    torch.manual_seed(0)
    m, v = torch.randn(2, 6, 3, dtype=F64)
    m = m * radius / curvature**0.5 / m.norm(dim=-1, keepdim=True)
    v[3:] *= 0.01
    exp = ExpMap(m, curvature)
    u = exp(v)
    for i in range(6):
        torch.testing.assert_close(u[i], boosted_by_mpmath(v[i], -m[i], curvature), rtol=1e-13, atol=1e-14 * radius)
        if radius <= 20:
            exact = boosted_by_mpmath(u[i], m[i], curvature)
            assert (exp.inv(u)[i] - exact).norm() < 3e-15 * math.exp(radius) * (1 + exact.norm())
    near = m + v * 2.0**-20 * math.exp(-min(radius, 12))
    for i in range(6):
        exact = boosted_by_mpmath(near[i], m[i], curvature)
        assert (exp.inv(near)[i] - exact).norm() < (3e-15 if radius < 3 else 1e-13 * exact.norm())


@pytest.mark.parametrize("radius", [0.0, 1.0, 8.0, 15.0])
def test_far_out_derivatives_are_right(radius):
    """Both sides of the origin: the volume's growth, the inverse's derivative and, by differences, that of the mean."""
    torch.manual_seed(0)
    m, v = torch.randn(2, 20, 3, dtype=F64)
    m = m * radius / m.norm(dim=-1, keepdim=True)
    u = ExpMap(m, 1.0)(v)

    def slopes(of, by):
        return torch.func.vmap(torch.func.jacrev(of, argnums=by))

    there = slopes(lambda m, v: ExpMap(m, 1.0)(v), 1)(m, v)
    back = slopes(lambda m, u: ExpMap(m, 1.0).inv(u), 1)(m, u)
    torch.testing.assert_close(back @ there, torch.eye(3, dtype=F64).expand(20, 3, 3), atol=1e-8, rtol=0)
    grown = ExpMap(m, 1.0).log_abs_det_jacobian(v, u)
    torch.testing.assert_close(grown, there.det().log(), atol=1e-8, rtol=0)
    step = torch.tensor([1e-6, 0, 0], dtype=F64)
    change = (ExpMap(m + step, 1.0)(v) - ExpMap(m - step, 1.0)(v)) / 2e-6
    torch.testing.assert_close(slopes(lambda m, v: ExpMap(m, 1.0)(v), 0)(m, v)[..., 0], change, atol=1e-7, rtol=1e-6)


def test_at_the_mean_itself():
    """Of distance 0, and with a finite derivative, however far out."""
    for radius in (0.0, 1e-9, 1.0, 20.0, 400.0, 1e6):
        m = torch.tensor([[radius, 0.0, 0.0]], dtype=F64, requires_grad=True)
        u = m.detach().requires_grad_()
        found = (ExpMap(m, 1.0).inv(u), ExpMap(m, 1.0)(torch.zeros_like(m)), ExpMap(m, 1.0).inv(torch.zeros_like(m)))
        for value, expected in zip(found, (0, m, -m), strict=True):
            assert torch.equal(value, torch.zeros_like(m) + expected)
            assert torch.autograd.grad(value.sum(), m, retain_graph=True)[0].isfinite().all()
        (slope,) = torch.autograd.grad(found[0][0, 0], u, retain_graph=True)
        assert slope[0, 0].item() == pytest.approx(1) if radius < 30 else slope.isfinite().all()


def test_little_curvature_is_none():
    features, z = torch.randn(4, 6, dtype=F64), torch.randn(5, 4, 3, dtype=F64)
    flat, curved = DiagonalGaussian(3)(features), WrappedNormal(3, 1e-9)(features)
    torch.testing.assert_close(curved.log_prob(z), flat.log_prob(z), atol=1e-6, rtol=1e-6)


def test_at_the_origin_and_far_out_all_is_finite_and_right():
    """In float32, at distances at which points of the ball have no digits left."""
    for m in (0.0, 1e-6, 8.0, 40.0):
        features = torch.tensor([[m, 0.0, -1.0, -2.0]], requires_grad=True)
        q = WrappedNormal(2)(features)
        z, log_q = rsample_and_log_prob(q, (64,))
        (gradient,) = torch.autograd.grad((log_q - StandardNormal(2)().log_prob(z)).sum(), features)
        assert gradient.isfinite().all() and z.isfinite().all()
        if m < 10:
            torch.testing.assert_close(q.transform.inv(q.transform(z.double())).float(), z, rtol=1e-5, atol=1e-6)
            assert (q.log_prob(z) - log_q).abs().max() < (1e-3 if m < 1 else 0.3)  # z has float32's digits
    features = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(WrappedNormal(2)(features).log_prob(torch.zeros(1, 2)).sum(), features)
    assert gradient.isfinite().all()


def test_ways_are_geodesics():
    a, b = torch.randn(2, 6, 3, dtype=F64)
    way = to_ball(geodesic(a, b, 9, 0.7), 0.7)
    assert way.shape == (9, 6, 3)
    torch.testing.assert_close(way[[0, -1]], to_ball(torch.stack([a, b]), 0.7))
    whole = distance(way[0], way[-1], 0.7)
    steps = distance(way[1:], way[:-1], 0.7)
    torch.testing.assert_close(steps, (whole / 8).expand(8, -1))  # even, and no longer than the whole
    vae = build_vae(config("data=synthetic", "data.image_shape=[1,8,8]", "model=mlp", "model.latent_dim=3", *WORDS))
    x, seen = torch.rand(2, 1, 8, 8), []
    vae.interpolate(x[:1], x[1:], steps=1)
    vae.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    vae.interpolate(x[:1], x[1:], steps=5)
    ends = vae.encode(x).mean
    torch.testing.assert_close(seen[-1], geodesic(ends[0], ends[1], 5, 1.0))
    with pytest.raises(ConfigError, match="^steps=0"):
        vae.interpolate(x[:1], x[1:], steps=0)
    with pytest.raises(ConfigError, match="^curvature=0: must be a finite number above 0"):
        WrappedNormal(2, 0)


def test_the_disc_shows_what_lies_there():
    words = ["data=synthetic", "data.image_shape=[1,8,8]", "model=mlp", "model.latent_dim=2", *WORDS]
    vae = build_vae(config(*words, "posterior.curvature=0.5"))
    images, axes = disc_map(vae, 6)
    assert images.shape == (36, 1, 8, 8) and axes.shape == (6, 2)
    assert all((images[corner] == 1).all() for corner in (0, 5, 30, 35))
    far = (-2 * math.log(0.05)) ** 0.5  # holds 95 % of N(0, I)
    reach = to_ball(torch.tensor([far]), 0.5).item()
    assert axes[-1, 0].item() * 6 / 5 == pytest.approx(reach, rel=0.02)
    point = torch.stack([axes[4, 0], axes[3, 1]])[None]  # the third row from the top, the fifth column
    torch.testing.assert_close(images[2 * 6 + 4], vae.decode(from_ball(point, 0.5)).mean[0])


def test_a_run_and_the_commands_after_it(tmp_path, call):
    run = tmp_path / "run"
    trained(run, *WORDS, "evaluation.samples=3")
    assert (run / "latent_manifold.png").is_file() and cvae.load(run).posterior.curvature == 1
    for words in (
        ["sample", run, "--temperature", 0.7], ["interpolate", run, 0, 1], ["traverse", run],
        ["encode", run, "--split", "test"], ["explore", run, "--html", tmp_path / "x.html"],
        ["fit-prior", run, "prior=gmm", "prior.components=2", "--rounds", 2], ["evaluate", run, "--samples", 3],
    ):  # fmt: skip
        code, printed = call(*words)
        assert code == 0, printed
