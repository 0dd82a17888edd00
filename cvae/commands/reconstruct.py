"""python -m cvae reconstruct RUN FILES…: the user's own images, and what the model makes of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cvae.commands.inputs import BATCH, labels_of, model_of, own_images, said, save_images, target, watched
from cvae.runs.directory import Run

if TYPE_CHECKING:
    from numpy import ndarray

COLUMNS = 8  # of the grid, in each of its halves


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    reconstruct = commands.add_parser(
        "reconstruct",
        parents=[run],
        help="reconstruct your own images",
        description="Reconstruct your own images, of any format and size. They are cropped around the centre and "
        "resized to the size of the run's images, made grey or RGB and binarized as those were.",
        epilog="example: python -m cvae reconstruct outputs/tf_tutorial/2026-01-31_12-00-00 *.png --out reconstructed",
    )
    reconstruct.set_defaults(call=redraw)
    reconstruct.add_argument(
        "files", nargs="+", metavar="FILE", help="an image, of any format that Pillow reads, or a folder of them"
    )
    reconstruct.add_argument(
        "--class",
        dest="label",
        metavar="CLASS",
        help="the class of all files, if conditional (default: their sub-folders of a folder say it)",
    )
    reconstruct.add_argument(
        "--out",
        metavar="PATH",
        help="where to: a .png, left the images and right their reconstructions; a .npz with x and originals "
        "(N, H, W, C), and names; or a folder, for a PNG each (default: RUN/reconstructed.png)",
    )
    reconstruct.set_defaults(data_root=None)


def redraw(args: argparse.Namespace) -> None:
    """Write means of p(x|z), for one draw of z from q(z|x) an image.

    Raises:
        UserError: an option or the run is wrong, or a file cannot be read.
    """
    out = target(args, Run(args.run).reconstructed, (".png", ".npz", ""))
    import torch

    from cvae import pictures
    from cvae.runtime.noise import fixed_noise

    vae = model_of(args).vae
    files, x = own_images(args.files, args)
    y = labels_of(args, vae, len(x), files.classes)
    rows = torch.arange(len(x)).split(BATCH)
    with fixed_noise(args.seed, torch.device("cpu")):
        parts = [vae.reconstruct(x[i], None if y is None else y[i]) for i in watched(rows, "reconstructing", len(rows))]
    images, columns = torch.cat(parts), min(COLUMNS, len(x))

    def both() -> "ndarray":
        return pictures.side_by_side(pictures.grid(x, columns), pictures.grid(images, columns))

    originals = x.permute(0, 2, 3, 1).numpy()
    save_images(out, images, numbered(files.names), both, originals=originals, names=files.names)
    said(f"{len(x)} reconstructions: {out}")


def numbered(files: list[str]) -> list[str]:
    """A name for each file: its own without folder and ending, with a number where that is not enough."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else [f"{number}_{stem}" for number, stem in enumerate(stems)]
