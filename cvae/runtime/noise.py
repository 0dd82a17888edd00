"""Random numbers that repeat themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def fixed_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` inside, and outside as if nothing had been drawn."""
    mps_state = torch.mps.get_rng_state() if device.type == "mps" else None  # fork_rng knows CPU and CUDA
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_generators(seed, device)
        try:
            yield
        finally:
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)


def seed_step(*numbers: int, device: torch.device) -> None:
    """From here on, random numbers are a function of `numbers` (integers of at least 0), whatever was drawn before.

    Takes some microseconds and does not wait for the device. Call it before a CUDA graph is replayed, not inside.
    """
    seed_generators(hashed_seed(*numbers), device)


def hashed_seed(*numbers: int) -> int:
    """A seed for these numbers, integers of at least 0: Mersenne Twisters with neighbouring seeds begin alike."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's generator and the device's. torch.manual_seed would seed those of all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
