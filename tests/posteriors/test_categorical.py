"""Categorical codes: one-hot draws, their gradient and their temperature."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from cvae.distributions import Codes, OneHots
from cvae.errors import ConfigError
from cvae.posteriors import Categorical
from cvae.schedules import Cyclical, Linear

F64 = torch.float64


def test_categorical_by_hand():
    """Features are (classes, M) flattened."""
    posterior = Categorical(2, classes=3).eval()
    features = torch.randn(1, 6)
    q = posterior(features)
    for codes in ([0, 2], [1, 1]):
        z = posterior.write(torch.tensor([codes]))
        expected = sum(features[0, m::2].log_softmax(0)[code] for m, code in enumerate(codes))
        torch.testing.assert_close(q.log_prob(z), expected[None])
    torch.testing.assert_close(q.mean.view(3, 2), features.view(3, 2).softmax(0))
    assert posterior.write(torch.tensor([2, 0])).tolist() == [0, 1, 0, 0, 1, 0]


def test_straight_through_gradient_by_its_definition():
    """That of softmax((logits + g) / temperature) at the same noise, for a one-hot draw."""
    logits, weight = torch.randn(1, 4, 2, dtype=F64, requires_grad=True), torch.randn(8, dtype=F64)
    torch.manual_seed(1)
    hard = OneHots(logits, 0.7).rsample((5,))
    torch.manual_seed(1)
    gumbel = -torch.empty(5, 1, 4, 2, dtype=F64).exponential_().log()
    soft = ((logits.log_softmax(-2) + gumbel) / 0.7).softmax(-2).flatten(-2)
    assert torch.equal(hard.unflatten(-1, (4, 2)).argmax(-2), soft.unflatten(-1, (4, 2)).argmax(-2))
    assert set(hard.unique().tolist()) == {0, 1}
    ours, expected = (torch.autograd.grad((z * weight).sum(), logits)[0] for z in (hard, soft))
    torch.testing.assert_close(ours, expected)
    torch.manual_seed(1)
    torch.testing.assert_close(OneHots(logits, 0.7, relaxed=True).rsample((5,)), soft)


def test_relaxed_draws_are_for_training_alone():
    posterior = Categorical(2, classes=3, gradient="relaxed", temperature=2.0)
    features = torch.randn(4, 6)
    assert posterior(features).rsample().unique().numel() > 2
    assert posterior(features).sample().unique().tolist() == [0, 1]
    assert posterior.eval()(features).rsample().unique().tolist() == [0, 1]
    assert Categorical(2, classes=3)(features).rsample().unique().tolist() == [0, 1]


def test_the_temperature_follows_the_training_steps():
    posterior, features = Categorical(2, temperature=Linear(1.0, 0.5, 4)), torch.randn(3, 20)
    assert [posterior(features).temperature.item() for _ in range(6)] == [1, 0.875, 0.75, 0.625, 0.5, 0.5]
    with torch.no_grad():
        posterior(features)
    posterior.eval()(features)
    assert posterior.steps == 6, "only training counts"
    again = Categorical(2, temperature=Linear(1.0, 0.5, 4))
    again.load_state_dict(posterior.state_dict())
    assert again(features).temperature == 0.5


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("classes", 0, "a positive integer"),
        ("gradient", "hard", "one of straight_through, relaxed"),
        ("temperature", 0, "a finite number above 0"),
        ("temperature", Cyclical(1.0, 0.0, 1000), "a finite number above 0"),
        ("temperature", "hot", r"a finite number of at least 0, or a schedule \(as in posterior/temperature=linear\)"),
        ("temperature", Linear(1.0, 0, 10), "a finite number above 0"),
        ("temperature", Linear(0, 1.0, 10), "a finite number above 0"),
    ],
)
def test_impossible_options_are_refused(key, value, allowed):
    with pytest.raises(ConfigError, match=rf"^{key}=.*: must be {allowed}$"):
        Categorical(2, **{key: value})


def test_no_closed_form_for_codes_that_depend_on_each_other():
    p = Codes(Independent(Normal(torch.zeros(2), 1.0), 1), None, None, 6, 3)
    with pytest.raises(NotImplementedError):
        kl_divergence(OneHots(torch.zeros(1, 3, 2)), p)
