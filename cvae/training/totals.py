"""Exact means over images."""

from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cvae.objectives import Terms

SHOWN = ("elbo", "rate", "distortion")  # the figures on a log line and on the progress bar


class Totals:
    """Sums over images and their count, kept on the device: a mean is exact for any batches and processes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.names: tuple[str, ...] = ()
        self.sums: Tensor | None = None  # (figures,)
        self.count = 0  # images
        self.batches = 0
        # Until the first batch that made a sum infinite or NaN, itself included, on the device: batches, and sums.
        self.until: int | Tensor = 0
        self.first: Tensor | None = None

    def add(self, terms: Terms) -> None:
        """Count the images of a batch; waits for nothing."""
        figures = {"elbo": terms.elbo, "rate": terms.rate, "distortion": terms.distortion}
        figures |= {"loss": terms.loss, "bound": terms.bound, **terms.parts}
        per_image = torch.stack(list(figures.values())).detach()  # (figures, B)
        precise = torch.float32 if per_image.device.type == "mps" else torch.float64  # MPS has no float64
        sums = per_image.sum(1, dtype=precise)
        self.names, self.count, self.batches = tuple(figures), self.count + per_image.shape[1], self.batches + 1
        if self.sums is None:
            self.sums, self.first, self.until = sums, sums, 1
            return
        finite = torch.isfinite(self.sums).all()
        self.sums = self.sums + sums
        self.first, self.until = torch.where(finite, self.sums, self.first), self.until + finite

    def not_finite(self) -> tuple[int, dict[str, float]] | None:
        """The first batch whose figures are not finite, from 0, with those figures; None if all are. Waits.

        The batches after it say nothing: their weights are no longer finite.
        """
        if self.first is None:
            return None
        bad = {name: value for name, value in zip(self.names, self.first.tolist(), strict=True) if not isfinite(value)}
        return (int(self.until) - 1, bad) if bad else None

    def state_dict(self) -> dict:
        """All that `add` has counted, where it is finite."""
        return {"names": list(self.names), "sums": self.sums, "count": self.count, "batches": self.batches}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self.names, self.count, self.batches = tuple(state["names"]), state["count"], state["batches"]
        self.sums = self.first = None if state["sums"] is None else state["sums"].to(device)
        self.until = self.batches

    def merge(self, other: "Totals") -> None:
        if other.sums is not None:
            self.names, self.sums = other.names, other.sums if self.sums is None else self.sums + other.sums
            self.count, self.batches = self.count + other.count, self.batches + other.batches

    def means(self) -> dict[str, float]:
        """{"elbo": nats per image, …} of this process; waits for the device."""
        return dict(zip(self.names, (self.sums / self.count).tolist(), strict=True))

    def means_of_all_processes(self) -> dict[str, float]:
        """The means over the images of all processes; every process must call it."""
        if dist.is_available() and dist.is_initialized():
            both = torch.cat([self.sums, self.sums.new_tensor([self.count])])
            dist.all_reduce(both)
            self.sums, self.count = both[:-1], int(both[-1].item())
        return self.means()


def of_all_processes(own: Any) -> list[Any]:
    """What each process has, in their order; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found
