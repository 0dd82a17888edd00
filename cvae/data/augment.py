"""Augmentation: training images changed at random, whole batches at once, on their device."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cvae.checks import is_number
from cvae.errors import ConfigError

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue are (ITU-R BT.601, as Pillow has it)


class Augmentation:
    """Levels uint8 (B, C, H, W) -> levels uint8 (B, C, H, W): each image changed by its own draws.

    All draws come from the global generator of the images' device, which is seeded for each training step. Nothing
    waits for the device, so a CUDA graph can record it. The changes are made in the order of `CHANGES`, whatever the
    order of the words. Without words it returns what it is given, and draws nothing.

    Args:
        words: names of changes, as in [flip, shift]; or names with amounts, as in {flip: null, shift: 0.1}, null for
            the usual one. None is as []
        image_shape: (C, H, W)
        binary: whether the images are binarized already, so that all levels must stay 0 or 255

    Raises:
        ConfigError: there is no such change, an amount is out of its range, or a change does not fit the images.
    """

    def __init__(self, words: Any, image_shape: Sequence[int], binary: bool):
        amounts = amounts_of(words)
        if "rotate90" in amounts and image_shape[1] != image_shape[2]:
            sides = f"{image_shape[1]}x{image_shape[2]}"
            raise ConfigError("augment", words, f"without rotate90, for the images are {sides} and not square")
        if binary and (grey := [word for word in ("crop", "colour") if word in amounts]):
            allowed = f"without {' and '.join(grey)}, which would make grey of binary images, or data.binarization=none"
            raise ConfigError("augment", words, allowed)
        self.changes = [(CHANGES[word], amounts[word]) for word in CHANGES if word in amounts]

    def __call__(self, x: Tensor) -> Tensor:
        for change, amount in self.changes:
            x = change(x, amount)
        return x


def amounts_of(words: Any) -> dict[str, float]:
    """Change -> amount. Raises ConfigError unless `words` names changes, and amounts in their range."""
    words = [] if words is None else words
    listed = isinstance(words, Sequence) and not isinstance(words, str)
    given = dict.fromkeys(map(str, words)) if listed else dict(words) if isinstance(words, Mapping) else {str(words): 0}
    if not set(given) <= set(CHANGES) or not (listed or isinstance(words, Mapping)):
        allowed = f"a list of {', '.join(CHANGES)}, as in [flip,shift], or these with amounts, as in {{shift: 0.1}}"
        raise ConfigError("augment", words, allowed)
    amounts = {}
    for word, amount in given.items():
        usual, low, high = AMOUNTS.get(word, (0, 0, 0))
        if amount is None or (word not in AMOUNTS and amount is True):
            amount = usual
        elif word not in AMOUNTS:
            raise ConfigError(f"augment.{word}", amount, "null: it has no amount")
        elif not (is_number(amount) and low < amount < high):
            raise ConfigError(f"augment.{word}", amount, f"a number between {low} and {high}, or null for {usual}")
        amounts[word] = amount
    return amounts


def uniform(x: Tensor, low: float, high: float, count: int = 1) -> Tensor:
    """Uniform numbers between low and high, `count` for each image: (count, B)."""
    return low + (high - low) * torch.rand(count, len(x), device=x.device)


def crop(x: Tensor, least: float) -> Tensor:
    """Crop a part with sides from `least` to 1 of the image's, anywhere in it, and enlarge it (bilinear)."""
    side, across, down = uniform(x, 0, 1, 3)
    side = least + (1 - least) * side
    zero = torch.zeros_like(side)
    # Coordinates go from -1 to 1: the part's centre can be 1 - side away from the image's.
    rows = [torch.stack([side, zero, (2 * across - 1) * (1 - side)], 1)]
    rows += [torch.stack([zero, side, (2 * down - 1) * (1 - side)], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return levels(grid_sample(x.float(), grid, padding_mode="border", align_corners=False))


def rotate90(x: Tensor, _: float) -> Tensor:
    """Rotate by 0, 90, 180 or 270 degrees."""
    turns = uniform(x, 0, 4)[0]
    for quarter in (1, 2, 3):
        x = torch.where(((turns >= quarter) & (turns < quarter + 1))[:, None, None, None], x.rot90(quarter, (2, 3)), x)
    return x


def flip(x: Tensor, _: float) -> Tensor:
    """Flip left and right in half of the images."""
    return torch.where(uniform(x, 0, 1)[0, :, None, None, None] < 0.5, x.flip(3), x)


def shift(x: Tensor, most: float) -> Tensor:
    """Shift by whole pixels, up to `most` of the height and of the width; edge pixels are repeated."""
    draws = uniform(x, 0, 1, 2)
    image, channel = (torch.arange(size, device=x.device) for size in x.shape[:2])
    places = []
    for draw, size in zip(draws, x.shape[2:], strict=True):
        pixels = round(most * size)
        moved = ((2 * pixels + 1) * draw).long() - pixels  # (B,)
        places.append((torch.arange(size, device=x.device) - moved[:, None]).clamp(0, size - 1))  # (B, size)
    down, right = places
    return x[image[:, None, None, None], channel[:, None, None], down[:, None, :, None], right[:, None, None, :]]


def colour(x: Tensor, most: float) -> Tensor:
    """Change brightness, contrast (around the image's mean) and saturation (of RGB) by factors between 1 ± most."""
    brightness, contrast, saturation = uniform(x, 1 - most, 1 + most, 3)[..., None, None, None]
    out = x.float() * brightness
    if x.shape[1] == 3:
        grey = sum(weight * out[:, [channel]] for channel, weight in enumerate(LUMA))
        out = grey + saturation * (out - grey)
    mean = out.mean((1, 2, 3), keepdim=True)
    return levels(mean + contrast * (out - mean))


def levels(x: Tensor) -> Tensor:
    """Round to the nearest levels."""
    return x.round().clamp(0, 255).to(torch.uint8)


CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {  # in the order in which they are made
    "crop": crop,
    "rotate90": rotate90,
    "flip": flip,
    "shift": shift,
    "colour": colour,
}
AMOUNTS = {"crop": (0.8, 0, 1), "shift": (0.125, 0, 1), "colour": (0.2, 0, 1)}  # the usual one, and between what
