"""A prior fitted to the aggregate posterior after training (Ghosh et al. 2020, section 4).

Training makes the aggregate posterior resemble p(z), but not equal to it. Draws from a density that is fitted to it
afterwards decode to better images.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from cvae.distributions.mixture import diagonal_normal_log_prob
from cvae.distributions.precision import double
from cvae.errors import UserError
from cvae.priors import MixtureOfGaussians, Prior, Standardized

TENTHS = 10  # the draws are dealt out in turn: one to choose by, one to measure with, the others to fit to
BATCH = 500  # draws that are scored at once
PATIENCE = 5  # rounds without a better fit, after which fitting ends
DRAWS = 10  # to a component of a mixture, at least


def fit(prior: Prior, z: Tensor, rounds: Iterable[int]) -> float:
    """Fit `prior`, in place, to draws z (N, D) of the aggregate posterior; returns -log p(z) in nats of others.

    z of a prior of codes are their numbers (N, M).

    Eight tenths of the draws are fitted to, a mixture of Gaussians by expectation maximization and any other prior by
    gradient descent (Adam). A tenth chooses: fitting ends early when these draws get no more likely, the prior is as it
    was when they were most likely, and a mixture keeps as many of its components as suit them. The last tenth, which
    chooses nothing, gives the figure. Random numbers are torch's global ones.

    rounds: one round of fitting for each item; a progress bar may be wrapped around a range

    Raises:
        UserError: there are too few draws to keep some apart.
    """
    if len(z) < TENTHS:
        raise UserError(
            f"{len(z)} training images: must be at least {TENTHS}, one of which ends the fit and one measures it"
        )
    fitted, choosing, measuring = split(z)
    if isinstance(prior, Standardized):
        prior.loc.copy_(fitted.mean(0)), prior.scale.copy_(fitted.std(0).clamp(min=1e-6))
    if isinstance(prior, MixtureOfGaussians):
        maximize_expectation(prior, fitted, choosing, rounds)
    else:
        descend(prior, fitted, choosing, rounds)
    return nll(prior(None), measuring)


def split(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draws to fit to, a tenth to choose by, and a tenth to measure with."""
    turn = torch.arange(len(z)) % TENTHS
    return z[turn < TENTHS - 2], z[turn == TENTHS - 2], z[turn == TENTHS - 1]


@torch.no_grad()
def nll(p: Distribution, z: Tensor) -> float:
    """The mean of -log p(z) over z (N, D), in nats."""
    return -torch.cat([p.log_prob(rows) for rows in z.split(BATCH)]).mean().item()


class Gaussians(NamedTuple):
    """A mixture: weight (K,), mean (K, D) and variance (K, D)."""

    weight: Tensor
    mean: Tensor
    variance: Tensor

    def log_joint(self, z: Tensor) -> Tensor:
        """The log-density of each z (N, D) with each component: (N, K)."""
        return diagonal_normal_log_prob(z, self.mean, self.variance.sqrt()) + self.weight.log()

    def nll(self, z: Tensor) -> float:
        return -self.log_joint(z).logsumexp(1).mean().item()

    def updated(self, z: Tensor) -> "Gaussians":
        """After a round of expectation maximization with z (N, D)."""
        return maximized(z, self.log_joint(z).softmax(1))


def maximized(z: Tensor, share: Tensor) -> Gaussians:
    """The mixture for which z (N, D), of unit variance, are most likely, given each component's share of them (N, K).

    A variance counts as if there were one more draw, at the distance at which K Gaussians fill the volume of all draws:
    K^(-2/D), as in the prior of Fraley and Raftery (2007, section 3). So a component of one draw is no point, and one
    of many is what they say.
    """
    size = share.sum(0).clamp(min=1e-9)  # (K,)
    mean = share.T @ z / size[:, None]
    squares = (share.T @ z.square() - size[:, None] * mean.square()).clamp(min=0)
    variance = (squares + len(size) ** (-2 / z.shape[1])) / (size[:, None] + 1)
    return Gaussians(size / size.sum(), mean, variance)


@torch.no_grad()
def maximize_expectation(prior: MixtureOfGaussians, z: Tensor, others: Tensor, rounds: Iterable[int]) -> None:
    """Expectation maximization with z (N, D); of all rounds the mixture for which `others` are most likely.

    Mixtures of as many components as `prior` has, of half as many, and so on are fitted side by side; none has more
    than a component for 10 draws.
    """
    z, others = double(z), double(others)
    loc, scale = z.mean(0), z.std(0, correction=0).clamp(min=1e-6)
    z, others = (z - loc) / scale, (others - loc) / scale
    mixtures = start(z, max(1, min(len(prior.mean), len(z) // DRAWS)))
    kept, since = [(mixture.nll(others), mixture) for mixture in mixtures], [0] * len(mixtures)
    for _ in rounds:
        for number, mixture in enumerate(mixtures):
            if since[number] < PATIENCE:
                mixtures[number], since[number] = (new := mixture.updated(z)), since[number] + 1
                if (now := new.nll(others)) < kept[number][0]:
                    kept[number], since[number] = (now, new), 0
        if min(since) == PATIENCE:
            break
    weight, mean, variance = min(kept, key=lambda pair: pair[0])[1]
    values = {"logits": weight.log(), "mean": loc + scale * mean, "logvar": variance.log() + 2 * scale.log()}
    for name, value in values.items():
        setattr(prior, name, nn.Parameter(value.to(getattr(prior, name))))


def start(z: Tensor, most: int) -> list[Gaussians]:
    """Mixtures of `most` components, of half as many, and so on: each begins with the z (N, D) near a point."""
    points, mixtures = spread_out(z, most), []
    while most:
        nearest = torch.cdist(z, points[:most]).argmin(1)
        mixtures.append(maximized(z, F.one_hot(nearest, most).to(z)))
        most //= 2
    return mixtures


def spread_out(z: Tensor, count: int) -> Tensor:
    """`count` of the points z (N, D), each drawn by its squared distance to those before it.

    That is the start of k-means++ (Arthur and Vassilvitskii 2007).
    """
    chosen = z[torch.randint(len(z), (1,))]
    while len(chosen) < count:
        distance = torch.cdist(z, chosen).min(1).values.square()
        chosen = torch.cat([chosen, z[torch.multinomial(distance + 1e-12, 1)]])
    return chosen


def descend(prior: Prior, z: Tensor, others: Tensor, rounds: Iterable[int]) -> None:
    """Maximum likelihood of z (N, D) by Adam, in batches; the weights are those that suit `others` best."""
    optimizer = torch.optim.Adam(prior.parameters(), 1e-3)
    best, weights, since = nll(prior(None), others), deepcopy(prior.state_dict()), 0
    for _ in rounds:
        for rows in torch.randperm(len(z)).split(BATCH):
            optimizer.zero_grad()
            (-prior(None).log_prob(z[rows]).mean()).backward()
            optimizer.step()
        if (now := nll(prior(None), others)) < best:
            best, weights, since = now, deepcopy(prior.state_dict()), 0
        elif (since := since + 1) == PATIENCE:
            break
    prior.load_state_dict(weights)
