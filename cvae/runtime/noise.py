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


def noise_of(*numbers: int, device: torch.device) -> None:
    """From here on, random numbers are a function of `numbers` (integers of at least 0), whatever was drawn before.

    Takes some microseconds and does not wait for the device. Call it before a CUDA graph is replayed, not inside.
    """
    # Hashed: Mersenne Twisters with neighbouring seeds begin alike.
    (seed,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64).tolist()
    seed_generators(seed, device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's generator and the device's. torch.manual_seed would seed those of all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
