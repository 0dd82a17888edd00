"""Quality of samples and reconstructions: which images, noise, classes and features go into which figure."""

import numpy as np
import pytest
import torch
from conftest import config
from torch import nn

from cvae.build import build_vae, make
from cvae.errors import ConfigError, NotFinite, UserError
from cvae.evaluation import quality as quality_module
from cvae.evaluation import real as real_module
from cvae.evaluation.distances import frechet, frechet_extrapolated, kid, vendi
from cvae.evaluation.features import Features
from cvae.evaluation.neighbours import fidelity, nearest
from cvae.evaluation.pixels import psnr, ssim
from cvae.evaluation.quality import QualitySettings, Real, Sampler, like, quality, reconstructions
from cvae.evaluation.real import in_order, of_split, real_features
from cvae.priors import NoPrior
from cvae.runtime.noise import fixed_noise, hashed_seed

CPU = torch.device("cpu")
WORDS = ["data=synthetic", "data.image_shape=[1,12,12]", "data.source.train_size=90", "data.source.test_size=40",
         "model=mlp", "model.hidden=[8]", "data.num_classes=3"]  # fmt: skip


@pytest.fixture(autouse=True)
def small_blocks(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(quality_module, "BLOCK", 16)
    monkeypatch.setattr(real_module, "BLOCK", 16)


class Plain(Features):
    """Random projections of the pixels; counts the images that it is asked about."""

    name = "plain-1"

    def __init__(self, slow=False):
        super().__init__()
        self.weight, self.asked, self.slow = nn.Parameter(torch.randn(144, 4)), 0, slow

    def forward(self, x):
        self.asked += len(x)
        return x.flatten(1) @ self.weight


def parts(*words):
    """A model in eval mode, whose images are far from each other, and its data."""
    cfg = config(*WORDS, *words)
    vae = build_vae(cfg).eval()
    with torch.no_grad():
        for weights in vae.parameters():
            weights.mul_(3)
    data = make(cfg, "data")
    data.setup()
    return vae, data


def plain(items, what, total):
    items = list(items)
    assert len(items) == total, what
    return items


# Samples


def test_samples_come_in_blocks_each_by_its_seed():
    vae, data = parts()
    drawn = Sampler(vae, data.test.images.y, "none", QualitySettings(40, seed=5))
    assert [len(drawn.block(n)) for n in range(len(drawn))] == [16, 16, 8]
    for number, count in enumerate((16, 16, 8)):
        with fixed_noise(hashed_seed(5, 0, number), CPU):
            assert torch.equal(drawn.block(number), vae.sample(count))
    assert torch.equal(drawn.pick([33, 0, 17]), torch.cat([drawn.block(n) for n in range(3)])[[33, 0, 17]])


@pytest.mark.parametrize("binarization", ["static", "stochastic", "fixed", "none"])
def test_samples_are_binarized_as_the_data_are(binarization):
    vae, data = parts()
    drawn = Sampler(vae, data.test.images.y, binarization, QualitySettings(16, seed=1))
    with fixed_noise(hashed_seed(1, 0, 0), CPU):
        means = vae.sample(16)
        x = {"static": (means > 0.5).float(), "none": means}.get(
            binarization, (torch.rand(means.shape) < means).float()
        )
    assert torch.equal(drawn.block(0), x) and torch.equal(drawn.block(0), x)


def test_means_of_a_gaussian_are_within_the_range_of_the_data():
    vae, data = parts("data.binarization=none", "likelihood=gaussian")
    drawn = Sampler(vae, data.test.images.y, "none", QualitySettings(16, seed=1))
    with fixed_noise(hashed_seed(1, 0, 0), CPU):
        means = vae.sample(16)
    assert means.min() < 0 and means.max() > 1 and torch.equal(drawn.block(0), means.clamp(0, 1))
    x, made, same = next(reconstructions(vae, data, 16, 1))
    with fixed_noise(hashed_seed(1, 1, 0), CPU):
        means = vae.reconstruct(x)
    assert means.min() < 0 and means.max() > 1
    assert torch.equal(made, means.clamp(0, 1)) and torch.equal(same, made)


def test_the_grey_in_the_middle_is_black_as_in_the_data():
    assert like("static", torch.tensor([0.5, 0.5001])).tolist() == [0, 1]


def test_classes_are_those_of_the_test_images():
    vae, _ = parts("conditional=true")
    y = torch.tensor([0] * 10 + [1] * 20 + [2] * 10)
    drawn = Sampler(vae, y, "none", QualitySettings(80))
    assert drawn.y.bincount().tolist() == [20, 40, 20] and drawn.y[:40].bincount().tolist() == [10, 20, 10]
    few = Sampler(vae, y, "none", QualitySettings(12)).y
    assert len(few.unique()) == 3  # and not the first of them, which may be of one class
    with fixed_noise(hashed_seed(0, 0, 1), CPU):
        assert torch.equal(drawn.block(1), vae.sample(16, drawn.y[16:32]))


def test_without_a_prior_nothing_is_drawn():
    vae, data = parts("posterior=deterministic", "prior=none", "objective=autoencoder")
    assert isinstance(vae.prior, NoPrior)
    with pytest.raises(UserError, match="Fit one first: python -m cvae fit-prior RUN prior=gmm"):
        Sampler(vae, data.test.images.y, "none", QualitySettings())


@pytest.mark.parametrize(
    "words",
    [
        ["posterior=vq", "prior=uniform", "model=conv"], ["model=ladder"],
        ["posterior=power_spherical", "prior=uniform_sphere"], ["prior=vamp", "likelihood=gaussian"],
    ],
)  # fmt: skip
def test_every_kind_of_model_is_measured(words):
    """Models that can be drawn from."""
    shape = ["data.image_shape=[1,16,16]"]
    base = [word for word in WORDS if not word.startswith(("model", "data.image_shape"))]
    base += [] if "model=ladder" in words or "model=conv" in words else ["model=mlp", "model.hidden=[8]"]
    cfg = config(*base, *shape, *words)
    vae, data = build_vae(cfg).eval(), make(cfg, "data")
    data.setup()
    features = Plain()
    features.weight = nn.Parameter(torch.randn(256, 4))
    real = real_features(data, features, QualitySettings(30), plain)
    measured = quality(vae, data, features, real, QualitySettings(30), plain)
    assert measured.figures["frechet"].value > 0 and measured.drawn.shape == (8, 1, 16, 16)


# Real images


def test_features_of_real_images_are_of_the_images_as_the_model_sees_them():
    _, data = parts()
    features = Plain()
    real = real_features(data, features, QualitySettings(50, seed=3), plain)
    order = in_order(90, 90, 3)
    assert torch.equal(real.rows, order) and sorted(order.tolist()) == list(range(90)) != order.tolist()
    assert torch.allclose(real.test, features(data.batch("test", range(40))[0]))
    assert torch.allclose(real.train, features(data.batch("train", order.tolist())[0]))
    assert torch.equal(real_features(data, features, QualitySettings(50, images=7), plain).test, real.test[:7])


def test_of_a_slow_network_only_as_many_training_images_as_samples(monkeypatch):
    _, data = parts()
    assert len(real_features(data, Plain(slow=True), QualitySettings(20), plain).train) == 20
    assert len(real_features(data, Plain(), QualitySettings(20), plain).train) == 90
    assert real_module.TRAINING == 60_000
    monkeypatch.setattr(real_module, "TRAINING", 30)
    assert [len(real_features(data, Plain(), QualitySettings(n), plain).train) for n in (20, 50)] == [30, 50]


def test_features_of_real_images_are_computed_once():
    _, data = parts()
    features = Plain()
    first = real_features(data, features, QualitySettings(), plain)
    assert features.asked == 130
    again = real_features(data, features, QualitySettings(), plain)
    assert features.asked == 130 and torch.equal(again.train, first.train) and torch.equal(again.test, first.test)
    real_features(data, features, QualitySettings(seed=1), plain)
    assert features.asked == 220  # training images in another order
    data.test.images.x[0] = 255 - data.test.images.x[0]
    assert not torch.equal(real_features(data, features, QualitySettings(), plain).test[0], first.test[0])
    features.name = "plain-2"
    features.weight.data *= 2
    assert torch.allclose(real_features(data, features, QualitySettings(), plain).train, 2 * first.train)


def test_kept_features_that_are_damaged_are_computed_again(tmp_path):
    _, data = parts()
    features = Plain()
    first = real_features(data, features, QualitySettings(), plain)
    files = sorted((tmp_path / "cache" / "cvae" / "features").iterdir())
    assert len(files) == 2 and all(file.name.startswith("plain-1-") for file in files)
    files[0].write_bytes(files[0].read_bytes()[:-4])
    files[1].write_bytes(b"")
    again = real_features(data, features, QualitySettings(), plain)
    assert torch.equal(again.train, first.train) and torch.equal(again.test, first.test)
    for file in files:  # whole, but not of this form
        kept = np.load(file)
        for other in (kept[1:], kept.astype(np.float64), kept[:, 0], np.where(kept == kept[0], np.nan, kept)):
            np.save(file, other)
            again = real_features(data, features, QualitySettings(), plain)
            assert torch.equal(again.train, first.train) and torch.equal(again.test, first.test)
            assert again.train.dtype == again.test.dtype == torch.float32


def test_features_that_cannot_be_kept_are_no_error(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _, data = parts()
    assert len(real_features(data, Plain(), QualitySettings(), plain).test) == 40
    assert "The features are not kept in" in caplog.text


def test_stochastic_images_are_drawn_by_seed():
    _, data = parts("data.binarization=stochastic")
    features = Plain()
    one, two = (real_features(data, features, QualitySettings(seed=seed), plain) for seed in (0, 1))
    number = one.rows[0].item()
    assert not torch.equal(one.train[0], two.train[(two.rows == number).nonzero().item()])
    features.name = "plain-again"
    torch.manual_seed(8)
    assert torch.equal(real_features(data, features, QualitySettings(seed=0), plain).train, one.train)


def test_stochastic_images_are_drawn_block_by_block_and_kept_for_their_seed_alone():
    """The same images in the same order; test images, which are drawn once, are the same for every seed."""
    _, data = parts("data.binarization=stochastic")
    features, rows = Plain(), torch.arange(40)
    for seed in (0, 1):
        x = []
        for number, some in enumerate(rows.split(16)):
            with fixed_noise(hashed_seed(seed, 2, number), CPU):
                x.append(data.batch("train", some.tolist())[0])
        found = of_split(data, "train", rows, features, QualitySettings(seed=seed), plain)
        assert torch.allclose(found, features(torch.cat(x)), atol=1e-6)
        of_split(data, "test", rows, features, QualitySettings(seed=seed), plain)
    assert features.asked == 2 * 80 + 40  # here and there


def test_inverted_images_share_no_file_with_others_of_the_same_levels():
    _, data = parts()
    features, rows = Plain(), torch.arange(40)
    for invert in (False, True):
        data.invert = invert
        x = data.batch("test", range(40))[0]
        found = of_split(data, "test", rows, features, QualitySettings(), plain)
        assert torch.allclose(found, features(1 - x if invert else x), atol=1e-6)


def test_inverted_images_are_described_as_the_files_have_them():
    vae, data = parts("data.invert=true")
    _, upright = parts()
    features = Plain()
    real = real_features(data, features, QualitySettings(20), plain)
    assert torch.allclose(real.test, features(1 - data.batch("test", range(40))[0]))
    near = upright.batch("test", range(40))[0]  # but for the level in the middle
    assert (features(near) - real.test).abs().max() < 1e-5
    measured = quality(vae, data, features, real, QualitySettings(20), plain)
    samples = torch.cat([Sampler(vae, data.test.images.y, "static", QualitySettings(20)).block(n) for n in (0, 1)])
    found = frechet(features(1 - samples).detach().double(), real.test.double())
    assert measured.figures["frechet"].value == pytest.approx(found, rel=1e-5)


# Figures


@pytest.fixture
def measured():
    """All figures of 50 samples against 40 test images, and what they are found of, in float64."""
    vae, data = parts()
    features, settings = Plain(), QualitySettings(50, seed=2)
    real = real_features(data, features, settings, plain)
    found = quality(vae, data, features, real, settings, plain)
    drawn = Sampler(vae, data.test.images.y, "static", settings)
    samples = features(torch.cat([drawn.block(n) for n in range(len(drawn))])).detach()
    return found, samples, real, (vae, data, features)


def test_figures_of_samples(measured):
    """By value: each by its own function, samples against test images, and training images in their place."""
    found, samples, real, _ = measured
    test = real.test.double()
    for prefix, images in (("", samples.double()), ("train_", real.train[:50].double())):
        value = {name: found.figures[f"{prefix}{name}"].value for name in ("frechet", "frechet_extrapolated", "vendi")}
        assert value["frechet"] == pytest.approx(frechet(images, test), rel=1e-4)
        assert value["frechet_extrapolated"] == pytest.approx(frechet_extrapolated(images, test), rel=1e-3, abs=1e-3)
        assert value["vendi"] == pytest.approx(vendi(images), rel=1e-4)
        mean, error = kid(images, test)
        assert found.figures[f"{prefix}kid"][:2] == (pytest.approx(mean, rel=1e-3), error)
        expected = fidelity(test, images)
        for name in ("precision", "recall", "density", "coverage"):
            assert found.figures[f"{prefix}{name}"].value == pytest.approx(getattr(expected, name), abs=1e-6)
    assert found.figures["frechet"].value != pytest.approx(found.figures["train_frechet"].value, rel=0.01)


def test_how_near_samples_are_to_training_images(measured):
    found, samples, real, (_, data, features) = measured
    distance, number = nearest(samples, real.train, 5)
    assert torch.allclose(found.nearest.samples, distance[:, 0], atol=1e-5)
    assert torch.allclose(found.nearest.test, nearest(real.test, real.train)[0][:, 0], atol=1e-5)
    closest = found.nearest.closest
    assert closest.tolist() == distance[:, 0].argsort()[:8].tolist()
    assert torch.equal(found.nearest.training, real.rows[number[closest]])
    assert torch.allclose(features(found.drawn), samples[closest], atol=1e-5)
    beside = data.batch("train", found.nearest.training[0].tolist())[0]
    away = (features(beside) - samples[closest[0]]).norm(dim=1)
    assert torch.allclose(away, distance[closest[0]], atol=1e-4) and away.tolist() == sorted(away.tolist())
    limit = found.nearest.test.quantile(0.05)
    share = (found.nearest.samples < limit).float().mean().item()
    assert found.figures["near_training"].value == pytest.approx(share)


def test_samples_that_are_training_images_are_near_them():
    """A model that has learned them by heart."""
    vae, data = parts()
    real = real_features(data, Plain(), QualitySettings(30), plain)
    images = data.batch("train", range(30))[0]
    vae.sample = lambda num, y=None: images[:num]
    figures = quality(vae, data, Plain(), real, QualitySettings(30), plain).figures
    assert figures["near_training"].value < 0.5  # by other features
    features = Plain()
    features.name = "plain-3"
    real = real_features(data, features, QualitySettings(30), plain)
    assert quality(vae, data, features, real, QualitySettings(30), plain).figures["near_training"].value == 1
    data.train_on = "all"
    found = quality(vae, data, features, real, QualitySettings(30), plain).figures
    assert "near_training" not in found and not any(name.startswith("train_") for name in found)


def test_figures_of_reconstructions(measured):
    """Of the test images, in blocks, each by its seed."""
    found, _, real, (vae, data, features) = measured
    x = data.batch("test", range(40))[0]
    made = []
    for number, part in enumerate(x.split(16)):
        with fixed_noise(hashed_seed(2, 1, number), CPU):
            made.append(vae.reconstruct(part))
    y = torch.cat(made)
    blocks = [torch.cat(parts) for parts in zip(*reconstructions(vae, data, 40, 2), strict=True)]
    assert torch.equal(blocks[0], x) and torch.equal(blocks[1], y) and torch.equal(blocks[2], (y > 0.5).float())
    for name, values in (("psnr", psnr(x, y)), ("ssim", ssim(x, y))):
        value, error = found.figures[name][:2]
        assert value == pytest.approx(values.mean().item(), rel=1e-5)
        assert error == pytest.approx(values.std().item() / 40**0.5, rel=1e-4)
    distance = frechet(features((y > 0.5).float()).detach().double(), real.test.double())
    assert found.figures["reconstruction_frechet"].value == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("inverted", [False, True])
def test_lpips_is_between_means_and_images_as_the_files_have_them(inverted):
    vae, data = parts(f"data.invert={inverted}".lower())
    settings, seen = QualitySettings(20, seed=2), []

    def lpips(x, y):
        seen.append((x, y))
        return (x - y).flatten(1)[:, 0]

    real = real_features(data, Plain(), settings, plain)
    found = quality(vae, data, Plain(), real, settings, plain, lpips).figures["lpips"]
    x, means, _ = (torch.cat(parts) for parts in zip(*reconstructions(vae, data, 40, 2), strict=True))
    turned = (1 - x, 1 - means) if inverted else (x, means)
    assert all(torch.equal(torch.cat(one), other) for one, other in zip(zip(*seen, strict=True), turned, strict=True))
    expected = (turned[0] - turned[1]).flatten(1)[:, 0]
    assert found.value == pytest.approx(expected.mean().item()) and found.standard_error == pytest.approx(
        expected.std().item() / 40**0.5
    )
    assert "lpips" not in quality(vae, data, Plain(), real, settings, plain).figures


def test_small_images_have_no_ssim():
    words = ["data.image_shape=[1,8,8]"]
    vae, data = parts(*words)
    features = Plain()
    features.weight = nn.Parameter(torch.randn(64, 4))
    real = real_features(data, features, QualitySettings(20), plain)
    figures = quality(vae, data, features, real, QualitySettings(20, images=12), plain).figures
    assert "ssim" not in figures and "psnr" in figures


def test_samples_have_the_classes_of_the_test_images_that_are_measured(monkeypatch):
    """Not of all of them, which may be sorted by class."""
    vae, data = parts("conditional=true")
    data.test.images.y.copy_(torch.arange(40) // 20)
    settings, asked, sample = QualitySettings(20, images=12), [], vae.sample
    monkeypatch.setattr(vae, "sample", lambda num, y: (asked.append(y), sample(num, y))[1])
    quality(vae, data, Plain(), real_features(data, Plain(), settings, plain), settings, plain)
    assert torch.cat(asked).unique().tolist() == [0]


def test_few_training_images_are_all_neighbours():
    vae, data = parts()
    real = real_features(data, Plain(), QualitySettings(20), plain)
    few = Real(real.test, real.train[:3], real.rows[:3])
    found = quality(vae, data, Plain(), few, QualitySettings(6, images=6), plain).nearest.training
    assert found.shape == (6, 3) and all(set(row) == set(real.rows[:3].tolist()) for row in found.tolist())


def test_the_progress_of_sampling_is_shown():
    vae, data = parts()
    real, seen = real_features(data, Plain(), QualitySettings(20), plain), []
    quality(vae, data, Plain(), real, QualitySettings(20), lambda *given: seen.append(given[1:]) or plain(*given))
    assert seen[0] == ("sampling", 2)


def test_a_figure_that_is_not_finite_is_named(monkeypatch):
    vae, data = parts("data.binarization=none", "likelihood=gaussian")
    real = real_features(data, Plain(), QualitySettings(20), plain)
    monkeypatch.setattr(quality_module, "psnr", lambda x, y: torch.full((len(x),), torch.inf))
    with pytest.raises(NotFinite, match="quality of 20 samples: psnr is inf$"):
        quality(vae, data, Plain(), real, QualitySettings(20), plain)


def test_what_is_not_finite_is_an_error():
    vae, data = parts()
    real = real_features(data, Plain(), QualitySettings(20), plain)
    real = Real(real.test, real.train.fill_(torch.nan), real.rows)
    with pytest.raises((NotFinite, RuntimeError)):
        quality(vae, data, Plain(), real, QualitySettings(20), plain)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"samples": 0}, "samples=0: must be a positive integer"), ({"samples": 5}, "samples=5: must be at least 6"),
        ({"images": 3}, "images=3: must be at least 6"), ({"seed": -1}, "seed=-1: must be"),
        ({"samples": 1e4}, "samples=10000.0: must be a positive integer"),
    ],
)  # fmt: skip
def test_settings_are_checked(values, said):
    with pytest.raises(ConfigError, match=said):
        QualitySettings(**values)
