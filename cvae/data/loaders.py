"""Batches in an order that is a function of seed and epoch; those of images on disk are read ahead."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, DistributedSampler

from cvae.data.mapped import Mapped, one_ahead

if TYPE_CHECKING:
    from cvae.data.images import ImageDataset


class Order(DistributedSampler):
    """An order of the images, a function of (seed, epoch), from the image number `start` on."""

    start = 0

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(super().__iter__(), self.start, None)


class Loader(DataLoader):
    """A DataLoader of whole batches. If the images are on disk, a thread reads one batch ahead."""

    dataset: "ImageDataset"

    def __iter__(self) -> Any:  # an iterator of (x, y)
        batches = super().__iter__()
        return one_ahead(batches) if isinstance(self.dataset.images.x, Mapped) else batches


class TrainingLoader(Loader):
    """Batches in an `Order`; a run that was stopped inside an epoch goes on with the batch that was next.

    Lightning saves and restores the state of a loader that has these two methods.
    """

    sampler: Order
    batch_size: int
    used = 0  # batches of the epoch
    first = 0  # batch of the next pass

    def __iter__(self) -> Any:
        self.used, self.first = self.first, 0
        self.sampler.start = self.used * self.batch_size
        for batch in super().__iter__():
            self.used += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"used": self.used}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.first = state_dict["used"]
