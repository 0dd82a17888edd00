"""The parts of an evaluation, each by hand: blocks, one block's draws, the aggregate posterior, the figures."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal
from toys import F64, TwoGroups

from cvae.evaluation import Settings, aggregate, evaluate, importance
from cvae.evaluation import measure as measure_module
from cvae.evaluation.batches import SAMPLES, bytes_of_a_row, filled, images_of_a_block, in_blocks, joined
from cvae.evaluation.importance import ENOUGH, PerImage, error_of, measure_block
from cvae.evaluation.measure import Figure, bits_per_dim, few_effective, figures_of, over_images, pareto
from cvae.evaluation.units import Spread, known_mean
from cvae.likelihoods import Bernoulli, DiscretizedLogistic
from cvae.models.trace import Latent
from cvae.models.vae import VAE
from cvae.posteriors import DiagonalGaussian
from cvae.priors import StandardNormal
from cvae.runtime.noise import fixed_noise, hashed_seed

CPU = torch.device("cpu")


def ignore(what, count):
    """For `advance`."""


def plain_vae(classes=0, dtype=torch.float32):
    """Images (1, 2, 3), two latents; every image has a posterior of its own mean and scale."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6 * (1 + classes), 4))
    decoder = nn.Sequential(nn.Linear(2 + classes, 6), nn.Unflatten(1, (1, 2, 3)))
    vae = VAE(encoder, DiagonalGaussian(2), StandardNormal(2), decoder, Bernoulli((1, 2, 3)), classes).to(dtype)
    with torch.no_grad():
        encoder[1].weight.mul_(4)
        decoder[0].weight.mul_(4)
    return vae


def binary(count, dtype=torch.float32):
    return torch.randint(2, (count, 1, 2, 3)).to(dtype)


# Blocks


def test_blocks_are_the_images_in_their_order():
    x, y = torch.arange(11.0)[:, None], torch.arange(11) + 100
    for sizes in ([11], [3, 4, 4], [1] * 11, [4, 7], [8, 3]):
        for labels in (y, None):
            batches = zip(x.split(sizes), y.split(sizes) if labels is not None else [None] * 11, strict=False)
            blocks = list(in_blocks(batches, 4))
            assert [block[0].flatten().tolist() for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
            if labels is None:
                assert [block[1] for block in blocks] == [None] * 3
            else:
                assert torch.cat([block[1] for block in blocks]).tolist() == y.tolist()
                assert [len(block[1]) for block in blocks] == [4, 4, 3]
    assert [len(block[0]) for block in in_blocks([(x[:8], None)], 4)] == [4, 4]


def test_joined_and_filled():
    a, b = torch.arange(6).reshape(3, 2), torch.arange(6, 10).reshape(2, 2)
    x, y = joined([(a, a[:, 0]), (b, b[:, 0])])
    assert x.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]] and y.tolist() == [0, 2, 4, 6, 8]
    assert filled(b, 4).tolist() == [[6, 7], [8, 9], [8, 9], [8, 9]]
    assert filled(y, 6).tolist() == [0, 2, 4, 6, 8, 8] and filled(a, 3).tolist() == a.tolist()


def test_seeds_of_noise_are_as_they_always_were():
    """Other seeds are other draws: figures of earlier evaluations could not be repeated."""
    assert hashed_seed(0, 0, 0) == SEEDS[0] and hashed_seed(1, 2, 3) == SEEDS[1]
    assert len({hashed_seed(*(n // 9, n // 3 % 3, n % 3)) for n in range(27)}) == 27


SEEDS = (15793235383387715774, 12997252459554536576)


def test_memory_of_a_row_is_that_of_the_largest_layer():
    """The encoder's Flatten reads and writes 24 float32 numbers, 18 of them the label's; no hook stays."""
    vae = plain_vae(3)
    x, y = binary(5), torch.tensor([2, 0, 1, 1, 2])
    largest = 6 * (1 + 3) * 4 * 2
    assert bytes_of_a_row(vae, x[:1], y[:1]) == 3 * largest
    assert not any(module._forward_hooks for module in vae.modules())
    for images, memory in ((1, 1e-9), (1, 1.99), (2, 2.0), (37, 37.5), (100, 100.0), (100, 1000.0)):
        assert images_of_a_block(vae, x, y, memory * SAMPLES * 3 * largest / 2**30) == images
    plain = plain_vae()
    assert bytes_of_a_row(plain, x[:1], None) == 3 * 6 * 4 * 2
    assert images_of_a_block(plain, x, None, 4.5 * SAMPLES * 144 / 2**30) == 4


def test_memory_is_measured_with_one_image_and_its_label():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Identity()

        def forward(self, x, y):
            seen.append((x, y))

    x, y = binary(3), torch.tensor([2, 0, 1])
    assert images_of_a_block(Watched(), x, y, 10 * 3 / 2**30) == 3  # a model without layers: a byte a row
    assert torch.equal(seen[0][0], x[:1]) and seen[0][1].tolist() == [2] and len(seen) == 1


def test_hooks_are_gone_after_an_error_too():
    vae = plain_vae()
    with pytest.raises(RuntimeError):
        bytes_of_a_row(vae, torch.zeros(1, 1, 5, 5), None)
    assert not any(module._forward_hooks for module in vae.modules())


# The draws of a block


def measure(vae, x, y, samples, images, seeds, advance, until=None):
    """`measure_block` with seeds (of the evaluation, number of the block)."""
    settings = Settings(samples, seed=seeds[0], until=until and min(until, 1e9))
    return measure_block(vae, (x, y), seeds[1], images, settings, advance)


def by_hand(vae, x, y, samples, images, seed, block):
    """`PerImage` from the same noise: all draws at once, in float64."""
    pad = [*range(len(x)), *[len(x) - 1] * (images - len(x))]
    latents, log_px_z = [], []
    for part in range(math.ceil(samples / SAMPLES)):
        with fixed_noise(hashed_seed(seed, block, part), CPU):
            trace = vae(x[pad], None if y is None else y[pad], SAMPLES)
        log_px_z.append(trace.px.log_prob(x[pad]).double())
        latents.append(trace.latents)
    cut = lambda parts: torch.cat(parts)[:samples, : len(x)].double()
    groups = range(len(latents[0]))
    log_q = [cut([part[group].log_q for part in latents]) for group in groups]
    log_p = [cut([part[group].log_p for part in latents]) for group in groups]
    z = [cut([part[group].z for part in latents]) for group in groups]
    log_px_z = cut(log_px_z)
    return log_px_z, log_q, log_p, z, latents[0]


@pytest.mark.parametrize("samples", [1, 7, SAMPLES, SAMPLES + 1, 2 * SAMPLES + 3])
@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_what_is_measured_of_a_block(samples, classes):
    vae, x = plain_vae(classes), binary(4)
    y = torch.tensor([2, 0, 1, 1]) if classes else None
    rows = []
    ours, means = measure(vae, x, y, samples, 6, (3, 5), lambda *done: rows.append(done))
    log_px_z, (log_q,), (log_p,), (z,), first = by_hand(vae, x, y, samples, 6, 3, 5)
    assert rows == [("rows", 4 * min(SAMPLES, samples - start)) for start in range(0, samples, SAMPLES)]
    weights = log_px_z + log_p - log_q
    torch.testing.assert_close(ours.log_px, weights.exp().mean(0).log())
    torch.testing.assert_close(ours.effective, weights.exp().sum(0) ** 2 / (weights.exp() ** 2).sum(0))
    assert ours.samples.tolist() == [samples] * 4
    torch.testing.assert_close(ours.rates, (log_q - log_p).mean(0)[:, None])
    torch.testing.assert_close(ours.distortion, -log_px_z.mean(0))
    torch.testing.assert_close(means.mean, first[0].q.mean[:4].double())  # exact, whatever the draws are
    assert torch.equal(means.error, torch.zeros(4, 2, dtype=F64))
    assert ours.z.dtype == torch.float32 and torch.equal(ours.z.double(), z[0])  # the first draw of all
    assert torch.equal(ours.log_q, log_q[0]) and torch.equal(ours.log_p, log_p[0])
    for name in ("log_px", "rates", "distortion", "effective", "log_q", "log_p"):
        assert getattr(ours, name).dtype == F64, name
    assert means.mean.dtype == means.error.dtype == F64


@torch.no_grad()
def test_samples_double_until_the_error_is_small_enough(monkeypatch):
    """That of the block's images together; samples come in whole blocks, and the draws are those of that many."""
    vae, x, rows, weights = plain_vae(dtype=F64), binary(4, F64), [], []
    monkeypatch.setattr(importance, "error_of", lambda log_w: weights.append(log_w) or error_of(log_w))
    counts = [20, 40, 80, 160, 320, 640]
    monkeypatch.setattr(importance, "MOST", 640)
    measure(vae, x, None, 13, 6, (3, 5), ignore, 1e-9)
    errors = [error_of(log_w) for log_w in weights]
    assert [len(log_w) for log_w in weights] == counts and errors[0] == math.inf
    for until in (*(error * 1.001 for error in errors[3:]), errors[3] * 0.999, 1000.0):
        expected = next(count for count, error in zip(counts, errors, strict=True) if error < until)
        rows.clear()
        ours, mean = measure(vae, x, None, 13, 6, (3, 5), lambda *done: rows.append(done), until)
        plain, plain_mean = measure(vae, x, None, expected, 6, (3, 5), ignore)
        assert ours.samples.tolist() == [expected] * 4 and rows == [("rows", 4 * SAMPLES)] * (expected // SAMPLES)
        assert ours.reached.tolist() == [True] * 4
        for name in ("log_px", "rates", "distortion", "effective", "z", "log_q"):
            assert torch.equal(getattr(ours, name), getattr(plain, name)), name
        assert torch.equal(mean.mean, plain_mean.mean)
    ours, _ = measure(vae, x, None, 13, 6, (3, 5), ignore, errors[-1] / 2)
    assert ours.samples.tolist() == [640] * 4 and not ours.reached.any()  # no more than MOST


def test_the_error_by_hand():
    """The bias and two standard errors, from the effective sample sizes 400 / 1.16 and 400 of two images."""
    weights = torch.ones(400, 2, dtype=F64)
    weights[:200, 0], weights[200:, 0] = 0.6, 1.4  # a variance of 0.16
    variance = torch.tensor([0.16, 0.0], dtype=F64) / 400
    expected = variance.mean() / 2 + 2 * variance.sum().sqrt() / 2
    assert error_of(weights.log() - 700) == pytest.approx(expected.item())
    assert error_of(torch.zeros(ENOUGH, 3, dtype=F64)) == 0 and error_of(torch.zeros(ENOUGH - 1, 3)) == math.inf


@pytest.mark.parametrize(
    ("log_w", "images", "until", "runs"),
    [
        (lambda shape: torch.randn(shape, dtype=F64), 1, 0.1, 150),
        (lambda shape: 1.5 * torch.randn(shape, dtype=F64) - 0.625, 10, 0.05, 100),
        (lambda shape: 2 * torch.randn(shape, dtype=F64) - 1.5, 20, 0.1, 60),
        (lambda shape: -0.5 * torch.rand(shape, dtype=F64).log() + math.log(0.5) + 0.5, 10, 0.1, 100),
    ],
    ids=["normal 1", "normal 1.5", "normal 2", "pareto 0.5"],
)
def test_the_error_covers_the_truth_as_often_as_it_says(log_w, images, until, runs):
    """Weights whose mean is exp(1/2): log p(x) is known. In about 95 of 100 cases it is within `until` of the estimate.

    To stop at one small difference is right in half of the cases, and wrong by up to 10 times `until`.
    """
    misses = []
    for _ in range(runs):
        drawn = log_w((SAMPLES, images))
        while error_of(drawn) >= until:
            drawn = torch.cat([drawn, log_w(drawn.shape)])
        misses.append(abs((drawn.logsumexp(0) - math.log(len(drawn))).mean().item() - 0.5) / until)
    assert sum(miss < 1 for miss in misses) >= 0.92 * runs and max(misses) < 2


@torch.no_grad()
def test_what_is_measured_of_two_groups():
    """Densities are sums over the groups; the latents stand side by side; only the top group's mean is known."""
    vae, x = TwoGroups(widen=1.3), torch.randn(5, 1, 2, 3, dtype=F64)
    ours, means = measure(vae, x, None, SAMPLES + 2, 5, (0, 1), ignore)
    log_px_z, log_q, log_p, z, first = by_hand(vae, x, None, SAMPLES + 2, 5, 0, 1)
    torch.testing.assert_close(ours.log_px, (log_px_z + sum(log_p) - sum(log_q)).exp().mean(0).log())
    torch.testing.assert_close(ours.rates, torch.stack([(log_q[n] - log_p[n]).mean(0) for n in (0, 1)], 1))
    torch.testing.assert_close(ours.distortion, -log_px_z.mean(0))
    with torch.no_grad():  # the lower group: how far q's mean is from p's, whose deviation is 1/2
        moved = (vae.q1(x.flatten(1), z[0], vae.A, vae.W).mean - z[0] @ vae.A.T) / 0.5
    torch.testing.assert_close(means.mean, torch.cat([first[0].q.mean, moved.mean(0)], -1))
    torch.testing.assert_close(means.square, torch.cat([first[0].q.mean ** 2, moved.square().mean(0)], -1))
    assert means.error.eq(0).all() and means.codes is None
    assert torch.equal(ours.z, z[0][0])
    assert torch.equal(ours.log_q, log_q[0][0]) and torch.equal(ours.log_p, log_p[0][0])


def test_the_first_draw_is_not_changed_by_what_comes_later():
    """A copy: the draws of a block need not be kept for the sake of one."""
    vae, x = plain_vae(), binary(3)
    with torch.no_grad():
        z = measure(vae, x, None, 1, 4, (0, 0), ignore)[0].z
    assert z.untyped_storage().nbytes() == 3 * 2 * 4


def test_known_means():
    normal = Independent(Normal(torch.randn(3, 2), torch.ones(3, 2)), 1)
    latent = Latent(torch.zeros(1, 3, 2), *[torch.zeros(1, 3)] * 2, normal, normal)
    assert torch.equal(known_mean((latent, latent), 3), normal.mean)


# The aggregate posterior


@pytest.mark.parametrize("pairs", [1, 7, 9, 1000])
@torch.no_grad()
def test_aggregate_posterior_in_parts_of_any_size(pairs, monkeypatch):
    """Blocks of 3 and 2 images, five draws: at most `pairs` at once, but at least one draw."""
    monkeypatch.setattr(aggregate, "PAIRS", pairs)
    vae, x, y, done = plain_vae(3, F64), binary(5, F64), torch.tensor([2, 0, 1, 1, 0]), []
    latent = vae(x, y).latents[0]
    blocks = [(x[:3], y[:3]), (x[3:], y[3:])]
    z, log_q = latent.z[0], latent.log_q[0]
    ours = aggregate.log_aggregate(vae, blocks, z, log_q, lambda *what: done.append(what))
    mean, scale = latent.q.mean, latent.q.stddev
    expected = Normal(mean, scale).log_prob(z[:, None]).sum(-1).exp().mean(1).log()  # rows: draws, columns: images
    torch.testing.assert_close(ours, expected)
    assert ours.dtype == F64
    steps = {
        1: [3] * 5 + [2] * 5,
        7: [6, 6, 3, 6, 4],  # two draws at once with 3 images, three with 2
        9: [9, 6, 8, 2],
        1000: [15, 10],
    }
    assert done == [("pairs", count) for count in steps[pairs]]


@torch.no_grad()
def test_the_density_of_an_own_draw_is_taken_as_it_is():
    """log q(z|x) of the image that z was drawn for comes from the draw, in every block."""
    vae, x = plain_vae(0, F64), binary(5, F64)
    latent = vae(x).latents[0]
    z, told = latent.z[0], torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0], dtype=F64)
    ours = aggregate.log_aggregate(vae, [(x[:3], None), (x[3:], None)], z, told, ignore)
    torch.testing.assert_close(ours, told - math.log(5), atol=1e-3, rtol=0)


# The figures


def measured(count, groups=1):
    """Numbers of any kind, all different."""
    values = [torch.randn(count, dtype=F64) * (scale + 1) + scale for scale in range(3)]
    values[1] = values[1][:, None] * torch.tensor([1.0, 0.02, 0.06], dtype=F64)[:groups]
    own = [torch.randn(count, dtype=F64) * (scale + 1) - scale for scale in range(2)]
    samples, effective = torch.arange(count) * 1000 + 990, torch.arange(count, dtype=F64) * 3 + 1
    k = torch.arange(count, dtype=F64) / 5
    return PerImage(*values, samples, samples > 0, effective, k, torch.zeros(count, 2), *own)


SPREAD = Spread()
SPREAD.variance = lambda: torch.tensor([1.0, 0.02, 0.002], dtype=F64)  # of posterior means over images


def mean_and_error(values):
    centred = values - values.mean()
    return values.mean().item(), math.sqrt(centred.square().sum() / (len(values) - 1) / len(values))


def assert_figure(figure, values, unit, meaning):
    assert figure[:2] == pytest.approx(mean_and_error(values), rel=1e-10)
    assert figure[2:] == (unit, meaning)


def test_every_figure_by_hand():
    """Its value, its standard error over images, its unit and its name in the table."""
    vae, every, log_qz = plain_vae(), measured(9), torch.randn(5, dtype=F64)
    figures = figures_of(vae, every, SPREAD, log_qz, 6)
    log_q, log_p, rate = every.log_q[:5], every.log_p[:5], every.rates[:, 0]
    expected = {
        "nll": (-every.log_px, "nats", "-log p(x)"),
        "elbo": (-rate - every.distortion, "nats", "ELBO"),
        "rate": (rate, "nats", "rate, KL(q(z|x) || p(z))"),
        "distortion": (every.distortion, "nats", "distortion, -E log p(x|z)"),
        "mutual_information": (log_q - log_qz, "nats", "mutual information I(x; z)"),
        "aggregate_kl": (log_qz - log_p, "nats", "KL(q(z) || p(z))"),
        "aggregate_rate": (log_q - log_p, "nats", "sum of the two"),
    }
    for name, wanted in expected.items():
        assert_figure(figures[name], *wanted)
    assert figures["active_units"] == (2, None, "of 3 latents", "active units")
    assert figures["bits_per_dim"] == (None, None, "bits", "bits per dim")
    # 1, 4, 7 and 10 effective samples, …: the median of nine images, and the share below 10
    assert figures["effective_samples"] == (13, None, "of 990 to 8,990", "effective samples, median")
    assert figures["few_effective"] == (pytest.approx(3 / 9), None, "of the images", "with below 10")
    order = ["nll", "elbo", "rate", "distortion", "bits_per_dim", "effective_samples", "few_effective", "pareto_k"]
    order += ["high_pareto_k", "active_units", "mutual_information", "aggregate_kl", "aggregate_rate"]
    assert list(figures) == order
    every = every._replace(samples=torch.full((9,), 5000))
    assert figures_of(vae, every, SPREAD, log_qz, 6)["effective_samples"].unit == "of 5,000"


def test_pareto_k_of_the_images_that_have_one(monkeypatch):
    """0.1, 0.7, 0.8, 0.9 and one without; the share is of the four. The median is between the two in the middle."""
    k, many = torch.tensor([0.8, 0.1, torch.nan, 0.7, 0.9], dtype=F64), torch.full((5,), 5000)
    monkeypatch.setattr(measure_module, "can_fit", lambda: True)
    found = pareto(k, many)
    assert found["pareto_k"] == (pytest.approx(0.75), None, "", "Pareto k-hat, median")
    assert found["high_pareto_k"] == (0.5, None, "of the images", "with above 0.7")
    # 1 - 1/log10 S: 0.5 of 100 samples, 2/3 of 1,000
    found = pareto(torch.tensor([0.51, 0.49, 0.51, 0.69], dtype=F64), torch.tensor([100, 100, 1000, 5000]))
    assert found["high_pareto_k"] == (0.25, None, "of the images", "with above 0.5 to 0.7")
    monkeypatch.setattr(measure_module, "can_fit", lambda: False)
    none = pareto(torch.full((3,), torch.nan), many[:3])
    assert none["pareto_k"][:3] == (None, None, "needs arviz-stats") and none["high_pareto_k"].value is None


def test_the_median_is_between_the_two_in_the_middle():
    every = measured(4)._replace(effective=torch.tensor([10.0, 40.0, 20.0, 3.0], dtype=F64))
    figures = figures_of(plain_vae(), every, SPREAD, torch.zeros(2, dtype=F64), 6)
    assert figures["effective_samples"].value == 15


def test_few_effective_samples_are_said_where_there_were_more():
    """From 10 samples no image has more than 10 effective ones, whatever q is."""
    effective = torch.tensor([1.0, 9.9, 8.0, 30.0], dtype=F64)
    assert few_effective(effective, torch.tensor([10, 10, 10, 10])).value is None
    assert few_effective(effective, torch.tensor([11, 11, 11, 40])).value == 0.75
    assert few_effective(effective, torch.tensor([11, 10, 10, 40])).value == 0.25
    assert few_effective(effective * torch.nan, torch.tensor([40] * 4)).value is None


def test_figures_that_are_bounds_say_so():
    levels = plain_vae()
    levels.likelihood = DiscretizedLogistic((1, 2, 3))
    figures = figures_of(levels, measured(4), SPREAD, torch.zeros(2, dtype=F64), 6, bound=True)
    assert figures["nll"].meaning == "-log p(x), at most" and figures["bits_per_dim"].meaning == "bits per dim, at most"
    assert sum("at most" in figure.meaning for figure in figures.values()) == 2


def test_figures_of_several_groups():
    """The rate of each, and how many have more than 0.1 nats: the means are about 1, 0.02 and 0.06 of one number."""
    every = measured(50, groups=3)
    every = every._replace(rates=every.rates / every.rates[:, 0].mean() * 4)  # means 4, 0.08 and 0.24
    figures = figures_of(plain_vae(), every, SPREAD, torch.zeros(5, dtype=F64), 6)
    assert figures["active_groups"] == (2, None, "of 3 groups", "active groups")
    for n in (1, 2, 3):
        assert_figure(figures[f"rate_{n}"], every.rates[:, n - 1], "nats", f"rate of group {n}")
    assert_figure(figures["rate"], every.rates.sum(1), "nats", "rate, KL(q(z|x) || p(z))")
    assert sum(figures[f"rate_{n}"].value for n in (1, 2, 3)) == pytest.approx(figures["rate"].value)
    names = ["active_units", "active_groups", "rate_1", "rate_2", "rate_3", "mutual_information"]
    assert [name for name in figures if name in names] == names


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_figures_of_an_aggregate_posterior_that_is_not_known(bad):
    every, log_qz = measured(4), torch.zeros(4, dtype=F64)
    log_qz[2] = bad
    figures = figures_of(plain_vae(), every, SPREAD, log_qz, 6)
    assert figures["mutual_information"] == (None, None, "nats", "mutual information I(x; z)")
    assert figures["aggregate_kl"] == (None, None, "nats", "KL(q(z) || p(z))")
    assert_figure(figures["aggregate_rate"], every.log_q - every.log_p, "nats", "sum of the two")


def test_one_image_has_no_standard_error():
    assert over_images(torch.tensor([3.0]), "what") == (3.0, None, "nats", "what")
    assert over_images(torch.tensor([3.0, 5.0]), "what") == (4.0, pytest.approx(1.0), "nats", "what")
    assert over_images(torch.tensor([3.0, 5.0]), "what", True) == (None, None, "nats", "what")


def test_bits_per_dim_by_hand():
    levels, nll = plain_vae(), Figure(12 * math.log(2), None, "nats", "-log p(x)")
    levels.likelihood = DiscretizedLogistic((1, 2, 3))
    assert bits_per_dim(levels, nll, 6) == (pytest.approx(2.0), None, "bits", "bits per dim")
    assert bits_per_dim(levels, nll._replace(standard_error=math.log(2)), 6)[1] == pytest.approx(1 / 6)
    assert bits_per_dim(levels, nll._replace(value=None), 6) == (None, None, "bits", "bits per dim")
    levels.likelihood.is_mass = False
    assert bits_per_dim(levels, nll, 6).value is None


# The whole


@pytest.mark.parametrize("limit", [4, 5, 8, 10, 11, 12, 20])
def test_an_evaluation_is_its_blocks_put_together(limit):
    """Blocks of 4 images, each with the noise of its number; the aggregate posterior is that of the first images."""
    vae, x, y = plain_vae(3), binary(11), torch.arange(11) % 3
    vae.likelihood = DiscretizedLogistic((1, 2, 3))
    vae.decoder = nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (2, 2, 3)))
    images = 4
    memory = (images + 0.5) * SAMPLES * bytes_of_a_row(vae, x[:1], y[:1]) / 2**30
    settings = Settings(samples=SAMPLES + 3, aggregate_images=limit, memory=memory, seed=7)
    state, done = torch.get_rng_state(), []
    figures = evaluate(vae, zip(x.split(5), y.split(5), strict=True), settings, lambda *what: done.append(what))
    assert torch.equal(torch.get_rng_state(), state)  # as if there had been no evaluation
    with torch.no_grad():
        blocks = [
            measure(vae, x[i : i + 4], y[i : i + 4], SAMPLES + 3, 4, (7, i // 4), ignore) for i in range(0, 11, 4)
        ]
        every = PerImage(*(torch.cat(parts) for parts in zip(*(block for block, _ in blocks), strict=True)))
        spread, n = Spread(), min(limit, 11)
        for _, means in blocks:
            spread.add(means)
        q = vae(x, y).latents[0].q
        log_qz = Normal(q.mean, q.stddev).log_prob(every.z[:n, None])[:, :n].sum(-1).double().logsumexp(1) - math.log(n)
    for name, figure in figures_of(vae, every, spread, log_qz, 6).items():
        assert figures[name][0] == (figure[0] and pytest.approx(figure[0], rel=1e-5, abs=1e-5)), name
        assert figures[name][1] == (figure[1] and pytest.approx(figure[1], rel=1e-4)), name
    assert figures["bits_per_dim"].value == pytest.approx(figures["nll"].value / 6 / math.log(2))
    counts = {what: sum(count for name, count in done if name == what) for what in ("rows", "pairs")}
    assert counts == {"rows": 11 * (SAMPLES + 3), "pairs": n**2}
    assert not any(parameter.grad is not None for parameter in vae.parameters())


def test_settings_say_what_they_are_unless_told():
    settings = Settings()
    assert (settings.samples, settings.images, settings.aggregate_images) == (5000, None, 2000)
    assert (settings.memory, settings.seed, settings.until) == (1.0, 0, None)
