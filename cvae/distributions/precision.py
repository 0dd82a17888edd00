"""Float64 where float32's digits do not suffice."""

from torch import Tensor


def double(t: Tensor) -> Tensor:
    """`t` in float64; on MPS, which has no float64, as it is."""
    return t if t.device.type == "mps" else t.double()
