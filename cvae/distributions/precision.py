"""The digits that densities need."""

import torch
from torch import Tensor


def double(t: Tensor) -> Tensor:
    """`t` in float64, where float32's digits do not suffice; on MPS, which has no float64, as it is."""
    return t if t.device.type == "mps" else t.double()


def precise(t: Tensor) -> Tensor:
    """`t` in float64 on its device, or on the CPU where the device has no float64 (MPS).

    So nothing waits for a GPU before the end of a block.
    """
    return (t.cpu() if t.device.type == "mps" else t).double()


def full_precision(t: Tensor) -> Tensor:
    """A network's output under trainer.precision=bf16-mixed or 16-mixed, as float32."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
