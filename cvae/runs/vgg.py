"""A network that has learned to name objects, from a file that the user has."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from cvae.errors import ConfigError

__all__ = ["vgg16"]  # what conf/ and saved configs may name


def vgg16(weights: str | None = None, sha256: str | None = None) -> nn.Sequential:
    """VGG16's convolutions, ReLUs and poolings, with the weights of a file (Simonyan and Zisserman 2015).

    Args:
        weights: a file of torchvision's VGG16, its state_dict. It is never fetched
        sha256: what the file's SHA-256 begins with, as the name of torchvision's file has it; None: any file

    Raises:
        ConfigError: there is no such file, or it is another.
    """
    from torchvision.models.vgg import cfgs, make_layers

    named = "a file with the weights of torchvision's VGG16, as vgg16-397923af.pth, which you have: none is fetched"
    if weights is None or not Path(weights).expanduser().is_file():
        raise ConfigError("weights", weights, named)
    file = Path(weights).expanduser()
    if sha256 is not None:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if not found.startswith(str(sha256)):
            raise ConfigError("sha256", sha256, f"what the SHA-256 of {file} begins with, {found[:8]}, or null")
    layers = make_layers(cfgs["D"])
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)  # an old form, no zip
        layers.load_state_dict({name[9:]: part for name, part in state.items() if name.startswith("features.")})
    except Exception as error:  # a file of another kind makes torch's reader raise almost anything
        raise ConfigError("weights", weights, named) from error
    return layers
