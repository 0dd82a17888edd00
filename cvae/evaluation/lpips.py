"""LPIPS: how far images are from each other in the layers of a network, weighed as people judge it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from cvae.errors import ConfigError, UserError
from cvae.evaluation.features import checksum, colours, kept_by_torch, load

# Networks of torchvision -> the authors' name, the layers whose features count, and pixels of a side at the least.
NETWORKS = {
    "alexnet": ("alex", (1, 4, 7, 9, 11), 31),
    "squeezenet1_1": ("squeeze", (1, 4, 7, 9, 10, 11, 12), 17),
    "vgg16": ("vgg", (3, 8, 15, 22, 29), 16),
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the authors', of images in [-1, 1]
SMALL = 1e-10  # added to the length of features, which may be 0
PIXELS = 2**18  # of the images that are measured at once: 64 maps of as many take 64 MiB


class LPIPS(nn.Module):
    """The sum over layers of the mean over places of sum_c w_c (a_c/|a| - b_c/|b|)^2 (Zhang et al. 2018, eq. 1).

    a and b are the features of two images at a place. The authors learned w, here of their version 0.1, from people's
    judgements, once for each network; torchmetrics has them in its package.

    Args:
        kind: alexnet, squeezenet1_1 or vgg16
        image_shape: (C, H, W) of the images; grey ones get three equal channels, none is resized
        weights: a file of the network's weights, as torchvision distributes it; None: where torch.hub keeps it. It is
            never fetched

    Raises:
        UserError: there is no such network or file, the file is of another network, or the images are too small.
    """

    shift: Tensor  # (3, 1, 1)
    scale: Tensor

    def __init__(self, kind: str, image_shape: tuple[int, int, int], weights: Path | None = None) -> None:
        super().__init__()
        if kind not in NETWORKS:
            raise ConfigError("--lpips", kind, f"{', '.join(NETWORKS)}, or one of these with the file of its weights")
        named, layers, smallest = NETWORKS[kind]
        if min(image_shape[1:]) < smallest:
            raise ConfigError("--lpips", kind, f"a network for these images: {kind} needs {smallest} pixels a side")
        known: Any = get_model_weights(kind)
        with torch.device("meta"):  # without its classifier, which is most of it
            features = get_model(kind, weights=None).features[: layers[-1] + 1]
        self.layers = features.to_empty(device="cpu").eval()
        load(self.layers, weights or kept_by_torch(kind, known.DEFAULT.url, "--lpips"), kind, "--lpips", "features.")
        self.weighed = nn.ParameterDict({str(at): w for at, w in zip(layers, judged(named, len(layers)), strict=True)})
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.name = f"{kind}-{checksum(self)}"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1], as the files have them -> (B,), without a unit; 0 for equal ones."""
        some = max(1, PIXELS // x[0, 0].numel())
        return torch.cat([self._apart(*pair) for pair in zip(x.split(some), y.split(some), strict=True)])

    def _apart(self, x: Tensor, y: Tensor) -> Tensor:
        features = (2 * colours(torch.cat([x, y])) - 1 - self.shift) / self.scale
        distance = x.new_zeros(len(x))
        for number, layer in enumerate(self.layers):
            features = layer(features)
            if str(number) in self.weighed:
                unit = features / (features.square().sum(1, keepdim=True).sqrt() + SMALL)
                apart = (unit[: len(x)] - unit[len(x) :]).square().mean((2, 3))  # (B, channels)
                distance = distance + apart @ self.weighed[str(number)]
        return distance


def judged(network: str, layers: int) -> list[Tensor]:
    """The authors' weights of channels, one (channels,) for each layer, as torchmetrics has them.

    Raises:
        UserError: torchmetrics is not installed, or has none.
    """
    found = find_spec("torchmetrics")
    file = Path((found and found.origin) or "").parent / "functional" / "image" / "lpips_models" / f"{network}.pth"
    if not file.is_file():
        raise UserError("--lpips needs torchmetrics>=1.0, which has the authors' weights: pip install -U torchmetrics")
    state = torch.load(file, map_location="cpu", weights_only=True)  # they were saved on a GPU
    return [state[f"lin{number}.model.1.weight"].flatten() for number in range(layers)]


def named_lpips(word: str, image_shape: tuple[int, int, int]) -> LPIPS:
    """The LPIPS that a word asks for: a network, with the file of its weights as in vgg16:FILE. Raises UserError."""
    kind, _, file = word.partition(":")
    return LPIPS(kind, image_shape, Path(file) if file else None)
