"""The contract of objectives, and what they share."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cvae.distributions import is_discrete
from cvae.errors import ConfigError
from cvae.models.trace import Latent, Trace
from cvae.models.vae import VAE


class Terms(NamedTuple):
    """The terms of an objective for each image of a batch; every tensor is (B,), in nats.

    Attributes:
        loss: what the optimizer minimizes, its mean over the batch
        bound: the objective's own lower bound on log p(x), which models are chosen by; higher is better. None where
            there is none (codes without noise): then models are chosen by minus the loss
        rate: KL(q(z|x) || p(z)), or its Monte Carlo estimate; None where the bound is
        distortion: -E_q log p(x|z), or its Monte Carlo estimate
        parts: further curves: each group's rate, the total correlation, penalties, …
    """

    loss: Tensor
    bound: Tensor | None
    rate: Tensor | None
    distortion: Tensor
    parts: Mapping[str, Tensor]

    @property
    def elbo(self) -> Tensor | None:
        return None if self.rate is None else -self.distortion - self.rate


class Objective(nn.Module):
    """An objective: from a model and a batch to Terms.

    A module, so that it can have parameters of its own (a critic). They get a parameter group of the same optimizer,
    and the same backward pass trains them.

    Attributes:
        deterministic: whether it is for posteriors without a density, and for these alone; None: for all
        trains_prior: whether a prior with parameters learns from it
        compiles: whether torch.compile can make one program of it
        lr_share: the learning rate of its own parameters, in parts of the model's
    """

    deterministic: bool | None = False
    trains_prior: bool = True
    compiles: bool = True
    lr_share: float = 1.0

    def prepare(self, num_images: int) -> None:
        """Receive the number of training images, once, before training."""

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        """The terms for images x (B, C, H, W) in [0, 1] with labels y (B,), None for a model without classes.

        step: how many optimizer steps were made, for schedules.
        """
        raise NotImplementedError


def total(values: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape, over the groups of latents or over penalties."""
    return torch.stack(values).sum(0) if len(values) > 1 else values[0]


def rate_of_groups(rates: list[Tensor]) -> dict[str, Tensor]:
    """Curves of the rate (B,) of each group, counted from the top, where there are several."""
    return {f"rate_{number}": rate for number, rate in enumerate(rates, 1)} if len(rates) > 1 else {}


def penalized(loss: Tensor, trace: Trace) -> Tensor:
    """The loss (B,) with the penalties of the model's parts."""
    return loss + total(list(trace.penalties.values())) if trace.penalties else loss


class Weights(NamedTuple):
    """log p(x, z) - log q(z|x) and its parts for K draws for each of B images: (K, B) each, in nats.

    Attributes:
        log_w: -distortion - the sum of the rates
        distortion: -log p(x|z)
        rates: of each group of latents, log q(z|x) - log p(z)
    """

    log_w: Tensor
    distortion: Tensor
    rates: list[Tensor]


def weigh(trace: Trace, x: Tensor) -> Weights:
    """The importance weights of a trace's draws for images x (B, C, H, W)."""
    distortion = -trace.px.log_prob(x)
    rates = [latent.log_q - latent.log_p for latent in trace.latents]
    return Weights(-distortion - total(rates), distortion, rates)


def of_bound(bound: Tensor, weights: Weights, trace: Trace) -> Terms:
    """The terms of a bound (B,) that is maximized; rate and distortion are those of one draw, averaged over the K."""
    rates = [rate.mean(0) for rate in weights.rates]
    parts = rate_of_groups(rates) | dict(trace.penalties)
    return Terms(penalized(-bound, trace), bound, total(rates), weights.distortion.mean(0), parts)


def only_group(trace: Trace, objective: str) -> Latent:
    """The one group of latents, or ConfigError where there are several."""
    if len(trace.latents) > 1:
        several = "elbo, capacity, iwae, miwae, ciwae, renyi"
        allowed = f"one of {several}, or another model=: this one has {len(trace.latents)} groups of latents"
        raise ConfigError("objective", objective, allowed)
    return trace.latents[0]


def refuse_codes(latents: Iterable[Latent], key: str, value: str, instead: str) -> None:
    """Raise ConfigError, naming both keys, where latents are codes: their draws are no function of noise."""
    if any(is_discrete(latent.q) for latent in latents):
        raise ConfigError(key, value, f"{instead} for latents that are codes (posterior=categorical, fsq or vq)")
