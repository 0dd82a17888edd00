"""What a step could cost: its arithmetic at the rate of the machine's matrix products."""

import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.usual import UsualVAE
from benchmarks.turns import finish_device


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 0, seconds: float = 1.0) -> float:
    """The median rate of square matrix products, in floating-point operations a second."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    found: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(found) < 5:
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            finish_device()
        found.append(2 * size**3 / (time.perf_counter() - started))
    return statistics.median(found)


def operations(batch_size: int = 32, **sizes: int) -> int:
    """Floating-point operations of a training step of the tutorial's model: `first`, `second` filters, `latent_dim`."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:  # nothing is computed
        UsualVAE(**sizes)(torch.zeros(batch_size, 1, 28, 28)).backward()
    return counter.get_total_flops()
