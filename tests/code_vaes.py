"""Models of so few codes that all can be listed; a new posterior or prior of codes needs a line here."""

import itertools
from functools import partial

import torch
from torch import nn

from cvae.likelihoods import Bernoulli
from cvae.models.ladder import Ladder
from cvae.models.vae import VAE
from cvae.networks.ladder import ladder
from cvae.posteriors import FSQ, VQ, Categorical
from cvae.priors import AutoregressiveCodes, UniformCodes

M = 3  # codes of an image
CODES = {
    "categorical": partial(Categorical, classes=4),
    "fsq": partial(FSQ, levels=[3, 2]),
    "vq": partial(VQ, codes=5, width=2),
    "vq, residual": partial(VQ, codes=2, width=3, quantizers=2),
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
    prior = prior(codes * posterior.quantizers, (1, 2, 2), posterior.num_codes)
    with torch.no_grad():
        encoder[1].weight.mul_(3), decoder[0].weight.mul_(3)
    return VAE(encoder, posterior, prior, decoder, Bernoulli((1, 2, 2))).double().eval()


def ladder_of_codes():
    """Binary images (1, 4, 6): three codes of five values, and below them a group of 18 numbers."""
    posterior = CODES["vq"](M)
    encoder, decoder = ladder((1, 4, 6), M * posterior.width, posterior.num_features, 1, ["2x1"], channels=3, width=5)
    vae = Ladder(encoder, posterior, UniformCodes(M, (1, 4, 6), 5), decoder, Bernoulli((1, 4, 6)))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vae.double().eval()


def all_codes(posterior):
    """Every value that an image's codes can have: (C^M, M), of residual ones (C^(quantizers M), quantizers M)."""
    places = posterior.latent_dim * posterior.quantizers
    return torch.tensor(list(itertools.product(range(posterior.num_codes), repeat=places)))


def binary(count):
    return torch.randint(2, (count, 1, 2, 2)).double()
