"""A file with random weights in the form of torchvision's VGG16."""

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from torchvision.models.vgg import cfgs, make_layers


@cache
def vgg_file():
    """Its path; it goes with this process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = make_layers(cfgs["D"])
    torch.save({f"features.{name}": part for name, part in layers.state_dict().items()}, folder / "vgg16.pth")
    return folder / "vgg16.pth"


def vgg_words():
    return [
        f"objective.features.weights={vgg_file()}",
        "objective.features.sha256=null",
        "objective.width=2",
        "objective.layers=2",
    ]


def checksum():
    return hashlib.sha256(vgg_file().read_bytes()).hexdigest()
