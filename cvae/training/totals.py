"""Exact means over images."""

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
        self.count = 0

    def add(self, terms: Terms) -> None:
        """Count the images of a batch; waits for nothing."""
        figures = {"elbo": terms.elbo, "rate": terms.rate, "distortion": terms.distortion}
        figures |= {"loss": terms.loss, "bound": terms.bound, **terms.parts}
        per_image = torch.stack(list(figures.values())).detach()  # (figures, B)
        precise = torch.float32 if per_image.device.type == "mps" else torch.float64  # MPS has no float64
        sums = per_image.sum(1, dtype=precise)
        self.names, self.sums = tuple(figures), sums if self.sums is None else self.sums + sums
        self.count += per_image.shape[1]

    def merge(self, other: "Totals") -> None:
        if other.sums is not None:
            self.names, self.sums = other.names, other.sums if self.sums is None else self.sums + other.sums
            self.count += other.count

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
