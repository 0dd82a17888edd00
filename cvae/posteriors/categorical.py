"""Categorical latents."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import one_of, positive_int, positive_number
from cvae.distributions import OneHots
from cvae.posteriors.codes import CodePosterior
from cvae.schedules import at, number_or_schedule


class Categorical(CodePosterior):
    """q(z|x), M independent categorical variables, by the Gumbel-softmax trick (Jang et al. 2017).

    Features and z: logits and one-hot vectors, (classes, M) flattened. In eval mode all draws are one-hot, so that each
    evaluation is of codes and its ELBO a bound; how they are drawn in training, `OneHots` says.

    Args:
        classes: of each variable
        gradient: straight_through, one-hot draws with the gradient of soft ones; or relaxed, soft draws. Training's
            figures are then no bound, and their curves are called relaxed_elbo, …
        temperature: of the soft draws, a number above 0 or a schedule over the training steps of this part

    Raises:
        ConfigError: a value is not allowed.
    """

    steps: Tensor  # () training steps, for the schedule; a checkpoint has it, so that a resumed run goes on exactly

    def __init__(
        self,
        latent_dim: int,
        classes: int = 10,
        gradient: str = "straight_through",
        temperature: float | Callable = 1.0,
    ) -> None:
        super().__init__(latent_dim, width=positive_int("classes", classes))
        self.num_codes = classes
        self.gradient = one_of("gradient", gradient, ("straight_through", "relaxed"))
        self.relaxed = gradient == "relaxed"
        self.temperature = number_or_schedule("temperature", temperature, "posterior")
        for end in ("start", "end"):  # of a schedule
            positive_number("temperature", getattr(temperature, end, at(temperature, 0)))
        self.register_buffer("vectors", torch.eye(classes), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor) -> Distribution:
        temperature = at(self.temperature, self.steps)
        if self.training and torch.is_grad_enabled():
            self.steps += 1  # in place: what a CUDA graph replays must find it where it was
        logits = features.unflatten(-1, (self.num_codes, self.latent_dim))
        return OneHots(logits, temperature, self.training and self.relaxed)

    def read(self, z: Tensor) -> Tensor:
        return self.columns(z).argmax(-1)
