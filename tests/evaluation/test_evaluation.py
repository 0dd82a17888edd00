"""Figures of models with a known log p(x), aggregate posterior and active units, and the commands that report them."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from zuko.distributions import NormalizingFlow
from zuko.transforms import ComposedTransform, ExpTransform, MonotonicAffineTransform

from cvae import evaluation
from cvae.errors import ConfigError, NotFinite
from cvae.evaluation import Settings, importance
from cvae.evaluation.batches import IMAGES, SAMPLES, bytes_of_a_row, filled, images_of_a_block
from cvae.evaluation.importance import measure_block
from cvae.evaluation.measure import Figure, bits_per_dim
from cvae.evaluation.pareto import pareto_k
from cvae.likelihoods import Bernoulli, Gaussian
from cvae.models.vae import VAE
from cvae.posteriors import FullGaussian, Posterior
from cvae.priors import StandardNormal
from cvae.runtime.noise import fixed_noise, hashed_seed


class Calls(nn.Module):
    """A module of a function."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


class Infers(Posterior):
    """A posterior of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, features):
        return self.function(features)


def linear_gaussian(classes=0, shift=0.0, widen=1.0, scale=0.5):
    """x = W z + b_y + scale eps of shape (1, 2, 2), its exact posterior (shifted and widened), and p(x|y)."""
    weight = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, -1.2], [0.7, 0.1]], dtype=torch.float64)
    offset = torch.linspace(-2, 2, 4 * max(classes, 1), dtype=torch.float64).reshape(-1, 4)
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / scale**2
    covariance = torch.linalg.inv(precision)

    def posterior(features):  # x, then a plane a class
        planes = features.unflatten(1, (1 + classes, 4))
        centre = planes[:, 1:, 0] @ offset if classes else offset[0]
        mean = (planes[:, 0] - centre) @ weight @ covariance / scale**2
        return MultivariateNormal(mean + shift, covariance * widen**2)

    def decoder(z):
        centre = z[:, 2:] @ offset if classes else offset[0]
        return (z[:, :2] @ weight.T + centre).reshape(-1, 1, 2, 2)

    prior = StandardNormal(2).double()
    vae = VAE(nn.Flatten(), Infers(posterior), prior, Calls(decoder), Gaussian((1, 2, 2), scale), classes)
    marginal = weight @ weight.T + scale**2 * torch.eye(4, dtype=torch.float64)
    return vae, lambda x, y: MultivariateNormal(offset[y if classes else 0], marginal).log_prob(x.flatten(1))


def images(count, classes=0, spread=2.0):
    y = torch.arange(count) % max(classes, 1)
    return torch.randn(count, 1, 2, 2, dtype=torch.float64) * spread, y


def encoding(posterior: nn.Module | Distribution, latents: int, likelihood=None):
    """A VAE whose posterior reads x (B, 1, 1, F) itself and whose decoder ignores z."""
    decoder = Calls(lambda z: z.new_zeros(len(z), 1, 1, 1))
    prior = StandardNormal(latents).double()
    return VAE(nn.Flatten(), Infers(posterior), prior, decoder, likelihood or Gaussian((1, 1, 1)))


def means_of(scale):
    return lambda features: Independent(Normal(features, scale, validate_args=False), 1)


def evaluate(vae, batches, samples, seed=0, advance=lambda *done: None, **options):
    """The figures, with labels where the model has classes."""
    labelled = [(x, vae.labels(y)) for x, y in batches]
    return evaluation.evaluate(vae, labelled, Settings(samples=samples, seed=seed, **options), advance)


def same(a, b):
    """Two figures, but for rounding."""
    return all(
        v == w if None in (v, w) else v == pytest.approx(w, rel=1e-10) for v, w in zip(a[:2], b[:2], strict=True)
    )


# log p(x)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("samples", [1, 7, SAMPLES, SAMPLES + 1])
def test_exact_posterior_gives_log_px_for_any_number_of_samples(classes, samples):
    vae, log_px = linear_gaussian(classes)
    x, y = images(IMAGES + 20, classes)
    figures, exact = evaluate(vae, [(x, y)], samples), log_px(x, y)
    assert figures["nll"].value == pytest.approx(-exact.mean().item(), rel=1e-9)
    assert figures["nll"].standard_error == pytest.approx(exact.std().item() / len(x) ** 0.5, rel=1e-9)
    assert figures["elbo"].value == pytest.approx(exact.mean().item(), rel=1e-9)  # the bound is tight
    assert figures["rate"].value + figures["distortion"].value == pytest.approx(-figures["elbo"].value, rel=1e-12)


def test_log_px_far_below_what_a_probability_can_hold():
    """exp(log p(x)) is 0 even in float64 here: only log space gives a number."""
    vae, log_px = linear_gaussian()
    x, y = images(10, spread=300.0)
    exact = log_px(x, y)
    assert exact.max() < -800
    assert evaluate(vae, [(x, y)], 60)["nll"].value == pytest.approx(-exact.mean().item(), rel=1e-9)


def test_wrong_posterior_converges_from_above():
    vae, log_px = linear_gaussian(shift=0.2, widen=1.5)
    x, y = images(IMAGES)
    exact = -log_px(x, y).mean().item()
    estimates = [evaluate(vae, [(x, y)], samples) for samples in (1, 10, 100, 5000)]
    nll = [figures["nll"].value for figures in estimates]
    assert nll[0] == pytest.approx(-estimates[0]["elbo"].value, rel=1e-9)  # with one sample it is the ELBO
    assert nll[0] > nll[1] > nll[2] > exact - 0.02
    assert nll[3] == pytest.approx(exact, abs=0.005)
    # E log q(z|x) - log p(x, z) = -log p(x) + KL(q || exact posterior), in closed form
    wrong, right = vae(x).latents[0].q, linear_gaussian()[0](x).latents[0].q
    gap = torch.distributions.kl_divergence(wrong, right).mean().item()
    assert -estimates[3]["elbo"].value - exact == pytest.approx(gap, abs=0.01)


def test_effective_samples_of_an_exact_and_of_a_poor_posterior():
    x, _ = images(5)
    exact = evaluate(linear_gaussian()[0], [(x, torch.zeros(5))], 60)
    assert exact["effective_samples"].value == pytest.approx(60) and exact["few_effective"].value == 0
    poor = evaluate(linear_gaussian(shift=1.5)[0], [(x, torch.zeros(5))], 60)
    assert poor["effective_samples"].value < 10 and poor["few_effective"].value > 0.5


def test_pareto_k_is_that_of_each_images_weights():
    """log w = log p(x, z) - log q(z|x) of the draws that a block makes, 27 of them in three sample blocks."""
    pytest.importorskip("arviz_stats")
    vae, _ = linear_gaussian(shift=0.7, widen=1.5)
    x, _ = images(5)
    log_w = []
    for block in range(3):
        with fixed_noise(hashed_seed(4, 0, block), x.device):
            trace = vae(filled(x, IMAGES), None, SAMPLES)
        (latent,) = trace.latents
        log_w.append((trace.px.log_prob(filled(x, IMAGES)) + latent.log_p - latent.log_q)[:, :5])
    k = pareto_k(torch.cat(log_w)[:27])
    found = evaluate(vae, [(x, None)], 27, seed=4)
    assert found["pareto_k"].value == pytest.approx(k.sort().values[2].item(), rel=1e-9)
    assert found["high_pareto_k"].value == (k > 1 - 1 / math.log10(27)).double().mean()


def test_an_exact_posterior_has_no_heavy_tail():
    exact = evaluate(linear_gaussian()[0], [(images(5)[0], torch.zeros(5))], 60)
    assert not exact["high_pareto_k"].value  # 0, or None without the package


def test_until_the_error_is_as_small_as_was_asked_for(monkeypatch):
    vae, log_px = linear_gaussian(shift=0.2, widen=1.5)
    x, y = images(IMAGES + 20)
    figures = evaluate(vae, [(x, y)], 10, until=0.02)
    assert figures["nll"].value == pytest.approx(-log_px(x, y).mean().item(), abs=0.02)
    assert figures["not_reached"] == (0, None, "of the images", "not within 0.02 nats")
    monkeypatch.setattr(importance, "MOST", 100)
    figures = evaluate(vae, [(x, y)], 10, until=0.002)
    assert figures["not_reached"][:2] == (1, None) and figures["effective_samples"].unit == "of 80"
    assert "not_reached" not in evaluate(vae, [(x, y)], 10)


# Noise


def test_batches_do_not_matter():
    vae, _ = linear_gaussian(classes=3, shift=0.2, widen=1.5)
    x, y = images(IMAGES + 3, classes=3)
    whole = evaluate(vae, [(x, y)], SAMPLES + 3, seed=1)
    for size in (1, 37, IMAGES):
        batches = list(zip(x.split(size), y.split(size), strict=True))
        for name, figure in evaluate(vae, batches, SAMPLES + 3, seed=1).items():
            assert same(figure, whole[name]), name


@pytest.mark.parametrize("images_at_once", [IMAGES, 7, 1])
def test_blocks_are_as_small_as_the_memory_asks_for(images_at_once):
    vae, log_px = linear_gaussian(classes=1)
    (x, y), decoder, rows = images(20, classes=1), vae.decoder, []
    vae.decoder = Calls(lambda z: (rows.append(len(z)), decoder(z))[1])
    row = (
        3 * 8 * (8 + 8)
    )  # bytes: the largest layer flattens 4 pixels and 4 of the label's plane, 8 float64 in and 8 out
    memory = row * SAMPLES * (images_at_once + 0.5) / 2**30
    assert bytes_of_a_row(vae, x[:1], y[:1]) == row
    assert images_of_a_block(vae, x, y, memory) == images_at_once
    assert images_of_a_block(vae, x, y, memory / images_at_once / 10) == 1  # never none
    rows.clear()
    figures = evaluate(vae, [(x, y)], 3, memory=memory, aggregate_images=1)
    assert rows[2:-1] == [SAMPLES * images_at_once] * math.ceil(20 / images_at_once)
    assert figures["nll"].value == pytest.approx(-log_px(x, y).mean().item(), rel=1e-9)  # whatever the draws are


def test_the_seed_decides():
    vae, _ = linear_gaussian(shift=0.2, widen=1.5)
    batches = [images(20)]
    first, again, other = (evaluate(vae, batches, 5, seed=seed) for seed in (3, 3, 4))
    assert first == again
    for name in ("nll", "rate", "distortion", "mutual_information"):
        assert first[name] != other[name]


def test_noise_is_of_an_image_and_a_sample_and_never_the_same():
    vae, _ = linear_gaussian()
    x, y = images(IMAGES + 5)
    x = torch.zeros_like(x)  # one posterior for all: draws differ by their noise alone

    def draws(images, samples, seed=0):
        """(samples, images, 2), put together from the blocks in which they were decoded."""
        decoder, decoded = vae.decoder, []
        vae.decoder = Calls(lambda z: (decoded.append(z), decoder(z))[1])
        evaluate(vae, [(x[:images], y[:images])], samples, seed, aggregate_images=1)
        vae.decoder, columns = decoder, []
        blocks = [part.reshape(SAMPLES, IMAGES, 2) for part in decoded[2:-1]]  # not of its kind and size, and of q(z)
        for _ in range(0, images, IMAGES):
            columns.append(torch.cat([blocks.pop(0) for _ in range(0, samples, SAMPLES)]))
        assert not blocks
        return torch.cat(columns, 1)[:samples, :images]

    every = draws(len(x), SAMPLES + 5)
    assert every.shape == (SAMPLES + 5, len(x), 2)
    assert len(every.unique()) == every.numel()
    # Fewer images or samples are the same draws of the same images, to the last one. The first ones alone could agree
    # for a wrong reason: torch draws the last numbers of a tensor in another way than the others.
    for count, samples in ((7, 3), (IMAGES, 3), (IMAGES + 1, 1), (len(x), SAMPLES + 1)):
        assert torch.equal(draws(count, samples), every[:samples, :count])
    assert not torch.isin(draws(7, 3, seed=1), every).any()


def test_random_numbers_go_on_as_if_there_had_been_no_evaluation():
    vae, _ = linear_gaussian()
    batches, state = [images(3)], torch.get_rng_state()
    evaluate(vae, batches, 2)
    assert torch.equal(torch.get_rng_state(), state)


# The aggregate posterior


def test_aggregate_posterior_by_hand():
    x = torch.randn(30, 1, 1, 3, dtype=torch.float64)
    y = torch.zeros(30, dtype=torch.long)
    vae = encoding(means_of(0.7), 3)
    figures = evaluate(vae, [(x, y)], samples=1)
    z = measure_block(vae, (x, None), 0, IMAGES, Settings(1), lambda *done: None)[0].z
    pairs = Normal(x.flatten(1), 0.7).log_prob(z[:, None]).sum(-1)  # (draw, image)
    log_qz, log_q = pairs.exp().mean(1).log(), pairs.diagonal()
    log_pz = Normal(0, 1).log_prob(z).sum(-1)
    assert figures["mutual_information"].value == pytest.approx((log_q - log_qz).mean().item(), rel=1e-10)
    assert figures["aggregate_kl"].value == pytest.approx((log_qz - log_pz).mean().item(), rel=1e-10)
    both = figures["mutual_information"].value + figures["aggregate_kl"].value
    assert both == pytest.approx(figures["aggregate_rate"].value, rel=1e-12)
    assert both == pytest.approx(figures["rate"].value, rel=1e-12)  # of the same draws, since there is one an image
    assert 0 < figures["mutual_information"].value < math.log(30)


@pytest.mark.parametrize("apart, expected", [(1000.0, math.log(IMAGES + 30)), (0.0, 0.0)])
def test_mutual_information_of_disjoint_and_of_identical_posteriors(apart, expected):
    x = torch.arange(IMAGES + 30, dtype=torch.float64).reshape(-1, 1, 1, 1) * apart
    figures = evaluate(encoding(means_of(1.0), 1), [(x, torch.zeros(len(x), dtype=torch.long))], samples=2)
    assert figures["mutual_information"].value == pytest.approx(expected, abs=1e-9)


def test_aggregate_posterior_reads_the_first_images_only():
    x, y = (
        torch.randn(IMAGES + 30, 1, 1, 2, dtype=torch.float64),
        torch.zeros(IMAGES + 30, dtype=torch.long),
    )
    vae, pairs = encoding(means_of(0.5), 2), []
    count = lambda what, done: pairs.append(done) if what == "pairs" else None
    for limit in (40, IMAGES, IMAGES + 10):
        pairs.clear()
        limited = evaluate(vae, [(x, y)], 1, aggregate_images=limit, advance=count)
        alone = evaluate(vae, [(x[:limit], y[:limit])], 1)
        assert sum(pairs) == limit**2
        for name in ("mutual_information", "aggregate_kl", "aggregate_rate"):
            assert same(limited[name], alone[name])
    assert limited["rate"] != alone["rate"]


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_densities_that_float32_finds_badly(spread):
    """Random triangular factors are so ill-conditioned that no digit is left of log q(z) found from z, or it is NaN."""
    posterior, features = FullGaussian(60), torch.randn(20, 1, 1, 60 + 30 * 61) * spread
    decoder = Calls(lambda z: z.new_zeros(len(z), 1, 1, 1))
    vae = VAE(nn.Flatten(), posterior, StandardNormal(60), decoder, Gaussian((1, 1, 1)))
    figures = evaluate(vae, [(features, torch.zeros(20, dtype=torch.long))], 1)
    assert math.isfinite(figures["nll"].value)
    if spread == 1:
        assert figures["mutual_information"].value <= math.log(20) + 1e-9
    else:
        assert figures["mutual_information"].value is None and figures["aggregate_kl"].value is None


# Active units and bits per dim


def test_active_units_are_those_whose_mean_varies():
    scales = torch.tensor([1.0, 0.02**0.5, 0.005**0.5, 0.0], dtype=torch.float64)
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(30)[:, None] * scales  # variances 1, 0.02, 0.005, 0
    batches = [(means[:, None, None] + 3, torch.zeros(60, dtype=torch.long))]
    figure = evaluate(encoding(means_of(1.0), 4), batches, 1)["active_units"]
    assert figure == (2, None, "of 4 latents", "active units")


def lognormal(features):
    """A flow to exp(m + s eps); its base has the mean m, and E z = exp(m + s^2/2)."""
    m, s = features.chunk(2, -1)
    to_base = ComposedTransform(ExpTransform().inv, MonotonicAffineTransform(m, s).inv)
    unit = Independent(Normal(torch.zeros_like(m), torch.ones_like(m), validate_args=False), 1)
    return NormalizingFlow(to_base, unit)


def test_active_units_of_a_flow_come_from_its_draws():
    """Two latents with median 1. Over the images the first one's mean has a variance of 0.016, the second one's none.

    The noise of a mean over 40 draws has a variance of about 0.05, which alone would pass for activity.
    """
    first = torch.tensor([0.8, 1.0], dtype=torch.float64).repeat(500)
    s = torch.stack([first, torch.full_like(first, 1.0)], 1)
    x = torch.cat([torch.zeros_like(s), s], 1)[:, None, None]
    y = torch.zeros(len(x), dtype=torch.long)
    assert evaluate(encoding(lognormal, 2), [(x, y)], 40, aggregate_images=1)["active_units"].value == 1
    assert evaluate(encoding(lognormal, 2), [(x, y)], 1, aggregate_images=1)["active_units"].value is None


class UniformLevels(nn.Module):
    """Every one of 256 levels with the same probability."""

    describes, is_mass = ("levels",), True

    def forward(self, params):
        shape = params.shape[:-3]

        class Uniform(Distribution):
            def log_prob(self, x):
                return torch.full(shape, -x[0].numel() * math.log(256), dtype=torch.float64)

        return Uniform(validate_args=False)


def test_uniform_levels_take_8_bits_per_dim():
    vae = encoding(lambda features: Independent(Normal(torch.zeros_like(features), 1.0), 1), 12, UniformLevels())
    x = torch.rand(5, 3, 2, 2, dtype=torch.float64)
    figures = evaluate(vae, [(x, torch.zeros(5, dtype=torch.long))], 3)
    assert figures["bits_per_dim"].value == pytest.approx(8, rel=1e-12)
    assert figures["nll"].value == pytest.approx(12 * math.log(256), rel=1e-12)
    by_hand = bits_per_dim(
        encoding(means_of(1.0), 1, UniformLevels()), Figure(24 * math.log(2), 12 * math.log(2), "nats", ""), 12
    )
    assert by_hand[:2] == pytest.approx((2, 1)) and by_hand.unit == "bits"


@pytest.mark.parametrize("likelihood", [Bernoulli((1, 2, 2)), Bernoulli((1, 2, 2), soft=True), Gaussian((1, 2, 2))])
def test_no_bits_for_binary_images_and_densities(likelihood):
    assert bits_per_dim(encoding(means_of(1.0), 1, likelihood), Figure(1.0, 0.1, "nats", ""), 4).value is None


# What cannot be


@pytest.mark.parametrize(
    "key, value", [("samples", 0), ("aggregate_images", 0), ("memory", 0), ("images", 0), ("seed", -1), ("until", 0)]
)
def test_values_out_of_range(key, value):
    vae, _ = linear_gaussian()
    with pytest.raises(ConfigError, match=f"{key}={value}: must be"):
        evaluate(vae, [images(3)], **{"samples": 1, key: value})


def test_a_figure_that_is_not_finite():
    x, y = images(3)
    x[1] = torch.nan
    with pytest.raises(NotFinite, match="nll is nan"):
        evaluate(linear_gaussian()[0], [(x, y)], 2)
