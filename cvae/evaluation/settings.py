"""The settings of an evaluation."""

from dataclasses import dataclass

from cvae.checks import positive_int, positive_number, seed_number
from cvae.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """The settings of an evaluation, checked when they are made.

    Args:
        samples: importance samples per image
        images: only so many test images; None: all
        draw: the seed that draws these, so that a model is measured on the same ones whatever its own seed; None: the
            first ones, which differ from the others where files have an order, as those of MNIST have
        aggregate_images: at most so many of them for the aggregate posterior; its cost grows with their square. Most of
            the time goes there if the posterior scores foreign z slowly, as flows do
        memory: about how many GiB the activations of a decoded block may take. The block is the unit of randomness too:
            a large model gets smaller blocks, so other draws, with less memory; a small model's draws do not change
        seed: of the noise
        until: nats. The samples of each block of images double until the estimated error of its mean log p(x), the bias
            and two standard errors, is below, or there would be more than 50,000; None: `samples`

    Raises:
        ConfigError: a value is not allowed.
    """

    samples: int = 5000
    images: int | None = None
    draw: int | None = None
    aggregate_images: int = 2000
    memory: float = 1.0
    seed: int = 0
    until: float | None = None

    def __post_init__(self) -> None:
        positive_int("samples", self.samples)
        if self.images is not None:
            positive_int("images", self.images)
        if self.draw is not None:
            if self.images is None:
                raise ConfigError("draw", self.draw, "left out where all images are measured: it needs images")
            seed_number("draw", self.draw)
        positive_int("aggregate_images", self.aggregate_images)
        positive_number("memory", self.memory)
        seed_number("seed", self.seed)
        if self.until is not None:
            positive_number("until", self.until)
