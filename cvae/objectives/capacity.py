"""A target for the rate."""

import torch
from torch import Tensor

from cvae.checks import number, positive_int
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, of_bound, penalized, total, weigh
from cvae.schedules import Linear


class Capacity(Objective):
    """distortion + gamma |rate - C|, C rising from 0 to `capacity` nats (Burgess et al. 2018, eq. 8).

    The rate is the mean over the batch, of all groups of latents together, by one draw. So the loss depends on the
    batch around an image; rate and distortion do not.

    Args:
        gamma: how much a rate other than C costs
        capacity: C at the end, in nats
        steps: optimizer steps until C is there

    Raises:
        ConfigError: a value is not allowed.
    """

    def __init__(self, gamma: float = 1000, capacity: float = 25, steps: int = 10_000) -> None:
        super().__init__()
        self.gamma = number("gamma", gamma)
        self.capacity = Linear(0.0, number("capacity", capacity), positive_int("steps", steps))

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        weights = weigh(trace, x)
        terms, rate = of_bound(weights.log_w[0], weights, trace), total(weights.rates)[0]
        target = self.capacity(step)
        loss = penalized(terms.distortion + self.gamma * (rate.mean() - target).abs(), trace)
        return terms._replace(loss=loss, parts={**terms.parts, "capacity": torch.zeros_like(rate) + target})
