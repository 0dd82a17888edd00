"""What an image is described by where sets of images are compared: a classifier's features, a known network's, pixels.

Features are functions of x (B, C, H, W) in [0, 1], as the files have it (not inverted), that return (B, D). The name of
each has a checksum of its numbers: only what was measured by the same features can be compared.
"""

import math
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model, get_model_weights, list_models

from cvae.errors import ConfigError, UserError
from cvae.runtime.noise import fixed_noise

DIMS = 128  # of the classifier's features
SMALLEST = 7  # pixels: maps are halved until their shorter side is below twice this
COMPONENTS = 64  # of the pixels
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]  # (items, what is done, how many) -> the items

SQUASHED = ("inception_v3", "googlenet")  # networks of torchvision whose weights want transform_input=True


class Features(nn.Module):
    """x (B, C, H, W) in [0, 1] -> features (B, D). `name` says which, with a checksum."""

    name: str
    slow = False  # whether tens of thousands of images take long

    @property
    def device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device


class Classifier(Features):
    """A small convolutional classifier; its features are what its last layer reads.

    Pairs of convolutions of 3x3, the second of which halves the map, until it is about 7 pixels wide; then one more, to
    128 channels, and the mean over the map.

    Args:
        image_shape: (C, H, W)
        num_classes: at least 2
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        self.image_shape, self.num_classes = image_shape, num_classes
        halvings = max(1, math.floor(math.log2(max(min(sides) / SMALLEST, 1))))
        layers: list[nn.Module] = []
        for stage in range(halvings):
            width = min(32 * 2**stage, DIMS)
            layers += [*convolution(channels, width), *convolution(width, width, stride=2)]
            channels = width
        self.body = nn.Sequential(*layers, *convolution(channels, DIMS), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(DIMS, num_classes)
        self.name = "classifier"

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def logits(self, x: Tensor) -> Tensor:
        """Of the classes: (B, num_classes)."""
        return self.head(self.body(x))


def convolution(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class Pixels(Features):
    """The principal components of pixels, at most 64: a floor, as blur and shifts look like large differences.

    Args:
        x: the images (N, C, H, W) in [0, 1] that the components are found of
    """

    mean: Tensor  # (C H W,)
    components: Tensor  # (C H W, D)

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        flat = x.flatten(1).cpu()
        kept = min(COMPONENTS, *flat.shape)
        with fixed_noise(0, torch.device("cpu")):  # the components are found from random directions
            _, _, components = torch.pca_lowrank(flat, kept, niter=4)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("components", components)
        self.name = f"pixels-{checksum(self)}"

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.mean) @ self.components


class Network(Features):
    """A network of torchvision; its features are what its last linear layer reads (of inception_v3 2,048).

    Images become as large as those that it was trained on, stretched where they are not square; grey ones get three
    equal channels.

    Args:
        kind: its name in torchvision, as inception_v3
        weights: a file of them, as torchvision distributes it; None: where torch.hub keeps it. It is never fetched

    Raises:
        UserError: there is no such network or file, or the file is of another network.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor
    slow = True

    def __init__(self, kind: str, weights: Path | None = None) -> None:
        super().__init__()
        if kind not in list_models(models):
            allowed = "classifier, pixels, or a network of torchvision that classifies images, as inception_v3"
            raise ConfigError("--features", kind, allowed)
        known: Any = get_model_weights(kind)
        seen = known.DEFAULT.transforms()
        options = {"transform_input": True, "init_weights": False} if kind in SQUASHED else {}
        network = get_model(kind, weights=None, **options)
        load(network, weights or kept_by_torch(kind, known.DEFAULT.url), kind)
        linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise ConfigError("--features", kind, "a network whose last layer is linear")
        self.network, self.size = network.eval(), seen.crop_size[0]
        self.register_buffer("mean", torch.tensor(seen.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(seen.std)[:, None, None], persistent=False)
        linear[-1].register_forward_pre_hook(self._keep)
        self.name = f"{kind}-{checksum(network)}"

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.kept = inputs[0]

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(colours(x), (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        self.network((x - self.mean) / self.std)
        return self.kept.flatten(1)


def colours(x: Tensor) -> Tensor:
    """Images (B, C, H, W) with three channels (B, 3, H, W): grey ones repeated, an alpha channel left out."""
    return x[:, :3].expand(-1, 3, -1, -1) if x.shape[1] != 2 else x[:, :1].expand(-1, 3, -1, -1)


def kept_by_torch(kind: str, url: str, option: str = "--features") -> Path:
    """Where torch.hub keeps the weights. Raises UserError, which names the option, where they are not."""
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.is_file():
        raise UserError(
            f"{option} {kind}: its weights are not on this machine, and are not fetched unasked. Put {url} into "
            f"{file.parent}, or name the file: {option} {kind}:FILE"
        )
    return file


def load(network: nn.Module, file: Path, kind: str, option: str = "--features", part: str = "") -> None:
    """Put the weights of a file, or those whose names begin with `part`, into a network.

    Raises:
        UserError: there is no such file, or it is of another network.
    """
    if not file.is_file():
        raise UserError(f"{option} {kind}:{file}: there is no such file")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict({name[len(part) :]: value for name, value in state.items() if name.startswith(part)})
    except Exception as error:  # odd content makes torch and pickle raise almost anything
        said = str(error).splitlines()[0]
        raise UserError(f"{file} does not hold the weights of torchvision's {kind}: {said}") from error


def checksum(module: nn.Module) -> str:
    """8 hexadecimal digits of all numbers of a module, by name."""
    whole = blake2b(digest_size=4)
    for name, value in sorted(module.state_dict().items()):
        whole.update(name.encode())
        whole.update(value.cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()
