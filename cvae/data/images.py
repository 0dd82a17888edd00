"""Images in memory as uint8, and a dataset that hands out whole batches."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Images(NamedTuple):
    """A labelled set of images: x uint8 (N, C, H, W), y int64 (N,)."""

    x: Tensor
    y: Tensor


class ImageDataset(Dataset):
    """Hands out a whole batch with one index: the DataLoader calls `__getitems__` where a dataset has it."""

    def __init__(self, images: Images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images.x[index], self.images.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.x[indices], self.images.y[indices]


def as_is(batch):
    """The collate function for batches that are batches already."""
    return batch


def draw(p: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """1 with probability p, else 0: p float (…) in [0, 1] -> float (…), of the global random numbers of p's device.

    p = 0 stays 0 and p = 1 stays 1, so images that are binary already are left as they are. TensorFlow Probability's
    example of probabilistic layers draws `image < uniform` instead, which is `invert` first and then this.
    """
    return (torch.rand(p.shape, generator=generator, device=p.device) < p).to(p.dtype)


def drawn_once(images: Images, generator: torch.Generator) -> Images:
    """Binarized to 0 and 255; the draws are taken image after image, so that each depends on the seed and the index alone."""
    x = torch.empty_like(images.x)
    for levels, out in zip(
        images.x.split(1000), x.split(1000), strict=True
    ):  # the floats of all at once would be large
        out.copy_(draw(levels.float() / 255, generator) * 255)
    return Images(x, images.y)
