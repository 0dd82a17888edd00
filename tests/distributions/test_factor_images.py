"""Which distributions are independent over the dimensions, and which are standard normal."""

import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal, OneHotCategorical

from cvae.distributions import factorizes, is_standard_normal
from cvae.priors import MixtureOfGaussians, StandardNormal


def test_which_densities_factorize():
    assert factorizes(Independent(Normal(torch.zeros(3, 2), 1.0), 1)) and factorizes(StandardNormal(2)(None))
    full = MultivariateNormal(torch.zeros(3, 2), torch.eye(2))
    for distribution in (full, Independent(full, 1), MixtureOfGaussians(2)(None), Normal(0.0, 1.0)):
        assert not factorizes(distribution)


def test_the_standard_normal_is_known_by_its_values():
    normal = lambda loc, scale: Independent(Normal(torch.tensor(loc), torch.tensor(scale)), 1)
    assert is_standard_normal(StandardNormal(3)()) and is_standard_normal(normal([0.0, 0.0], [1.0, 1.0]))
    assert not is_standard_normal(normal([0.0, 0.1], [1.0, 1.0]))
    assert not is_standard_normal(normal([0.0, 0.0], [1.0, 1.1]))
    assert not is_standard_normal(Independent(Laplace(torch.zeros(2), torch.ones(2)), 1))
    assert not is_standard_normal(MixtureOfGaussians(2)()) and not is_standard_normal(OneHotCategorical(torch.ones(3)))
