"""Draws as a function of noise: they have the distribution, and a temperature scales their noise."""

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, OneHotCategorical
from zuko.flows import NSF

from cvae.distributions import Mixture, TriangularNormal, from_noise
from cvae.posteriors import IAF
from cvae.priors import FlowPrior, MixtureOfGaussians

NUM = 40000


def diagonal():
    return Independent(Normal(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1.0, 2.0])), 1)


def triangular():
    tril = torch.tensor([[1.0, 0, 0], [0.5, 2.0, 0], [-1.0, 0.3, 0.7]])
    return TriangularNormal(torch.tensor([1.0, -2.0, 0.5]), scale_tril=tril)


def mixture(components=None):
    weights = Categorical(probs=torch.tensor([0.2, 0.5, 0.3]))
    if components is None:
        components = Independent(
            Normal(torch.tensor([[-6.0, 0], [0, 1], [5, 5]]), torch.tensor([[1.0], [0.5], [2]])), 1
        )
    return Mixture(weights, components, validate_args=False)


def flow():
    prior = FlowPrior(3, hidden=8)
    for parameter in prior.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return prior()


def mixture_of_flows():
    posterior = IAF(2, transforms=2, hidden=4, context=3)
    for parameter in posterior.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return mixture(posterior(torch.randn(3, 7)))


@pytest.mark.parametrize("make", [diagonal, triangular, mixture, flow, mixture_of_flows])
@torch.no_grad()
def test_the_draws_have_the_distribution(make):
    """E log p(z) and the first two moments, against the distribution's own draws."""
    p = make()
    z = from_noise(p, torch.randn(NUM, *p.event_shape), torch.rand(NUM))
    own = p.sample((NUM,))
    assert z.shape == own.shape
    for of_z, of_own in ((p.log_prob(z), p.log_prob(own)), (z, own), (z**2, own**2), (z[:, :1] * z, own[:, :1] * own)):
        error = (of_z.var(0) / NUM + of_own.var(0) / NUM).sqrt()
        assert ((of_z.mean(0) - of_own.mean(0)).abs() < 4.5 * error).all()


def test_the_choice_walks_through_the_components_by_weight():
    p = mixture()
    choice = torch.tensor([0.0, 0.199, 0.201, 0.699, 0.701, 0.999999])
    z = from_noise(p, torch.zeros(6, 2), choice)
    assert z.tolist() == [[-6, 0], [-6, 0], [0, 1], [0, 1], [5, 5], [5, 5]]
    noise = torch.tensor([[1.0, -1.0]])
    assert from_noise(p, noise, torch.tensor([0.1])).tolist() == [[-5, -1]]
    assert from_noise(p, noise, torch.tensor([0.9])).tolist() == [[7, 3]]


def test_noise_of_a_temperature_scales_the_spread():
    noise = torch.randn(5, 3)
    for p in (diagonal(), triangular()):
        once, twice, nowhere = (from_noise(p, factor * noise, torch.rand(5)) for factor in (1, 2, 0))
        torch.testing.assert_close(twice - p.mean, 2 * (once - p.mean))
        assert torch.equal(nowhere, p.mean.expand(5, 3))


def test_a_flow_takes_noise_through_its_base():
    p = NSF(2, transforms=1, hidden_features=[4])()
    noise = torch.randn(5, 2)
    torch.testing.assert_close(from_noise(p, noise, torch.rand(5)), p.transform.inv(noise))


def test_a_learned_mixture_of_one_component():
    prior = MixtureOfGaussians(2, components=1)
    noise = torch.randn(5, 2)
    expected = prior.mean + (prior.logvar / 2).exp() * noise
    torch.testing.assert_close(from_noise(prior(), noise, torch.rand(5)), expected)


def test_codes_are_not_made_of_noise():
    with pytest.raises(ValueError, match="^prior=OneHotCategorical: must be made of normal distributions"):
        from_noise(OneHotCategorical(torch.ones(3)), torch.zeros(1, 3), torch.zeros(1))
