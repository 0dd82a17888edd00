"""Pictures as uint8 arrays (H, W, 3): grids, latent manifold, scatter of posterior means; and a GIF of frames."""

from typing import TYPE_CHECKING

import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from cvae.vae import VAE

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary


def grid(images: Tensor, columns: int, padding: int = 2, zoom: int = 3) -> np.ndarray:
    """images (N, C, H, W) in [0, 1] -> (H', W', 3), each pixel drawn as zoom x zoom."""
    tiled = make_grid(images.detach().float().cpu().clamp(0, 1), columns, padding)  # (3, H', W')
    pixels = (tiled * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels.repeat(zoom, 0).repeat(zoom, 1)


@torch.no_grad()
def latent_manifold(vae: VAE, steps: int, device: torch.device, label: int | None = None) -> np.ndarray:
    """Decoded means over the (steps x steps) quantiles 0.05 … 0.95 of the standard normal, for two latent dimensions.

    z[0] grows to the right and z[1] upwards, as in the scatter (the tutorial's grows downwards). (steps H, steps W, 3).

    label: the class, for a conditional model.
    """
    quantiles = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.05, 0.95, steps)).to(device)
    up, right = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")  # the first row is the highest
    z = torch.stack([right, up], -1).reshape(-1, 2)
    labels = None if label is None else torch.full((len(z),), label, device=device)
    images = vae.decode(z, labels).mean
    return grid(images, steps, padding=0, zoom=1)


def latent_scatter(means: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first two dimensions of posterior means (N, D), a colour a class, as a picture."""
    # Not pyplot: it keeps a global list of figures, and this runs inside a training process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    colours = "tab10" if labels.max() < 10 else "nipy_spectral"
    points = axes.scatter(means[:, 0], means[:, 1], c=labels, cmap=colours, s=3, linewidths=0)
    axes.legend(*points.legend_elements(num=None), title="class", loc="upper right", fontsize="small")
    axes.set(xlabel="z[0]", ylabel="z[1]", title="posterior means of the test images", aspect="equal")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures with a white gap between them; the lower one ends in white."""
    height = max(len(left), len(right))
    gap = np.full((height, 24, 3), 255, np.uint8)
    left, right = (
        np.pad(part, ((0, height - len(part)), (0, 0), (0, 0)), constant_values=255) for part in (left, right)
    )
    return np.concatenate([left, gap, right], 1)


def gif(frames: list[np.ndarray], milliseconds: int, last_milliseconds: int) -> bytes:
    """An animated GIF that loops for ever and holds its last frame."""
    shown, durations = [], []
    for frame in frames:
        if shown and np.array_equal(frame, shown[-1]):
            durations[-1] += milliseconds  # equal neighbours are one longer frame: the encoder fails on them
        else:
            shown.append(frame)
            durations.append(milliseconds)
    durations[-1] += last_milliseconds - milliseconds
    pace = durations if len(shown) > 1 else durations[0]
    return imageio.imwrite("<bytes>", np.stack(shown), extension=".gif", duration=pace, loop=0)


def png(pixels: np.ndarray) -> bytes:
    return imageio.imwrite("<bytes>", pixels, extension=".png")


def image_summary(tag: str, content: bytes, height: int, width: int) -> "Summary":
    """A TensorBoard summary of an encoded picture: PNG, or GIF, which TensorBoard shows animated."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=tag, image=encoded)])
