"""Grids of images, and how pictures are encoded: PNG, GIF, TensorBoard."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import imageio.v3 as imageio
import numpy as np
import torch.nn.functional as F
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from cvae.errors import printable

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

ZOOM, SIDE = 3, 256  # a pixel of an image becomes so many in height and width at most, and an image so many pixels
LINE = 20  # pixels in height, of a name below an image


def grid(images: Tensor, columns: int, padding: int = 2, zoom: int | None = None) -> np.ndarray:
    """images (N, C, H, W) in [0, 1] -> (H', W', 3), each pixel drawn as zoom x zoom.

    zoom: by default 3; of images of more than 85 pixels 2, and of more than 128 pixels 1.

    Of 2 channels the first is shown, of more than 3 the first three.
    """
    images = images[:, : 1 if images.shape[1] == 2 else 3]
    zoom = zoom or zoom_of(images)
    shown = images.detach().float().cpu().clamp(0, 1)
    tiled = make_grid(shown, columns, padding)  # (3, H', W')
    if len(shown) == 1:  # which make_grid leaves without padding
        tiled = F.pad(tiled, [padding] * 4)
    pixels = (tiled * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels.repeat(zoom, 0).repeat(zoom, 1)


def zoom_of(images: Tensor) -> int:
    """How large a pixel of images (N, C, H, W) is drawn."""
    return min(ZOOM, max(1, SIDE // max(images.shape[2:])))


def named(images: Tensor, columns: int, names: Sequence[str]) -> np.ndarray:
    """As `grid` draws images (N, C, H, W), each with its name below it: as much of it as there is room for."""
    zoom, padding = zoom_of(images), 2
    height, width = images.shape[2:]
    below = math.ceil(LINE / zoom)  # in pixels of an image
    shown = Image.fromarray(grid(F.pad(images, (0, 0, 0, below), value=1.0), columns, padding, zoom))
    draw, font = ImageDraw.Draw(shown), ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)
    for number, name in enumerate(names):
        row, column = divmod(number, min(columns, len(images)))
        left, top = (zoom * (column * (width + padding) + padding), zoom * (row * (height + below + padding) + padding))
        text = " ".join(printable(name).split())
        while text and draw.textlength(text, font) > zoom * width:
            text = f"{text.removesuffix('…')[:-1]}…" if len(text) > 2 else ""
        draw.text((left + 1, top + zoom * height + 2), text, "black", font)
    return np.asarray(shown)


def side_by_side(*parts: np.ndarray) -> np.ndarray:
    """Pictures with a white gap between them; lower ones end in white."""
    height = max(len(part) for part in parts)
    gap = np.full((height, 24, 3), 255, np.uint8)
    joined = []
    for part in parts:
        joined += [gap, np.pad(part, ((0, height - len(part)), (0, 0), (0, 0)), constant_values=255)]
    return np.concatenate(joined[1:], 1)


def pair(
    sets: tuple[Tensor, Tensor], headings: tuple[str, str], columns: int, names: Sequence[str] | None = None
) -> np.ndarray:
    """Two sets of images (N, C, H, W) as grids beside each other, each with its heading; names: of the images."""
    drawn = (grid(images, columns) if names is None else named(images, columns, names) for images in sets)
    return side_by_side(*map(headed, drawn, headings))


def strips(a: Tensor, way: Tensor, b: Tensor) -> np.ndarray:
    """Ways (steps, N, C, H, W) from images a (N, C, H, W) to b as rows, their ends apart from them on both sides."""
    rows = way.transpose(0, 1).flatten(0, 1)  # (N * steps, C, H, W)
    return side_by_side(grid(a, 1), grid(rows, len(way)), grid(b, 1))


def headed(pixels: np.ndarray, text: str) -> np.ndarray:
    """A picture with a line of text above it."""
    line = Image.new("RGB", (pixels.shape[1], 28), "white")
    ImageDraw.Draw(line).text((4, 3), text, "black", ImageFont.load_default(18))
    return np.concatenate([np.asarray(line), pixels])


def reduced(pixels: np.ndarray, most: int) -> np.ndarray:
    """A picture of about `most` pixels at most: of a larger one each square of 2 x 2, 3 x 3, … becomes its mean."""
    factor = math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / most))
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def gif(frames: Iterable[np.ndarray], milliseconds: Sequence[int]) -> bytes:
    """An animated GIF that loops for ever, with the time of each frame; equal neighbours are one longer frame.

    The frames are taken one after the other: what is kept of each is its encoded form, a byte a pixel.
    """
    shown = (Image.fromarray(frame) for frame, _ in zip(frames, milliseconds, strict=True))
    first, content = next(shown), io.BytesIO()
    same = (frame if frame.size == first.size else frame.resize(first.size) for frame in shown)  # else they are cut
    first.save(content, "GIF", save_all=True, append_images=same, duration=list(milliseconds), loop=0)
    return content.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return imageio.imwrite("<bytes>", pixels, extension=".png")


def image_summary(tag: str, content: bytes, height: int, width: int) -> "Summary":
    """A TensorBoard summary of an encoded picture: PNG, or GIF, which TensorBoard shows animated."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=tag, image=encoded)])
