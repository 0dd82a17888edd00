"""python -m cvae sample RUN: draw images from the prior."""

import argparse
import math

from cvae.checks import number, positive_int
from cvae.commands.fitted_prior import KINDS, fitted
from cvae.commands.inputs import BATCH, labels_of, model_of, require_room, said, save_images, target, watched
from cvae.runs.directory import Run


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    sample = commands.add_parser(
        "sample",
        parents=[run],
        help="draw images from the prior",
        description="Draw images from the prior: means of p(x|z). A model that is conditioned on the class label draws "
        "one row per class.",
        epilog="example: python -m cvae sample outputs/tf_tutorial/2026-01-31_12-00-00 --num 64 --temperature 0.8",
    )
    sample.set_defaults(call=draw)
    sample.add_argument(
        "--num", type=int, default=64, help="images (default: 64); conditional: rounded up to full rows"
    )
    sample.add_argument("--class", dest="label", metavar="CLASS", help="of this class alone, if conditional")
    sample.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        default=1.0,
        help="a factor for the noise that is drawn: below 1 more typical and less varied images (default: 1)",
    )
    sample.add_argument(
        "--prior",
        choices=KINDS,
        help="draw from a prior that is fitted to the aggregate posterior of the training images, a mixture of "
        "Gaussians, a flow or a second VAE, or for codes an autoregressive one; it is kept in the run (Ghosh et al. "
        "2020; Dai and Wipf 2019)",
    )
    sample.add_argument("--data-root", metavar="DIR", help="for --prior: the folder of the data, if it has moved")
    sample.add_argument(
        "--out",
        metavar="PATH",
        help="where to: a .png, one grid; a .npz with x (N, H, W, C) and, conditional, y; or a folder, for a PNG each "
        "(default: RUN/samples.png)",
    )


def draw(args: argparse.Namespace) -> None:
    """Write means of p(x|z), z from the prior, as a grid, as arrays, or one by one.

    Raises:
        UserError: an option or the run is wrong, or a density is to be fitted and the data are missing.
    """
    num = positive_int("--num", args.num)
    number("--temperature", args.temperature)
    out = target(args, Run(args.run).samples, (".png", ".npz", ""))
    import torch

    from cvae import pictures
    from cvae.runtime.noise import fixed_noise

    vae, step, weights = model_of(args)
    require_room("--num", num, vae)
    columns, labels = round(num**0.5), None
    if vae.num_classes and args.label is None:
        columns = math.ceil(num / vae.num_classes)
        num = columns * vae.num_classes  # full rows, one a class
        labels = torch.arange(num) // columns
    else:
        labels = labels_of(args, vae, num)
    if args.prior:
        vae.prior = fitted(args.prior, args, vae, step, weights)
    batches = torch.arange(num).split(BATCH)
    with fixed_noise(args.seed, torch.device("cpu")):
        parts = [
            vae.sample(len(rows), None if labels is None else labels[rows], args.temperature)
            for rows in watched(batches, "sampling", len(batches))
        ]
    images = torch.cat(parts)
    names = [f"{number:0{len(str(num - 1))}d}" for number in range(num)]
    save_images(out, images, names, lambda: pictures.grid(images, columns), y=labels)
    said(f"{num} samples: {out}")
