"""Random numbers that repeat themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fixed_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` inside, and outside as if nothing had been drawn."""
    mps_state = torch.mps.get_rng_state() if device.type == "mps" else None  # fork_rng knows CPU and CUDA
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of devices that are not restored
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)
