"""All measures of latents against factors: codes whose answers are known, and which codes and factors are taken."""

import logging
import math

import numpy as np
import pytest
import torch
from conftest import config

from cvae.build import build_data, build_vae
from cvae.data import Images
from cvae.errors import UserError
from cvae.evaluation import fixed_factors, known_factors, predicted
from cvae.evaluation.known_factors import Coded, at_the_end, coded, halves, measure, of_arrays, over_draws
from cvae.evaluation.report import test_batches as batches_of

SIZES = (3, 4, 5)


def grid(count, seed=0):
    """Factors (N, 3), drawn independently, the first of which has no order; and each as a number of variance 1."""
    factors = np.random.default_rng(seed).integers(0, SIZES, (count, 3))
    return factors, (factors - factors.mean(0)) / factors.std(0)


def mixed(count, seed=0, scale=0.3):
    """Codes of five latents, some of them mixtures of factors with noise, and the factors."""
    factors, numbers = grid(count, seed)
    noise = np.random.default_rng(seed + 1).normal(size=(count, 5))
    turned = np.array([[1, 0, 0, 0, 0], [0, 0.9, 0.4, 0, 0], [0, -0.4, 0.9, 0, 0]])
    return numbers @ turned + scale * noise, factors


CASES = ("factors", "turned and renamed", "rotated", "noise", "doubled", "inactive", "with noise", "other names")


def codes(case, factors, numbers):
    noise = np.random.default_rng(7).normal(size=numbers.shape)
    c = np.sqrt(0.5)
    return {
        "factors": numbers,
        "turned and renamed": -5 * numbers[:, [2, 0, 1]] + 3,
        "rotated": numbers @ np.array([[c, -c, 0], [c, c, 0], [0, 0, 1]]),
        "noise": noise,
        "doubled": np.concatenate([numbers, numbers], 1),
        "inactive": np.concatenate([numbers, np.full_like(numbers, 0.1)], 1),
        "with noise": np.concatenate([numbers, noise], 1),
        "other names": numbers,
    }[case]


def scores(case):
    """Each score of codes of 1,200 images, by one draw."""
    factors, numbers = grid(1200)
    if case == "other names":  # of the values of the last factor, as of categories
        factors = np.stack([*factors.T[:2], np.array([3, 0, 4, 1, 2])[factors[:, 2]]], 1)
    known = of_arrays(codes(case, factors, numbers), factors, ("shape", "x", "y"))
    figures = known_factors.of_information(known, 0)
    ((half, other, rng),) = halves(len(known.z), 1, 0)
    train, test = known.points(half), known.points(other)
    return {name: figure.value for name, figure in figures.items()} | {
        "sap_of_lines": known_factors.sap_of_lines(*train),
        "factor_vae": fixed_factors.factor_vae(train, test, rng),
        "beta_vae": predicted.beta_vae(train, test, rng),
        "sap": predicted.sap(train, test),
        "explicitness": predicted.explicitness(train, test),
        "lasso": predicted.dci_lasso(train, test),
        "trees": predicted.dci_trees(train, test, 0),
    }


@pytest.fixture(scope="module")
def answers():
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(predicted, "TREES", 300)
        patched.setattr(predicted, "POINTS", 1500)
        return {case: scores(case) for case in CASES}


@pytest.mark.parametrize("case", ["factors", "turned and renamed", "inactive", "with noise"])
def test_factors_themselves_have_the_best_scores(answers, case):
    """In any order and of any sign and scale; beside latents that are constant, or of noise."""
    found = answers[case]
    for name in ("mig", "modularity", "sap_of_lines", "factor_vae", "beta_vae", "explicitness"):
        assert found[name] > 0.98, name
    assert found["sap"] > 0.35  # lines tell the outermost of a few values alone
    assert found["trees"] == pytest.approx((1, 1, 1), abs=0.01)
    assert found["lasso"] == pytest.approx((1, 1, 1), abs=0.03)  # it shrinks what it predicts


def test_order_and_signs_change_nothing(answers):
    one, two = answers["factors"], answers["turned and renamed"]
    for name in ("mig", "modularity", "sap_of_lines", "explicitness", "lasso", "trees"):
        assert two[name] == pytest.approx(one[name], abs=1e-4), name


def test_names_of_categories_change_what_reads_them_as_numbers_alone(answers):
    """A factor whose values have no order is as good as any other, but for a line and a regression."""
    one, two = answers["factors"], answers["other names"]
    for name in ("mig", "modularity", "factor_vae", "beta_vae", "sap", "explicitness", "trees"):
        assert two[name] == pytest.approx(one[name], abs=0.01), name
    assert two["sap_of_lines"] < one["sap_of_lines"] - 0.2 and two["lasso"][2] < one["lasso"][2] - 0.2


def test_a_rotation_is_entangled_and_loses_nothing(answers):
    found = answers["rotated"]
    assert found["mig"] < 0.45 and found["sap_of_lines"] < 0.4 and found["factor_vae"] < 0.8
    assert found["trees"][0] < 0.7 and found["trees"][1] < 0.7 and found["trees"][2] > 0.97
    assert found["lasso"][0] < 0.7 and found["lasso"][2] > 0.95 and found["explicitness"] > 0.99


def test_noise_tells_nothing(answers):
    found = answers["noise"]
    for name in ("mig", "modularity", "sap_of_lines", "sap"):
        assert abs(found[name]) < 0.05, name
    assert found["lasso"] == (0, 0, 0) and found["explicitness"] == pytest.approx(0.5, abs=0.05)
    assert found["trees"][0] < 0.1 and found["trees"][1] < 0.1
    assert found["trees"][2] == pytest.approx(np.mean([1 / n for n in SIZES]), abs=0.06)  # chance
    assert found["factor_vae"] == pytest.approx(1 / 3, abs=0.06) and found["beta_vae"] == pytest.approx(1 / 3, abs=0.06)


def test_a_doubled_latent_has_no_gap(answers):
    """Each factor is told twice: not compact, and as disentangled as before."""
    found = answers["doubled"]
    assert found["mig"] == found["sap_of_lines"] == found["sap"] == 0
    assert found["modularity"] > 0.98 and found["factor_vae"] > 0.98 and found["trees"][0] > 0.98
    assert found["trees"][1] < 0.8


DISENT = {"mig": 0.5463244432466399, "sap": 0.3233333333, "sap_of_lines": 0.7022790282417016}
DISENT["dci"] = (0.5483984183, 0.6019829755, 0.858)  # by trees without a seed
OF_DRAWS = {"factor_vae": 0.9640, "beta_vae": 0.9680}  # over five seeds, whose deviation is 0.003 and 0.004


def test_agreement_with_disent():
    """disent 0.8.0 gives these figures of the same codes."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    known = of_arrays(*mixed(1000), ("a", "b", "c"))
    train, test = known.points(np.arange(500)), known.points(np.arange(500, 1000))
    assert known_factors.of_information(known, 0)["mig"].value == pytest.approx(DISENT["mig"], abs=1e-9)
    assert known_factors.sap_of_lines(*train) == pytest.approx(DISENT["sap_of_lines"], abs=1e-9)
    assert predicted.sap(train, test) == pytest.approx(DISENT["sap"], abs=0.01)
    assert predicted.dci_trees(train, test, 0) == pytest.approx(DISENT["dci"], abs=0.02)


def test_agreement_with_disentanglement_lib():
    """disentanglement_lib 1.5 gives these figures of the same codes; of latents of noise it has another modularity."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    known = of_arrays(*mixed(1000), ("a", "b", "c"))
    train, test = known.points(np.arange(500)), known.points(np.arange(500, 1000))
    informative = known._replace(z=known.z[:, :3])
    assert known_factors.of_information(informative, 0)["modularity"].value == pytest.approx(0.980172983797, abs=1e-9)
    assert known_factors.of_information(known, 0)["modularity"].value == pytest.approx(0.980172983797, abs=1e-9)
    assert predicted.explicitness(train, test) == pytest.approx(0.979930724556, abs=1e-4)


def test_scores_of_drawn_points_agree_with_both():
    """disent's FactorVAE score and disentanglement_lib's beta-VAE score, of any number of images of the same codes.

    Of 1,000 images FactorVAE's score is 0.06 lower here: a factor's value is then one of few images.
    """
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    known = of_arrays(*mixed(40_000, scale=1.0), ("a", "b", "c"))
    parts = known.points(np.arange(20_000)), known.points(np.arange(20_000, 40_000))
    for score, name in ((fixed_factors.factor_vae, "factor_vae"), (predicted.beta_vae, "beta_vae")):
        assert score(*parts, np.random.default_rng(0)) == pytest.approx(OF_DRAWS[name], abs=0.012), name


# Which codes, which factors


def test_codes_are_standardized_and_values_numbered():
    z = np.array([[1.0, 7.0, 0.0]] * 20 + [[3.0, 7.0, 4.0]] * 20)
    factors = np.array([[5, 2]] * 20 + [[9, 2]] * 20)
    known = of_arrays(z, factors, ("one", "two"))
    assert known.z[0].tolist() == [-1, 0, -1] and known.z[-1].tolist() == [1, 0, 1]
    assert known.names == ("one",) and known.factors.tolist() == [[0]] * 20 + [[1]] * 20


def test_factors_of_too_few_images_are_left_out(caplog):
    rare = np.arange(40) == 7  # one image, though there are 20 for each of its values in the mean
    factors = np.stack([np.arange(40) % 4, np.arange(40) % 5, np.zeros(40, int), rare], 1)
    with caplog.at_level(logging.INFO):
        known = of_arrays(np.random.default_rng(0).normal(size=(40, 2)), factors, ("four", "five", "none", "rare"))
    assert known.names == ("four",) and known.factors[:, 0].tolist() == factors[:, 0].tolist()
    assert "five is left out: 5 values in 40 images" in caplog.text and "none is left out: 1 values" in caplog.text
    with pytest.raises(UserError, match="no factor has two values and 10 images for each; there are 40 images"):
        of_arrays(np.zeros((40, 2)), factors[:, 1:], ("five", "none", "rare"))


def test_halves_are_halves():
    for half, other, _ in halves(11, 3, 0):
        assert len(half) == 5 and sorted([*half, *other]) == list(range(11))
    first, second = (part[0].tolist() for part in list(halves(1000, 2, 0)))
    again, another = next(iter(halves(1000, 1, 0)))[0].tolist(), next(iter(halves(1000, 1, 1)))[0].tolist()
    assert first == again != second and first != another


def test_figures_are_means_and_deviations_over_draws(monkeypatch):
    """Each draw learns from a half and is tested on the other, at most so many of each; seeds differ."""
    monkeypatch.setattr(known_factors, "POINTS", 40)
    known = Coded(np.arange(100.0)[:, None], np.arange(100)[:, None], ("a",))
    seen = []

    def score(train, test, rng):
        assert train[0][:, 0].tolist() == train[1][:, 0].tolist() and test[0][:, 0].tolist() == test[1][:, 0].tolist()
        assert not set(train[1].ravel()) & set(test[1].ravel()) and (len(train[0]), len(test[0])) == (40, 20)
        seen.append((train[0].mean(), rng.random()))
        return seen[-1]

    figures = over_draws(known, score, {"a": "A", "b": "B"}, 4, 0)
    for n, name in enumerate("ab"):
        values = [pair[n] for pair in seen]
        assert figures[name].value == pytest.approx(np.mean(values)) and len(set(values)) == 4
        expected = np.std(values, ddof=1) * math.sqrt(40 / 60 + 1 / 4)
        assert figures[name].standard_error == pytest.approx(expected) and figures[name].meaning == "AB"[n]


@pytest.mark.parametrize(("count", "most"), [(300, 150), (300, 40), (1500, 100)])
def test_errors_are_those_of_fresh_images(count, most):
    """Of halves, and of parts that are much smaller than the half."""

    def figure(seed):
        known = of_arrays(*mixed(count, 2 * seed), "abc")
        return over_draws(known, lambda a, _, __: known_factors.sap_of_lines(*a), {"a": ""}, 5, seed, most)["a"]

    figures = [figure(seed) for seed in range(150)]
    deviation = np.std([figure.value for figure in figures], ddof=1)
    told = np.mean([figure.standard_error**2 for figure in figures]) ** 0.5
    assert told == pytest.approx(deviation, rel=0.25)


def test_the_error_of_mig_is_that_of_another_sample():
    """Against the deviation over fresh samples of images."""
    others = [known_factors.of_information(of_arrays(*mixed(600, seed), "abc"), 0)["mig"] for seed in range(0, 60, 2)]
    deviation = np.std([figure.value for figure in others], ddof=1)
    assert np.mean([figure.standard_error for figure in others]) == pytest.approx(deviation, rel=0.4)


def test_pairs_share_their_factor_and_draw_the_others():
    factors, _ = grid(3000)
    fixed, rng = fixed_factors.Fixed(factors), np.random.default_rng(0)
    one = rng.integers(0, 3000, (400, 30))
    for f in range(3):
        two = fixed.like(one, f, rng)
        same = (factors[one] == factors[two]).mean((0, 1))
        expected = [1 if g == f else 1 / n for g, n in enumerate(SIZES)]
        assert same == pytest.approx(expected, abs=0.02)
        drawn, value = set(two[factors[one, f] == 1]), set((factors[:, f] == 1).nonzero()[0])
        assert drawn <= value and len(drawn) > 0.9 * len(value)  # from all of them


def test_points_of_both_scores_by_value():
    """Codes are the factors: of pairs that share one the difference is 0 there, and it varies least, not at all."""
    factors, numbers = grid(2000)
    apart, of = fixed_factors.differences(numbers, factors, 700, np.random.default_rng(0))
    assert apart.shape == (700, 3) and (apart[np.arange(700), of] == 0).all() and (apart > 0).sum() == 1400
    expected = [np.abs(numbers[:, None, f] - numbers[None, :, f]).mean() for f in range(3)]
    assert [apart[of != f, f].mean() for f in range(3)] == pytest.approx(expected, rel=0.03)
    assert np.bincount(of) == pytest.approx([233] * 3, abs=60)
    constant = np.concatenate([np.ones((2000, 1)), numbers], 1)
    found = fixed_factors.votes(constant, factors, 700, np.random.default_rng(0))
    assert found.sum() == 700 and np.count_nonzero(found) == 3 and np.diag(found[:, 1:]).all()
    train = np.ones((2000, 2)), factors
    assert fixed_factors.factor_vae(train, train, np.random.default_rng(0)) == 0


def test_variances_are_compared_by_their_scale():
    """A latent that varies little as a whole does not win for that."""
    factors, numbers = grid(2000)
    noise = 0.01 * np.random.default_rng(0).normal(size=(2000, 1))
    codes = np.concatenate([numbers + 0.1 * np.random.default_rng(1).normal(size=numbers.shape), noise], 1)
    assert fixed_factors.votes(codes, factors, 600, np.random.default_rng(0))[:, 3].sum() == 0


def test_points_come_in_blocks_and_all_of_them():
    factors, numbers = grid(300)
    assert (fixed_factors.POINTS, fixed_factors.DRAWN) == (5000, 64)
    rng = np.random.default_rng(0)
    assert fixed_factors.votes(numbers, factors, 4000, rng).sum() == 4000  # more than a block of each factor
    assert len(fixed_factors.differences(numbers, factors, 4000, rng)[0]) == 4000


def test_scores_learn_from_training_points_and_are_of_half_as_many_test_points(monkeypatch):
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    train, test, asked = (np.eye(3), "factors"), (np.ones((3, 3)), "others"), []
    votes = {"factors": [[5, 1, 0], [2, 4, 1]], "others": [[3, 2, 1], [1, 4, 9]]}
    monkeypatch.setattr(fixed_factors, "votes", lambda z, f, n, _: asked.append((z, f, n)) or np.array(votes[f]))
    assert fixed_factors.factor_vae(train, test, np.random.default_rng(0)) == (3 + 4 + 9) / 20
    assert asked == [(train[0], "factors", 5000), (test[0], "others", 2500)]
    points = {"factors": ([[0.0], [1], [0], [1]] * 9, [0, 1] * 18), "others": ([[0.0], [1], [1], [0]], [0, 1, 1, 1])}
    monkeypatch.setattr(predicted, "differences", lambda z, f, n, _: asked.append((z, f, n)) or points[f])
    assert predicted.beta_vae(train, test, np.random.default_rng(0)) == 3 / 4
    assert asked[2:] == asked[:2]


class Fitted:
    """In the place of a model of scikit-learn: what it is given, and results that are known."""

    def __init__(self, seen, found, **how):
        self.seen, self.found = seen, found
        seen.append(how)

    def fit(self, z, factor):
        self.seen.append((len(z), factor[0]))
        self.coef_ = self.feature_importances_ = np.array(self.found[factor[0]][0])
        self.of = factor[0]
        return self

    def score(self, z, factor):
        self.seen.append((len(z), factor[0]))
        return self.found[self.of][1]


def test_dci_by_hand(monkeypatch):
    """Of three latents and two factors, each with an importance of the latents and a share that is right."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    seen, first, second = [], [0.9, 0.1, 0.0], [0.2, 0.2, 0.6]
    importance = np.array([first, second]).T
    expected = predicted.concentration(importance), predicted.concentration(importance.T)
    found = {1: (first, 0.5), 2: (second, 0.75)}
    monkeypatch.setattr("sklearn.ensemble.GradientBoostingClassifier", lambda **how: Fitted(seen, found, **how))
    train, test = (
        (np.zeros((5000, 3)), np.tile(numbers, (2500, 1))) for numbers in ([[1, 2], [0, 0]], [[3, 4], [0, 0]])
    )
    assert predicted.dci_trees(train, test, 6) == pytest.approx((*expected, 0.625))
    assert {"random_state": 6} in seen and sorted(part for part in seen if type(part) is tuple) == [
        (1000, 3), (1000, 4), (2000, 1), (2000, 2),
    ]  # fmt: skip


def test_dci_by_lasso_by_hand(monkeypatch):
    """Factors are standardized as those learned from; a factor that is told worse than by its mean counts as 0."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    seen, first, second = [], [0.9, -0.1, 0.0], [0.2, -0.2, 0.6]
    importance = np.abs([first, second]).T
    expected = predicted.concentration(importance), predicted.concentration(importance.T)
    found = {-1: (first, -3.0), 1: (second, 0.75)}
    monkeypatch.setattr("sklearn.linear_model.Lasso", lambda **how: Fitted(seen, found, **how))
    train = np.zeros((400, 3)), np.array([[1, 9], [3, 5]] * 200)  # means 2 and 7, deviations 1 and 2
    test = np.zeros((30, 3)), np.array([[4, 1]] * 30)
    assert predicted.dci_lasso(train, test) == pytest.approx((*expected, 0.375))
    assert [part for part in seen if type(part) is dict] == [{"alpha": 4 / 20}] * 2
    assert [part for part in seen if type(part) is tuple] == [(400, -1), (400, 1), (30, 2), (30, -3)]


def test_explicitness_of_values_that_the_test_points_lack():
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    z, factor = np.arange(30.0)[:, None] / 10, np.repeat([0, 1, 2], 10)[:, None]
    assert predicted.explicitness((z, factor), (z[:20], factor[:20])) == 1


def test_a_draw_may_lack_all_but_one_value_of_a_factor():
    """To learn from, or to test with: such a factor counts as one of which nothing is known."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    z, factors = np.tile([[-1.0, 0.5], [1.0, 0.5]], (40, 1)), np.tile([[0, 0], [1, 0]], (40, 1))
    rare = factors.copy()
    rare[:20, 1] = 1
    assert predicted.sap((z, factors), (z, rare)) == pytest.approx(0.5 / 2)
    assert predicted.dci_trees((z, factors), (z, rare), 0) == pytest.approx((1, 1, (1 + 0.75) / 2))
    assert predicted.explicitness((z, factors), (z, rare)) == pytest.approx(0.75)
    assert predicted.explicitness((z, rare), (z, factors)) == pytest.approx(0.75)
    one = np.tile([[0], [1]], (40, 1))
    assert predicted.beta_vae((z, one), (z, one), np.random.default_rng(0)) == 1  # there is one factor to be named


def test_concentration_by_hand():
    importance = np.array([[0.9, 0.0, 0.1], [0.1, 0.2, 0.1]])
    first = 1 + (0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / np.log(3)
    second = 1 + (0.25 * np.log(0.25) * 2 + 0.5 * np.log(0.5)) / np.log(3)
    assert predicted.concentration(importance) == pytest.approx((first * 1 + second * 0.4) / 1.4, abs=1e-6)
    assert predicted.concentration(np.zeros((2, 3))) == 0 and predicted.concentration(np.ones((2, 1))) == 1


def test_all_measures_with_what_they_are_of(monkeypatch):
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[measures]'")
    for module in (fixed_factors, predicted):
        monkeypatch.setattr(module, "POINTS", 500)
    monkeypatch.setattr(predicted, "TREES", 100)
    known = of_arrays(*mixed(300), ("a", "b", "c"))
    seen = []
    found = measure(known, 0, lambda rows: [seen.append(len(rows)), *rows][1:])
    assert list(found.figures) == [
        "mig", "modularity", "factor_vae_score", "sap_of_lines", "beta_vae_score", "sap", "dci_disentanglement",
        "dci_completeness", "dci_informativeness", "dci_lasso_disentanglement", "dci_lasso_completeness",
        "dci_lasso_informativeness", "explicitness",
    ]  # fmt: skip
    assert seen == [7] and found.told.shape == (5, 3) and (found.told <= 1).all()
    assert found.figures["mig"].meaning == "MIG, 20 bins, 300 images"
    assert found.figures["dci_completeness"].meaning == "DCI completeness, boosted trees, 100 images"
    assert all(0 <= figure.value <= 1 and figure.standard_error >= 0 for figure in found.figures.values())


def test_without_scikit_learn_the_others_are_measured(monkeypatch, caplog):
    monkeypatch.setattr(known_factors, "find_spec", lambda name: None)
    monkeypatch.setattr(fixed_factors, "POINTS", 500)
    with caplog.at_level(logging.INFO):
        found = measure(of_arrays(*mixed(300), ("a", "b", "c")), 0)
    assert list(found.figures) == ["mig", "modularity", "factor_vae_score", "sap_of_lines"]
    assert "need scikit-learn: pip install -e '.[measures]'" in caplog.text


# Of a model


def model(*words):
    """A model of sprites with two latents, and its data."""
    small = ["rotation=4", "x=4", "y=4", "train_size=10", "test_size=200"]
    cfg = config(
        "data=sprites", "data.image_shape=[1,16,16]", *(f"data.source.{word}" for word in small),
        "model.latent_dim=2", *(words if "model=ladder" in words else ["model=mlp", "model.hidden=[4]", *words]),
    )  # fmt: skip
    data, vae = build_data(cfg), build_vae(cfg).eval()
    data.setup()
    return vae, data


@pytest.mark.parametrize("words", [[], ["conditional=true"], ["model=ladder", "model.width=4"]])
def test_codes_are_the_means_of_the_images_asked_for(words):
    vae, data = model(*words)
    chosen = [1, 3, *range(50, 198)]
    known = coded(vae, batches_of(vae, data, chosen, torch.device("cpu")), data.test.images, chosen, 0)
    x, y = data.batch("test", chosen)
    with torch.no_grad():
        z = vae.encode(x, vae.labels(y)).mean.double()
    torch.testing.assert_close(torch.from_numpy(known.z), (z - z.mean(0)) / z.std(0, correction=0), atol=1e-4, rtol=0)
    assert known.names == ("shape", "size", "rotation", "x", "y")
    assert known.factors.tolist() == data.test.images.factors[chosen].tolist()


def test_on_a_sphere_the_direction_counts():
    vae, data = model("posterior=power_spherical", "prior=uniform_sphere", "model.latent_dim=3")
    known = coded(vae, batches_of(vae, data, range(200), torch.device("cpu")), data.test.images, range(200), 0)
    with torch.no_grad():
        z = vae.encode(data.batch("test", range(200))[0], None).loc.double()
    assert np.allclose(known.z, (z - z.mean(0)) / z.std(0, correction=0), atol=1e-4)


def test_what_cannot_be_measured_is_said(caplog):
    vae, data = model("posterior=categorical", "prior=uniform")
    of_codes = batches_of(vae, data, range(20), torch.device("cpu"))
    with pytest.raises(UserError, match="this model's are codes, which have no order"):
        coded(vae, of_codes, data.test.images, range(20), 0)
    assert at_the_end(vae, of_codes, data.test.images, range(20), 0) == {}
    vae, data = model()
    without = data.test.images._replace(factors=None)
    with pytest.raises(UserError, match="these data have no known factors"):
        coded(vae, [], without, range(0), 0)
    assert at_the_end(vae, [], without, range(0), 0) == {}
    with caplog.at_level(logging.INFO):
        few = batches_of(vae, data, range(19), torch.device("cpu"))
        assert at_the_end(vae, few, data.test.images, range(19), 0) == {}
    assert "No MIG: no factor has two values" in caplog.text


def test_the_end_of_a_run_has_mig():
    vae, data = model()
    ended = at_the_end(vae, batches_of(vae, data, range(200), torch.device("cpu")), data.test.images, range(200), 3)
    known = coded(vae, batches_of(vae, data, range(200), torch.device("cpu")), data.test.images, range(200), 3)
    assert ended == {"mig": known_factors.of_information(known, 3)["mig"]}


def test_factors_without_names_have_numbers():
    vae, data = model()
    images = Images(*data.test.images[:3])
    known = coded(vae, batches_of(vae, data, range(200), torch.device("cpu")), images, range(200), 0)
    assert known.names == ("factor 0", "factor 1", "factor 2", "factor 3", "factor 4")
