"""Exact means over images."""

import torch
import torch.distributed as dist

from cvae.objectives import Bound

FIGURES = ("elbo", "rate", "distortion", "loss")  # the fields of Bound


class Totals:
    """Sums over images and their count, kept on the device: a mean is exact whatever the batches and the processes were."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.sums, self.count = 0, 0

    def add(self, bound: Bound) -> None:
        per_image = torch.stack(bound).detach()  # (4, B)
        precise = torch.float32 if per_image.device.type == "mps" else torch.float64  # MPS has no float64
        self.sums = self.sums + per_image.sum(1, dtype=precise)
        self.count += per_image.shape[1]

    def merge(self, other: "Totals") -> None:
        self.sums, self.count = self.sums + other.sums, self.count + other.count

    def means(self) -> dict[str, float]:
        """{"elbo": nats an image, …} of this process; waits for the device."""
        return dict(zip(FIGURES, (self.sums / self.count).tolist(), strict=True))

    def means_of_all_processes(self) -> dict[str, float]:
        if dist.is_available() and dist.is_initialized():
            both = torch.cat([self.sums, self.sums.new_tensor([self.count])])
            dist.all_reduce(both)
            self.sums, self.count = both[:-1], both[-1].item()
        return self.means()
