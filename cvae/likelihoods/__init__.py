"""Likelihoods: params (..., P, H, W) -> p(x|z), a Distribution with event (C, H, W), for images x in [0, 1].

Examples:
    >>> import torch
    >>> likelihood = Bernoulli(image_shape=(1, 28, 28))
    >>> likelihood.num_params  # maps that the decoder has to make: here the logits
    1
    >>> px = likelihood(torch.zeros(5, 1, 28, 28))
    >>> px.log_prob(torch.ones(5, 1, 28, 28)).tolist()[0] / 784  # log(1/2) for each pixel, in nats
    -0.693147...
"""

from cvae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from cvae.likelihoods.gaussian import Gaussian
from cvae.likelihoods.likelihood import Likelihood
from cvae.likelihoods.logistic import DiscretizedLogistic, MixtureOfLogistics

__all__ = ["Bernoulli", "ContinuousBernoulli", "DiscretizedLogistic", "Gaussian", "Likelihood", "MixtureOfLogistics"]
