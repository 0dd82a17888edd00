"""python -m cvae sample."""

import math
from argparse import Namespace
from pathlib import Path

import torch

from cvae import pictures
from cvae.checks import positive_int, seed_number
from cvae.commands.opening import open_run
from cvae.console import console
from cvae.errors import ConfigError
from cvae.files import save
from cvae.noise import fixed_noise


def sample(args: Namespace) -> None:
    """python -m cvae sample RUN."""
    num, device = positive_int("--num", args.num), torch.device("cpu")
    seed_number("--seed", args.seed)
    out = Path(args.out or Path(args.run) / "samples.png")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ConfigError("--out", out, "the name of a file that ends in .png")
    _, vae, _ = open_run(Path(args.run), args.checkpoint, device)
    labels, columns = None, round(num**0.5)
    if args.label is not None:
        if not 0 <= args.label < vae.num_classes:
            allowed = f"from 0 to {vae.num_classes - 1}" if vae.num_classes else "left out: this model knows no classes"
            raise ConfigError("--class", args.label, allowed)
        labels = torch.full((num,), args.label)
    elif vae.num_classes:
        columns = math.ceil(num / vae.num_classes)
        num = columns * vae.num_classes  # full rows, one a class
        labels = torch.arange(num) // columns
    with fixed_noise(args.seed, device):
        images = vae.sample(num, labels)
    save(out, pictures.png(pictures.grid(images, columns)))
    console.print(f"{num} samples: {out}", soft_wrap=True, markup=False, highlight=False)
