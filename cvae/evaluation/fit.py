"""A prior fitted to the aggregate posterior after training (Ghosh et al. 2020, section 4).

Training makes the aggregate posterior resemble p(z), but not equal to it. Draws from a density that is fitted to it
afterwards decode to better images.
"""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions.mixture import diagonal_normal_log_prob
from cvae.distributions.precision import double
from cvae.errors import UserError
from cvae.priors import MixtureOfGaussians, Prior, Standardized

HELD_OUT = 10  # every so many-th draw is kept for measuring
BATCH = 500  # draws that are scored at once


def fit(prior: Prior, z: Tensor, rounds: Iterable[int]) -> float:
    """Fit `prior`, in place, to draws z (N, D) of the aggregate posterior; returns -log p(z) in nats of others.

    z of a prior of codes are their numbers (N, M).

    A mixture of Gaussians is fitted by expectation maximization, any other prior by gradient descent (Adam), which ends
    early when the draws that are held out, a tenth, get no more likely. Random numbers are torch's global ones.

    rounds: one round of fitting for each item; a progress bar may be wrapped around a range

    Raises:
        UserError: there are too few draws to hold some out.
    """
    if len(z) < HELD_OUT:
        raise UserError(
            f"{len(z)} training images: must be at least {HELD_OUT}, one of which is held out to measure the fit"
        )
    kept, others = split(z)
    if isinstance(prior, Standardized):
        prior.loc.copy_(kept.mean(0)), prior.scale.copy_(kept.std(0).clamp(min=1e-6))
    if isinstance(prior, MixtureOfGaussians):
        maximize_expectation(prior, kept, rounds)
    else:
        descend(prior, kept, others, rounds)
    return surprise(prior(None), others)


def split(z: Tensor) -> tuple[Tensor, Tensor]:
    """Draws to fit to, and a tenth to measure with."""
    held_out = torch.arange(len(z)) % HELD_OUT == HELD_OUT - 1
    return z[~held_out], z[held_out]


@torch.no_grad()
def surprise(p: Distribution, z: Tensor) -> float:
    """The mean of -log p(z) over z (N, D), in nats."""
    return -torch.cat([p.log_prob(rows) for rows in z.split(BATCH)]).mean().item()


@torch.no_grad()
def maximize_expectation(prior: MixtureOfGaussians, z: Tensor, rounds: Iterable[int]) -> None:
    """Expectation maximization, from means that are spread over z (N, D) and equal weights.

    A variance stays above 1e-6 of that of all z, so that no component shrinks to a point.
    """
    z = double(z)
    spread = z.var(0, correction=0)
    mean = spread_out(z, len(prior.mean))
    variance, weight = spread.expand_as(mean), z.new_full((len(mean),), 1 / len(mean))
    for _ in rounds:
        share = (diagonal_normal_log_prob(z, mean, variance.sqrt()) + weight.log()).softmax(1)  # (N, K)
        size = share.sum(0).clamp(min=1e-9)  # (K,)
        mean = share.T @ z / size[:, None]
        variance = (share.T @ z.square() / size[:, None] - mean.square()).clamp(min=1e-6 * spread)
        weight = size / size.sum()
    for parameter, value in ((prior.mean, mean), (prior.logvar, variance.log()), (prior.logits, weight.log())):
        parameter.copy_(value)


def spread_out(z: Tensor, count: int) -> Tensor:
    """`count` of the points z (N, D), each drawn by its squared distance to those before it.

    That is the start of k-means++ (Arthur and Vassilvitskii 2007).
    """
    chosen = z[torch.randint(len(z), (1,))]
    while len(chosen) < count:
        distance = torch.cdist(z, chosen).min(1).values.square()
        chosen = torch.cat([chosen, z[torch.multinomial(distance + 1e-12, 1)]])
    return chosen


def descend(prior: Prior, z: Tensor, others: Tensor, rounds: Iterable[int], patience: int = 5) -> None:
    """Maximum likelihood of z (N, D) by Adam, in batches; the weights are those that suit `others` best."""
    optimizer = torch.optim.Adam(prior.parameters(), 1e-3)
    best, weights, since = surprise(prior(None), others), deepcopy(prior.state_dict()), 0
    for _ in rounds:
        for rows in torch.randperm(len(z)).split(BATCH):
            optimizer.zero_grad()
            (-prior(None).log_prob(z[rows]).mean()).backward()
            optimizer.step()
        if (now := surprise(prior(None), others)) < best:
            best, weights, since = now, deepcopy(prior.state_dict()), 0
        elif (since := since + 1) == patience:
            break
    prior.load_state_dict(weights)
