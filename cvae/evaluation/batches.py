"""Blocks: the unit of randomness and of memory. A block is some images with SAMPLES draws each.

A block is always drawn as a whole, and draws that are not needed are thrown away. The noise of block (i, k) has a seed
of its own, a hash of (seed, i, k). So an image gets the same draws whatever the batch size, the number of images and
the number of samples.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from cvae.models.vae import VAE

IMAGES, SAMPLES = 100, 10  # of a block, if the memory allows; other numbers are other draws

Batch = tuple[Tensor, Tensor | None]  # x (B, C, H, W), y (B,) or None


def images_of_a_block(vae: VAE, x: Tensor, y: Tensor | None, memory: float) -> int:
    """The number of images, with SAMPLES draws each, that fit into `memory` GiB: from 1 to IMAGES.

    x (B, C, H, W), y (B,): any of the images, with their labels.
    """
    rows = memory * 2**30 / bytes_of_a_row(vae, x[:1], None if y is None else y[:1])
    return int(min(max(rows // SAMPLES, 1), IMAGES))


@torch.no_grad()
def bytes_of_a_row(vae: VAE, x: Tensor, y: Tensor | None) -> int:
    """About how many bytes a row (an image with a sample) takes at its peak, measured with one x (1, C, H, W), y (1,).

    That is three times what the largest layer reads and writes: a convolution may keep both in another layout too, and
    a likelihood several tensors of the size of its parameters.
    """
    largest = 0

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        nonlocal largest
        tensors = [part for part in (*inputs, output) if isinstance(part, Tensor) and part.dim()]
        if tensors:
            largest = max(
                largest, sum(part.numel() * part.element_size() for part in tensors) // max(len(tensors[0]), 1)
            )

    hooks = [module.register_forward_hook(note) for module in vae.modules() if not list(module.children())]
    try:
        vae(x, y)
    finally:
        for hook in hooks:
            hook.remove()
    return max(3 * largest, 1)


def in_blocks(batches: Iterable[Batch], images: int) -> Iterator[Batch]:
    """Batches (x, y) of any sizes, regrouped into blocks of `images`; the last one may be smaller."""
    held: list[Batch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch[0])
        while count >= images:
            x, y = joined(held)
            yield x[:images], None if y is None else y[:images]
            held, count = [(x[images:], None if y is None else y[images:])], count - images
    if count:
        yield joined(held)


def joined(batches: list[Batch]) -> Batch:
    """One batch of several."""
    labels = [y for _, y in batches if y is not None]
    return torch.cat([x for x, _ in batches]), torch.cat(labels) if labels else None


def filled(part: Tensor, images: int) -> Tensor:
    """The images or labels of a block, the last one repeated up to `images`.

    All blocks then have noise of the same shape.
    """
    return torch.cat([part, part[-1:].expand(images - len(part), *part.shape[1:])])
