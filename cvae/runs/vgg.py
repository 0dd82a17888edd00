"""A network that has learned to name objects, from a file that the user has."""

import hashlib
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvae.errors import ConfigError, UserError
from cvae.runs.checkpoint import read_checkpoint, require_known, require_size

__all__ = ["vgg16"]  # what conf/ and saved configs may name


LARGEST = 2**30  # bytes; torchvision's file has half as many
PICKLES = 5  # of a file in torch's form before 1.6, which torchvision's is in


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
    file = None if weights is None else Path(weights).expanduser()
    if file is None or not file.is_file():
        raise ConfigError("weights", weights, named)
    if (size := file.stat().st_size) > LARGEST:
        raise ConfigError("weights", weights, f"a file of at most {LARGEST:,} bytes, it has {size:,}")
    if sha256 is not None:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if not found.startswith(str(sha256)):
            raise ConfigError("sha256", sha256, f"what the SHA-256 of {file} begins with, {found[:8]}, or null")
    layers = make_layers(cfgs["D"])
    try:
        state = read_weights(file)
        layers.load_state_dict({name[9:]: part for name, part in state.items() if name.startswith("features.")})
    except Exception as error:  # a file of another kind makes torch's reader raise almost anything
        why = f" ({error})" if isinstance(error, UserError | ValueError) else ""
        raise ConfigError("weights", weights, named + why) from error
    return layers


def read_weights(file: Path) -> dict[str, Any]:
    """What a file of weights holds. A config of somebody else may name it: data alone, and no larger than the file.

    Raises:
        ValueError, UserError: it holds something else; torch's reader raises almost anything.
    """
    if zipfile.is_zipfile(file):
        return read_checkpoint(file)
    with file.open("rb") as stream:
        for _ in range(PICKLES):
            require_known(pickletools.genops(stream))
    content = torch.load(file, map_location="cpu", weights_only=True)
    require_size(content, 2 * file.stat().st_size)
    return content
