"""Which epochs of a long run are drawn, and which of these are in its GIF."""

from collections.abc import Sequence
from typing import Any


def thinned(epoch: int) -> int:
    """The interval between drawn epochs: 1 up to epoch 20, 2 up to 40, 4 up to 80, and so on; 76 of 1,000."""
    return 1 << ((epoch - 1) // 20).bit_length()


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]
