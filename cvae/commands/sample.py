"""python -m cvae sample RUN: draw images from the prior."""

import argparse
import math
from pathlib import Path

from cvae.checks import positive_int, seed_number
from cvae.console import console
from cvae.errors import ConfigError
from cvae.files import save
from cvae.run import Run


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    sample = commands.add_parser(
        "sample",
        parents=[run],
        help="draw images from the prior into a PNG",
        description="Draw images from the prior into a PNG: means of p(x|z). A model that is conditioned on the class "
        "label draws one row per class.",
        epilog="example: python -m cvae sample outputs/tf_tutorial/2026-01-31_12-00-00 --num 64",
    )
    sample.set_defaults(call=draw)
    sample.add_argument(
        "--num", type=int, default=64, help="images (default: 64); conditional: rounded up to full rows"
    )
    sample.add_argument("--class", dest="label", type=int, metavar="K", help="of this class alone, if conditional")
    sample.add_argument("--out", metavar="FILE", help="where to, a .png (default: RUN/samples.png)")


def draw(args: argparse.Namespace) -> None:
    """Write a PNG with a grid of means of p(x|z), z from the prior; a conditional model draws one row per class.

    Raises:
        UserError: an option or the run is wrong.
    """
    num = positive_int("--num", args.num)
    seed_number("--seed", args.seed)
    out = Path(args.out) if args.out else Run(args.run).samples
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ConfigError("--out", out, "the name of a file that ends in .png")
    import torch

    from cvae import pictures
    from cvae.build import load
    from cvae.noise import fixed_noise

    vae = load(args.run, args.checkpoint, trust=args.trust)
    labels, columns = None, round(num**0.5)
    if args.label is not None:
        if not 0 <= args.label < vae.num_classes:
            knows_none = "left out: this model knows no classes"
            allowed = f"from 0 to {vae.num_classes - 1}" if vae.num_classes else knows_none
            raise ConfigError("--class", args.label, allowed)
        labels = torch.full((num,), args.label)
    elif vae.num_classes:
        columns = math.ceil(num / vae.num_classes)
        num = columns * vae.num_classes  # full rows, one a class
        labels = torch.arange(num) // columns
    with fixed_noise(args.seed, torch.device("cpu")):
        images = vae.sample(num, labels)
    save(out, pictures.png(pictures.grid(images, columns)))
    console.print(f"{num} samples: {out}", soft_wrap=True, markup=False, highlight=False)
