"""Likelihoods: params (..., P, H, W) -> p(x|z), a Distribution with event (C, H, W), for images x in [0, 1]."""

from cvae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from cvae.likelihoods.gaussian import Gaussian
from cvae.likelihoods.likelihood import Likelihood
from cvae.likelihoods.logistic import DiscretizedLogistic, MixtureOfLogistics

__all__ = ["Bernoulli", "ContinuousBernoulli", "DiscretizedLogistic", "Gaussian", "Likelihood", "MixtureOfLogistics"]
