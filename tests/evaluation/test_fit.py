"""Densities fitted to draws: they find the one that the draws come from."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from cvae.errors import UserError
from cvae.evaluation import fit as module
from cvae.evaluation.fit import descend, fit, maximize_expectation, maximized, nll, split, spread_out, start
from cvae.priors import FlowPrior, MixtureOfGaussians, Prior, Standardized, StandardNormal


def three_spots():
    components = Normal(torch.tensor([[-6.0, 0.0], [0.0, 5.0], [6.0, -5.0]]), torch.tensor([[0.5], [1.0], [2.0]]))
    return MixtureSameFamily(Categorical(torch.tensor([0.5, 0.3, 0.2])), Independent(components, 1))


def test_expectation_maximization_finds_the_mixture():
    torch.manual_seed(3)
    p, prior = three_spots(), MixtureOfGaussians(2, components=3)
    z = p.sample((6000,))
    found = fit(prior, z, range(60))
    others = p.sample((4000,))
    assert found == pytest.approx(-p.log_prob(others).mean().item(), abs=0.12)
    order = prior.mean[:, 0].argsort()
    torch.testing.assert_close(prior.mean[order], p.component_distribution.mean, atol=0.25, rtol=0)
    torch.testing.assert_close(prior.logits.softmax(0)[order], torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)
    scale = (prior.logvar / 2).exp()[order]
    torch.testing.assert_close(scale, p.component_distribution.stddev, atol=0.15, rtol=0)


@pytest.mark.parametrize("spots", [1, 3])
def test_few_draws_are_not_learned_by_heart(spots):
    """60 draws in 14 dimensions, and room for 50 components: others of the same density stay about as likely."""
    for seed in range(4):
        torch.manual_seed(seed)
        components = Independent(Normal(3 * torch.randn(spots, 14), torch.rand(spots, 14) + 0.3), 1)
        p, prior = MixtureSameFamily(Categorical(torch.ones(spots)), components), MixtureOfGaussians(14, components=50)
        fit(prior, p.sample((60,)), range(50))
        others = p.sample((2000,))
        assert nll(prior(), others) < nll(p, others) + 3
        assert len(prior.mean) == len(prior.logits) == len(prior.logvar) <= 4  # of 48 draws to fit to, 10 to each


def test_as_many_components_as_there_are():
    """Four far apart in one dimension: 3 are too few."""
    torch.manual_seed(0)
    p = MixtureSameFamily(Categorical(torch.ones(4)), Normal(torch.arange(4.0) * 10, 1.0))
    prior = MixtureOfGaussians(1, components=4)
    fit(prior, p.sample((1000, 1)), range(50))
    assert len(prior.mean) == 4 and (prior.mean.sort(0).values[:, 0] - 10 * torch.arange(4)).abs().max() < 0.4
    prior = MixtureOfGaussians(1, components=40)
    fit(prior, p.sample((1000, 1)), range(50))
    others = p.sample((2000, 1))
    assert nll(prior(), others) < -p.log_prob(others[:, 0]).mean() + 0.15


def test_the_figure_is_of_draws_that_nothing_was_chosen_by():
    """The draws that measure change the figure alone; those that choose change what is kept."""
    z, found = three_spots().sample((400,)), []
    for changed in (None, 9, 8):
        other = z.clone()
        if changed:
            other[changed::10] = torch.randn(40, 2) + 20
        torch.manual_seed(0)
        prior = MixtureOfGaussians(2, components=12)
        found.append((fit(prior, other, range(20)), prior.mean.detach()))
        assert found[-1][0] == pytest.approx(-prior().log_prob(other[9::10]).mean().item(), rel=1e-5)
    assert torch.equal(found[0][1], found[1][1]) and found[1][0] > found[0][0] + 10
    assert found[0][1].shape != found[2][1].shape or not torch.equal(found[0][1], found[2][1])


def standardized(z, by):
    return ((z - by.mean(0)) / by.std(0, correction=0)).double()


def test_a_mixture_is_fitted_no_longer_than_others_get_more_likely():
    torch.manual_seed(0)
    used, prior = [], MixtureOfGaussians(2, components=10)
    z, others = torch.randn(2, 100, 2)
    maximize_expectation(prior, z, others, (used.append(number) for number in range(500)))
    assert 5 <= len(used) < 100
    kept = nll(prior(), others) - z.std(0, correction=0).log().sum().item()
    longer = start(standardized(z, z), 10)[0]
    for _ in range(500):
        longer = longer.updated(standardized(z, z))
    assert kept < longer.nll(standardized(others, z)) - 0.05


def test_each_round_makes_the_draws_more_likely():
    """But for the draw that each variance counts in addition, which is one of 500 here."""
    z = three_spots().sample((500,))
    z, found = standardized(z, z), []
    mixture = start(z, 3)[0]
    for _ in range(6):
        found.append(mixture.nll(z))
        mixture = mixture.updated(z)
    assert all(after < before + 0.01 for before, after in pairwise(found)) and found[0] > found[-1]


def test_one_round_by_hand():
    """Two components in one dimension; a variance has one more draw, of 2^(-2/1) = 1/4."""
    z, share = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    mixture = maximized(z, share)
    assert mixture.weight.tolist() == pytest.approx([2 / 3, 1 / 3]) and mixture.mean.tolist() == [[1.0], [9.0]]
    assert mixture.variance[:, 0].tolist() == pytest.approx([(2 + 0.25) / 3, 0.25 / 2])
    four = maximized(torch.randn(9, 2), torch.full((9, 4), 0.25))
    assert four.variance.shape == (4, 2) and torch.allclose(four.weight, torch.full((4,), 0.25))
    joint = mixture.log_joint(z).exp()
    by_hand = [[w * Normal(m, v**0.5).log_prob(x).exp().item() for w, m, v in zip(
        mixture.weight.tolist(), mixture.mean[:, 0].tolist(), mixture.variance[:, 0].tolist(), strict=True
    )] for x in z[:, 0]]  # fmt: skip
    torch.testing.assert_close(joint.float(), torch.tensor(by_hand))


def test_a_latent_that_never_changes_has_a_small_variance():
    z = torch.cat([torch.randn(300, 1), torch.full((300, 1), 7.0)], 1)
    prior = MixtureOfGaussians(2, components=5)
    assert math.isfinite(fit(prior, z, range(5)))
    assert all(value.isfinite().all() for value in prior.state_dict().values())
    torch.testing.assert_close(prior().sample((9,))[:, 1], torch.full((9,), 7.0), atol=1e-4, rtol=0)


def test_a_mixture_does_not_mind_units():
    """The same draws in other units and far from 0: the same mixture in these units."""
    z, found = three_spots().sample((600,)), []
    for loc, scale in ((0.0, 1.0), (torch.tensor([1e3, -50.0]), torch.tensor([1e-2, 30.0]))):
        torch.manual_seed(0)
        prior = MixtureOfGaussians(2, components=6)
        fit(prior, z.double() * scale + loc, range(5))
        found.append(((prior.mean - loc) / scale, prior.logvar.exp() / torch.as_tensor(scale) ** 2))
    for ours, other in zip(*found, strict=True):
        torch.testing.assert_close(ours, other, atol=0.02, rtol=1e-3)


def test_a_mixture_is_fitted_where_the_draws_are():
    """On a device without a single number: whatever were made on the CPU would not go with it."""
    z = torch.empty(100, 2, device="meta")
    (mixture, *_) = start(z, 3)
    assert spread_out(z, 3).device == mixture.updated(z).mean.device == z.device


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_draws_are_refused(count):
    prior = MixtureOfGaussians(2, components=3)
    with pytest.raises(UserError, match=f"^{count} training images: must be at least 10, one of which ends the fit"):
        fit(prior, torch.randn(count, 2), range(3))
    assert math.isfinite(fit(prior, torch.randn(10, 2), range(3)))


def test_the_start_is_spread_over_the_draws():
    """A point far away is chosen first, wherever one begins; no point twice."""
    z = torch.cat([torch.randn(200, 2) * 0.01, torch.tensor([[100.0, 0.0], [0.0, 100.0]])])
    for _ in range(5):
        chosen = spread_out(z, 3)
        assert {tuple(point) for point in (chosen / 100).round().abs().tolist()} == {(0, 0), (1, 0), (0, 1)}
    assert len(spread_out(torch.zeros(3, 2), 5)) == 5  # fewer points than means


class Shifted(Prior):
    """N(mean, I) with a learned mean."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(2))

    def forward(self, encode=None):
        return Independent(Normal(self.mean, 1.0), 1)


def test_other_priors_go_downhill():
    prior, z = Shifted(), torch.randn(3000, 2) + torch.tensor([0.3, -0.2])
    fit(prior, z, range(60))
    torch.testing.assert_close(prior.mean.detach(), z.mean(0), atol=0.1, rtol=0)


def test_fitting_ends_when_others_get_no_more_likely():
    """The draws to fit lead away from the others: the best weights are those of the start, after 5 more rounds."""
    prior, used = Shifted(), []
    rounds = (used.append(number) for number in range(100))
    descend(prior, torch.randn(2000, 2) + 3, torch.zeros(10, 2) - 3, rounds)
    assert len(used) == 5 and prior.mean.tolist() == [0, 0]


def test_the_draws_are_dealt_out_in_turn():
    fitted, choosing, measuring = split(torch.arange(25))
    assert choosing.tolist() == [8, 18] and measuring.tolist() == [9, 19]
    assert sorted([*fitted.tolist(), 8, 18, 9, 19]) == list(range(25))


def test_another_prior_has_draws_to_fit_to_and_to_choose_by(monkeypatch):
    z, seen = torch.arange(100.0)[:, None].expand(100, 2), []
    monkeypatch.setattr(module, "descend", lambda prior, *draws: seen.extend(draws))
    found = fit(prior := StandardNormal(2), z, range(1))
    fitted, choosing, measuring = split(z)
    assert torch.equal(seen[0], fitted) and torch.equal(seen[1], choosing)
    assert found == pytest.approx(-prior().log_prob(measuring).mean().item())


def test_a_flow_of_latents_in_another_unit():
    """They are far outside of where a spline flow bends."""
    torch.manual_seed(0)
    z = torch.randn(3000, 2) * torch.tensor([0.01, 50.0]) + torch.tensor([3.0, -200.0])
    prior = Standardized(2, None, partial(FlowPrior, transforms=1, hidden=8, bins=4))
    found = fit(prior, z, range(3))
    p = Independent(Normal(torch.tensor([3.0, -200.0]), torch.tensor([0.01, 50.0])), 1)
    assert found == pytest.approx(p.entropy().item(), abs=0.15)
    torch.testing.assert_close(prior.loc, torch.tensor([3.0, -200.0]), atol=3, rtol=0)
    drawn = prior().sample((2000,))
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.01, 50.0]), atol=0, rtol=0.15)


def test_a_standardized_prior_by_hand():
    prior = Standardized(2, None, StandardNormal)
    prior.loc, prior.scale = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5])
    p, z = Independent(Normal(prior.loc, prior.scale), 1), torch.randn(5, 2)
    torch.testing.assert_close(prior().log_prob(z), p.log_prob(z))
    torch.manual_seed(4)
    own = prior().sample((5,))
    torch.manual_seed(4)
    torch.testing.assert_close(own, p.sample((5,)))
    assert set(Standardized(2, None, FlowPrior).state_dict()) >= {"loc", "scale"}


def test_a_latent_that_never_changes():
    z = torch.cat([torch.randn(500, 1), torch.ones(500, 1)], 1)
    prior = Standardized(2, None, partial(FlowPrior, transforms=1, hidden=4, bins=2))
    fit(prior, z, range(1))
    assert prior.scale[1].item() == pytest.approx(1e-6) and prior().sample((3,)).isfinite().all()
