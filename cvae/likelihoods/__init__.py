"""Likelihoods: params (..., P, H, W) -> p(x|z), a Distribution with event (C, H, W), for x = level / 255 in [0, 1].

`describes` are the kinds of data whose log-probability it is: "binary", "levels" (256 grey levels) or "continuous".
`is_mass` says whether log_prob is the log of a probability mass over such data, so that bits per dim mean something; where it
is a density, or a cross-entropy, a number of bits would depend on the unit of the pixels.
"""

from cvae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from cvae.likelihoods.gaussian import Gaussian
from cvae.likelihoods.logistic import DiscretizedLogistic, MixtureOfLogistics

__all__ = ["Bernoulli", "ContinuousBernoulli", "DiscretizedLogistic", "Gaussian", "MixtureOfLogistics"]
