"""Objectives against theorems, mostly on linear-Gaussian VAEs, where log p(x) and the exact posterior are known."""

import itertools
import math

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from linear_vaes import (
    SHAPE,
    D,
    assert_mean,
    call,
    double,  # noqa: F401, a fixture
    gradients,
    mean_and_error,
    off_vae,
    q_of,
    repeated_image,
    varied_vae,
)
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from cvae.build import make
from cvae.errors import ConfigError
from cvae.objectives import (
    AAE,
    CIWAE,
    DIPVAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    RAE,
    VAEGAN,
    WAE,
    Autoencoder,
    BetaTCVAE,
    Capacity,
    FactorVAE,
    InfoVAE,
    Renyi,
)
from cvae.objectives.infovae import mmd
from cvae.posteriors import IAF, Deterministic, DiagonalGaussian, FullGaussian
from cvae.priors import MixtureOfGaussians, StandardNormal
from cvae.schedules import Linear


def tcvae(num_images=100, **options):
    objective = BetaTCVAE(**options)
    objective.prepare(num_images)
    return objective


# ---------------------------------------------------------------------------------------------------------------- ELBO


@pytest.mark.parametrize("posterior", [DiagonalGaussian, FullGaussian])
def test_closed_form_kl_agrees_with_monte_carlo(posterior):
    vae = off_vae(posterior(D), 20000)
    x = repeated_image(20000)
    closed, sampled = ELBO(kl="closed_form")(vae, x), ELBO()(vae, x)
    assert_mean(sampled.rate, closed.rate[0])
    if posterior is DiagonalGaussian:
        mean, logvar = vae.encoder.features[0].chunk(2)
        torch.testing.assert_close(closed.rate[0], 0.5 * (logvar.exp() + mean**2 - 1 - logvar).sum())


BOUNDS = (IWAE, MIWAE, CIWAE, Renyi)
CHANGES_ONLY_THE_LOSS = [
    ELBO(beta=4),
    ELBO(beta=0),
    ELBO(beta=Linear(0, 1, 10)),
    ELBO(free_bits=2),
    ELBO(beta=2, free_bits=2),
    IWAE(1, "stl"),
    IWAE(1, "dreg"),
    tcvae(beta=4),
    tcvae(beta=4, sampling="stratified"),
    InfoVAE(),
    InfoVAE(alpha=0, lambda_=10, kernel="imq"),
    FactorVAE(D, hidden=8).double(),
    AAE(D, hidden=8).double(),
    VAEGAN(SHAPE, width=2, layers=1).double(),
    DIPVAE(),
    DIPVAE(2),
    Capacity(),
    MIWAE(1, 1),
    PIWAE(1, 1),
    CIWAE(1),
    Renyi(1),
]


@pytest.mark.parametrize("objective", CHANGES_ONLY_THE_LOSS, ids=lambda o: type(o).__name__)
def test_what_is_optimized_changes_nothing_that_is_reported(objective):
    vae, x = varied_vae(5), torch.randn(5, *SHAPE)
    ours, elbo = call(objective, vae, x, step=3), call(ELBO(), vae, x)
    for name in ("elbo", "rate", "distortion"):
        torch.testing.assert_close(getattr(ours, name), getattr(elbo, name))
    assert all(value.shape == (5,) for value in (*ours[:4], *ours.parts.values()))
    assert torch.equal(ours.bound, -ours.loss if isinstance(objective, BOUNDS) else ours.elbo)
    if not isinstance(objective, BOUNDS):
        assert (ours.loss.mean() - elbo.loss.mean()).abs() > 1e-2


@pytest.mark.parametrize("kl", ["monte_carlo", "closed_form"])
def test_beta_weighs_the_rate_by_step(kl):
    vae, x = varied_vae(5), torch.randn(5, *SHAPE)
    for beta, step, weight in ((3, 0, 3), (0, 0, 0), (Linear(0, 2, 10), 5, 1), (Linear(0, 2, 10), 99, 2)):
        bound = call(ELBO(kl=kl, beta=beta), vae, x, step=step)
        torch.testing.assert_close(bound.loss, bound.distortion + weight * bound.rate)


@pytest.mark.parametrize("beta", [1, 2])
def test_free_bits_charge_each_dimension_at_least_lambda(beta):
    """Kingma et al. (2016), eq. 15, and no gradient for the rate of a dimension below lambda."""
    vae, x = off_vae(images=5), torch.randn(5, *SHAPE)
    mean, logvar = 0.5 * torch.randn(5, D) + torch.tensor([0.1, 1.0, 2.0]), 0.3 * torch.randn(5, D)
    vae.encoder.features.data = torch.cat([mean, logvar], 1)
    kl = 0.5 * (logvar.exp() + mean**2 - 1 - logvar)  # (B, D)
    free = kl.mean(0).sort().values[:2].mean().item()  # between two dimensions
    bound = call(ELBO(kl="closed_form", free_bits=free, beta=beta), vae, x)
    torch.testing.assert_close((bound.loss - bound.distortion).mean(), beta * kl.mean(0).clamp(min=free).sum())
    gradient = gradients(vae, (bound.loss - bound.distortion).sum(), [vae.encoder.features])[0].view(5, 2, D)
    charged = kl.mean(0) > free
    assert charged.sum() == 2
    assert (gradient[..., ~charged] == 0).all()
    torch.testing.assert_close(gradient[:, 0, charged], beta * mean[:, charged])


def test_free_bits_agree_in_both_ways_of_the_kl():
    vae = off_vae(images=20000)
    x = repeated_image(20000)
    closed, sampled = (ELBO(kl=kl, free_bits=0.05)(vae, x) for kl in ("closed_form", "monte_carlo"))
    assert_mean(sampled.rate, closed.rate[0])
    assert_mean(sampled.loss - sampled.distortion, (closed.loss - closed.distortion)[0])


def test_choices_that_lack_what_an_objective_needs_are_named():
    x = torch.randn(2, *SHAPE)
    mixture = off_vae(images=2)
    mixture.prior = MixtureOfGaussians(D)
    wrong = [
        (ELBO(kl="closed_form"), off_vae(IAF(D), 2), "objective.kl"),
        (ELBO(kl="closed_form"), mixture, "objective.kl"),
        (ELBO(free_bits=1), off_vae(FullGaussian(D), 2), "objective.free_bits"),
        (ELBO(free_bits=1), mixture, "objective.free_bits"),
        (tcvae(), off_vae(IAF(D), 2), "objective"),
    ]
    for objective, vae, key in wrong:
        with pytest.raises(ConfigError) as error:
            objective(vae, x)
        assert error.value.key == key


WRONG = [
    (ELBO, {"samples": 0}, "samples"),
    (ELBO, {"kl": "exact"}, "kl"),
    (ELBO, {"beta": -1}, "beta"),
    (ELBO, {"free_bits": -1}, "free_bits"),
    (IWAE, {"samples": 1.5}, "samples"),
    (IWAE, {"gradient": "dregs"}, "gradient"),
    (BetaTCVAE, {"beta": "6"}, "beta"),
    (BetaTCVAE, {"sampling": "mws"}, "sampling"),
    (InfoVAE, {"alpha": 2}, "alpha"),
    (InfoVAE, {"lambda_": 0}, "lambda_"),
    (InfoVAE, {"alpha": -1, "lambda_": 1}, "lambda_"),
    (InfoVAE, {"kernel": "linear"}, "kernel"),
    (InfoVAE, {"bandwidth": 0}, "bandwidth"),
    (RAE, {"embedding": -1}, "embedding"),
    (RAE, {"weight": -1}, "weight"),
    (RAE, {"regularizer": "l1"}, "regularizer"),
    (WAE, {"lambda_": 0}, "lambda_"),
    (WAE, {"kernel": "linear"}, "kernel"),
    (WAE, {"bandwidth": 0}, "bandwidth"),
    (AAE, {"latent_dim": 0}, "latent_dim"),
    (AAE, {"latent_dim": 3, "weight": 0}, "weight"),
    (AAE, {"latent_dim": 3, "hidden": 0}, "hidden"),
    (AAE, {"latent_dim": 3, "layers": 0}, "layers"),
    (VAEGAN, {"image_shape": SHAPE, "weight": 0}, "weight"),
    (VAEGAN, {"image_shape": SHAPE, "width": 0}, "width"),
    (VAEGAN, {"image_shape": SHAPE, "layers": 2}, "layers"),
    (FactorVAE, {"latent_dim": 0}, "latent_dim"),
    (FactorVAE, {"latent_dim": 3, "gamma": -1}, "gamma"),
    (FactorVAE, {"latent_dim": 3, "hidden": 0}, "hidden"),
    (FactorVAE, {"latent_dim": 3, "layers": 0}, "layers"),
    (DIPVAE, {"variant": 3}, "variant"),
    (DIPVAE, {"off_diagonal": -1}, "off_diagonal"),
    (DIPVAE, {"diagonal": -1}, "diagonal"),
    (Capacity, {"gamma": -1}, "gamma"),
    (Capacity, {"capacity": -1}, "capacity"),
    (Capacity, {"steps": 0}, "steps"),
    (MIWAE, {"estimates": 0}, "estimates"),
    (PIWAE, {"samples": 0}, "samples"),
    (CIWAE, {"samples": 0}, "samples"),
    (CIWAE, {"beta": 1.5}, "beta"),
    (CIWAE, {"beta": -0.5}, "beta"),
    (Renyi, {"samples": 0}, "samples"),
    (Renyi, {"alpha": -0.5}, "alpha"),
]


@pytest.mark.parametrize("objective, values, key", WRONG)
def test_wrong_values_name_their_key(objective, values, key):
    with pytest.raises(ConfigError) as error:
        objective(**values)
    assert error.value.key == key


# ----------------------------------------------------------------------------------------------------------- beta-TCVAE


def four_posteriors():
    """Four images that are the whole data set: q(z|x_n) in two dimensions, and q(z) as torch's own mixture."""
    mean, scale = (
        torch.tensor([[-1.5, -1.0], [0.0, 0.5], [1.0, 0.8], [1.5, 1.8]]),
        torch.tensor([0.5, 0.7]).expand(4, 2),
    )
    q = Independent(Normal(mean, scale), 1)
    return q, MixtureSameFamily(Categorical(torch.ones(4)), q)


def test_decomposition_of_the_rate_against_integrals():
    """With all four images in the batch, stratified sampling knows q(z): its three terms have the integrals as mean."""
    q, aggregate = four_posteriors()
    p = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    axis = torch.linspace(-7, 7, 401)
    cell = (axis[1] - axis[0]) ** 2
    grid = torch.cartesian_prod(axis, axis)  # (n, 2)
    log_q, log_marginals = aggregate.log_prob(grid), []
    for d in range(2):
        marginal = MixtureSameFamily(Categorical(torch.ones(4)), Normal(q.mean[:, d], q.stddev[:, d]))
        log_marginals.append(marginal.log_prob(grid[:, d]))
    expected = torch.stack([
        kl_divergence(q, p).mean() - cell * (log_q.exp() * (log_q - p.log_prob(grid))).sum(),
        cell * (log_q.exp() * (log_q - sum(log_marginals))).sum(),
        cell * (log_q.exp() * (sum(log_marginals) - p.log_prob(grid))).sum(),
    ])  # fmt: skip
    torch.testing.assert_close(expected.sum(), kl_divergence(q, p).mean())  # the integrals are right
    objective = tcvae(4, sampling="stratified")
    estimates = torch.stack([torch.stack(objective.decompose(q, p, q.sample())).mean(1) for _ in range(1000)])
    assert_mean(estimates, expected)
    assert (expected > 10 * mean_and_error(estimates)[1]).all()


def test_stratified_sampling_is_unbiased_for_the_aggregate_posterior():
    """Averaged over every batch of 3 that has the image z was drawn for."""
    q, aggregate = four_posteriors()
    z, estimates, biased = torch.tensor([0.3, -0.2]), [], []
    for batch in ([0, *others] for others in itertools.combinations([1, 2, 3], 2)):
        part = Independent(Normal(q.mean[batch], q.stddev[batch]), 1)
        for sampling, into in (("stratified", estimates), ("weighted", biased)):
            information, _, _ = tcvae(4, sampling=sampling).decompose(part, StandardNormal(2)(), z.expand(3, 2))
            into.append((part.log_prob(z)[0] - information[0]).exp())
    torch.testing.assert_close(torch.stack(estimates).mean(), aggregate.log_prob(z).exp())
    by_hand = q.log_prob(z)[[0, 1, 2]].exp().sum() / (4 * 3)  # Chen et al. (2018), eq. 5
    torch.testing.assert_close(biased[0], by_hand)


@pytest.mark.parametrize("sampling", ["weighted", "stratified"])
@pytest.mark.parametrize("images", [1, 6])
def test_beta_tcvae_weighs_the_total_correlation_alone(sampling, images):
    vae, x = varied_vae(images), torch.randn(images, *SHAPE)
    one = call(tcvae(beta=1, sampling=sampling), vae, x)
    torch.testing.assert_close(one.loss, -one.elbo)
    q = q_of(vae, x)
    torch.manual_seed(1)
    _, correlation, _ = tcvae(sampling=sampling).decompose(q, vae.p_z(), q.rsample())
    torch.testing.assert_close(call(tcvae(beta=5, sampling=sampling), vae, x).loss, one.loss + 4 * correlation)


# -------------------------------------------------------------------------------------------------------------- InfoVAE


def gaussian_mmd(shift, bandwidth):
    """MMD^2 between N(0, I) and N(shift, I) under the RBF kernel, by Gaussian integrals: () for shift (D,)."""
    c = 2 * len(shift) * bandwidth**2
    return 2 * (1 + 4 / c) ** (-len(shift) / 2) * (1 - torch.exp(-shift.square().sum() / (c + 4)))


@pytest.mark.parametrize("bandwidth", [0.5, 1, 3])
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_mmd_of_gaussians_against_its_integral(bandwidth, shift):
    shift = torch.tensor([shift, -shift / 2])
    estimates = torch.stack([mmd(torch.randn(40, 2), torch.randn(30, 2) + shift, "rbf", bandwidth) for _ in range(500)])
    assert_mean(estimates, gaussian_mmd(shift, bandwidth))
    if shift.any():
        assert gaussian_mmd(shift, bandwidth) > 4.5 * mean_and_error(estimates)[1]


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_mmd_by_hand(kernel):
    a, b, c = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]]), 2 * 2 * 2.0**2
    k = {"rbf": lambda r2: math.exp(-r2 / c), "imq": lambda r2: c / (c + r2)}[kernel]
    expected = k(25) + k(4) - 2 * (k(1) + k(9) + k(18) + k(10)) / 4
    assert mmd(a, b, kernel, 2.0).item() == pytest.approx(expected)
    x = torch.randn(100, 2)
    assert abs(mmd(x, x, kernel, 1).item()) < 2 / 100  # the same sample twice
    assert mmd(x, x + 1, kernel, 1) > 0.1


def test_infovae_is_the_elbo_where_both_weights_say_so():
    vae, x = varied_vae(6), torch.randn(6, *SHAPE)
    bound = call(InfoVAE(alpha=0, lambda_=1), vae, x)
    torch.testing.assert_close(bound.loss, -bound.elbo)
    terms = {}
    for alpha, lambda_ in ((1, 10), (0.5, 2)):
        bound = call(InfoVAE(alpha, lambda_), vae, x)
        terms[alpha] = (bound.loss - bound.distortion - (1 - alpha) * bound.rate) / (alpha + lambda_ - 1)
        assert terms[alpha].std() < 1e-12  # one discrepancy for the batch
    torch.testing.assert_close(terms[1], terms[0.5])


def test_infovae_draws_the_aggregate_posterior_to_the_prior():
    """Features off the prior by a shift: the discrepancy's gradient points away from it, in every dimension."""
    vae = off_vae(images=500)
    vae.encoder.features.data = torch.cat([torch.randn(500, D) * 0.6 + 1.0, torch.full((500, D), -0.5)], 1)
    bound = call(InfoVAE(), vae, torch.randn(500, *SHAPE))
    gradient = gradients(vae, (bound.loss - bound.distortion).mean(), [vae.encoder.features])[0]
    assert (gradient[:, :D].sum(0) > 0).all()


# --------------------------------------------------------------------------------------------------------------- config


CONFIGS = [
    (["objective=elbo"], ELBO),
    (["objective=elbo", "objective.kl=closed_form", "objective.free_bits=0.5"], ELBO),
    (["objective=iwae", "objective.samples=3"], IWAE),
    (["objective=iwae", "objective.gradient=dreg", "objective.samples=3"], IWAE),
    (["objective=beta_tcvae"], BetaTCVAE),
    (["objective=infovae", "objective.kernel=imq"], InfoVAE),
    (["objective=miwae"], MIWAE),
    (["objective=piwae"], PIWAE),
    (["objective=ciwae"], CIWAE),
    (["objective=renyi"], Renyi),
    (["objective=factor_vae", "objective.latent_dim=3", "objective.hidden=8"], FactorVAE),
    (["objective=aae", "objective.latent_dim=3", "objective.hidden=8"], AAE),
    (["objective=vae_gan", "objective.image_shape=[1,2,3]", "objective.layers=1"], VAEGAN),
    (["objective=dip_vae"], DIPVAE),
    (["objective=dip_vae", "objective.variant=2"], DIPVAE),
    (["objective=capacity"], Capacity),
    (["objective=autoencoder"], Autoencoder),
    (["objective=rae"], RAE),
    (["objective=rae", "objective.regularizer=gradient_penalty"], RAE),
    (["objective=wae"], WAE),
]


@pytest.mark.parametrize("overrides, kind", CONFIGS)
def test_every_file_makes_an_objective_that_trains(overrides, kind):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        objective = make(compose(None, ["+" + overrides[0], *overrides[1:]]), "objective")
    assert type(objective) is kind
    vae, x = off_vae(Deterministic(D) if objective.deterministic else None, 6), torch.randn(6, *SHAPE)
    objective.prepare(100)
    loss = objective(vae, x, None, 3).loss
    for gradient in gradients(vae, loss.mean(), list(vae.parameters())):
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_no_file_is_left_out():
    others = {"objective=perceptual_gan"}  # has a file of its own, and needs images of 16 pixels
    assert {f"objective={path.stem}" for path in (ROOT / "conf" / "objective").glob("*.yaml")} == others | {
        overrides[0] for overrides, _ in CONFIGS
    }
