"""Test and training images drawn from many, the same for every run."""

import torch
from torch import Tensor

from cvae.checks import is_int, positive_int, seed_number
from cvae.errors import ConfigError


class Subset:
    """Draws the numbers of test and training images from a set of them, by a seed of its own.

    Which are for testing does not depend on train_size, nor on a run's seed.

    Args:
        train_size: how many training images; None: all that are not for testing
        test_size: how many test images
        seed: draws both

    Raises:
        ConfigError: a value is not allowed.
    """

    def __init__(self, train_size: int | None, test_size: int, seed: int) -> None:
        self.test_size, self.seed = positive_int("source.test_size", test_size), seed_number("source.seed", seed)
        if train_size is not None and not (is_int(train_size) and train_size > 0):
            raise ConfigError("source.train_size", train_size, "a positive integer, or null for all that are left")
        self.train_size = train_size

    def check(self, count: int, place: str = "source") -> None:
        """Raise ConfigError, which names the keys below `place`, unless `count` images suffice."""
        if (left := count - self.test_size) < 1:
            raise ConfigError(f"{place}.test_size", self.test_size, f"below the {count:,} images that there are")
        if self.train_size is not None and self.train_size > left:
            raise ConfigError(f"{place}.train_size", self.train_size, f"at most {left:,}, or null for all of these")

    def drawn(self, count: int) -> tuple[Tensor, Tensor]:
        """The numbers of the training images, and of the test images, of `count`; each in the order drawn."""
        self.check(count, "data.source")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        end = None if self.train_size is None else self.test_size + self.train_size
        return order[self.test_size : end], order[: self.test_size]
