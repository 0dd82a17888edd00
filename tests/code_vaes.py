"""Models of so few codes that all can be listed; a new posterior or prior of codes needs a line here."""

import itertools
from functools import partial

import torch
from torch import nn

from cvae.likelihoods import Bernoulli
from cvae.models.vae import VAE
from cvae.posteriors import FSQ, VQ, Categorical
from cvae.priors import AutoregressiveCodes, UniformCodes

M = 3  # codes of an image
CODES = {
    "categorical": partial(Categorical, classes=4),
    "fsq": partial(FSQ, levels=[3, 2]),
    "vq": partial(VQ, codes=5, width=2),
}
OF_CODES = {
    "uniform": UniformCodes,
    "autoregressive": partial(AutoregressiveCodes, hidden=8, layers=1, heads=2),
}


def vae_of(posterior, prior, codes=M):
    """A VAE of binary images (1, 2, 2) with these parts, in float64 and in eval mode."""
    posterior = posterior(codes)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, posterior.num_features))
    decoder = nn.Sequential(nn.Linear(codes * posterior.width, 4), nn.Unflatten(1, (1, 2, 2)))
    prior = prior(codes, (1, 2, 2), posterior.num_codes)
    with torch.no_grad():
        encoder[1].weight.mul_(3), decoder[0].weight.mul_(3)
    return VAE(encoder, posterior, prior, decoder, Bernoulli((1, 2, 2))).double().eval()


def all_codes(posterior):
    """Every value that an image's codes can have: (C^M, M)."""
    return torch.tensor(list(itertools.product(range(posterior.num_codes), repeat=posterior.latent_dim)))


def binary(count):
    return torch.randint(2, (count, 1, 2, 2)).double()
