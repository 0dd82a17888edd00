"""Densities fitted to draws: they find the one that the draws come from."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from cvae.errors import UserError
from cvae.evaluation import fit as module
from cvae.evaluation.fit import descend, fit, maximize_expectation, spread_out, surprise
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


def test_each_round_makes_the_draws_more_likely():
    z, found = three_spots().sample((500,)), []
    for rounds in (1, 2, 4, 8):
        torch.manual_seed(0)
        prior = MixtureOfGaussians(2, components=3)
        maximize_expectation(prior, z, range(rounds))
        found.append(surprise(prior(), z))
    assert found == sorted(found, reverse=True) and found[0] > found[-1]


def test_one_round_by_hand():
    """From means at the two points that there are: each point's share is its own component's."""
    z = torch.tensor([[0.0], [0.0], [0.0], [10.0]])
    prior = MixtureOfGaussians(1, components=2)
    maximize_expectation(prior, z, range(30))
    order = prior.mean[:, 0].argsort()
    assert prior.mean[order, 0].tolist() == pytest.approx([0, 10], abs=1e-3)
    assert prior.logits.softmax(0)[order].tolist() == pytest.approx([0.75, 0.25], abs=1e-4)
    assert prior.logvar.exp()[:, 0].tolist() == pytest.approx([1e-6 * 18.75] * 2, rel=1e-3)  # no smaller


def test_a_mixture_is_fitted_where_the_draws_are():
    """On a device without a single number: whatever were made on the CPU would not go with it."""
    z, prior = torch.empty(100, 2, device="meta"), MixtureOfGaussians(2, components=3).to("meta")
    maximize_expectation(prior, z, range(2))
    assert spread_out(z, 3).device == prior.mean.device == z.device


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_draws_are_refused(count):
    prior = MixtureOfGaussians(2, components=3)
    with pytest.raises(UserError, match=f"^{count} training images: must be at least 10, one of which is held out"):
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
    torch.testing.assert_close(prior.mean.detach(), z.mean(0), atol=0.05, rtol=0)


def test_fitting_ends_when_others_get_no_more_likely():
    """The draws to fit lead away from the others: the best weights are those of the start, after 5 more rounds."""
    prior, used = Shifted(), []
    rounds = (used.append(number) for number in range(100))
    descend(prior, torch.randn(2000, 2) + 3, torch.zeros(10, 2) - 3, rounds)
    assert len(used) == 5 and prior.mean.tolist() == [0, 0]


def test_every_tenth_draw_is_held_out():
    z = torch.zeros(100, 2)
    z[9::10] = 1.0
    seen = []
    prior = StandardNormal(2)
    original = module.descend
    try:
        module.descend = lambda prior, kept, others, rounds: seen.append((kept, others))
        found = fit(prior, z, range(1))
    finally:
        module.descend = original
    ((kept, others),) = seen
    assert torch.equal(kept, torch.zeros(90, 2)) and torch.equal(others, torch.ones(10, 2))
    assert found == pytest.approx(-prior().log_prob(torch.ones(2)).item())


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
