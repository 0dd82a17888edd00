"""python -m cvae traverse RUN [IMAGE]: what each latent dimension does to an image."""

import argparse
import math

from cvae.checks import positive_int
from cvae.commands.inputs import (
    data_of,
    images_of,
    is_number_of_an_image,
    model_of,
    require_room,
    said,
    target,
    watched,
)
from cvae.errors import ConfigError
from cvae.runs.directory import Run
from cvae.runs.storage import save


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    traverse = commands.add_parser(
        "traverse",
        parents=[run],
        help="show what each latent dimension does to an image",
        description="Move one dimension of z after the other from -3 to 3 standard deviations of the aggregate "
        "posterior of the test images, keep the others where the image is, and decode. The dimensions with the highest "
        "rates come first (for an autoencoder, which has no rates, those that vary most). A frame marks where the "
        "image itself is.",
        epilog="example: python -m cvae traverse outputs/tf_tutorial/2026-01-31_12-00-00 seven.png --dims 5",
    )
    traverse.set_defaults(call=move)
    traverse.add_argument(
        "image", nargs="?", default="0", metavar="IMAGE", help="a file, or the number of a test image (default: 0)"
    )
    traverse.add_argument("--dims", type=int, metavar="N", default=10, help="at most so many dimensions (default: 10)")
    traverse.add_argument(
        "--steps", type=int, default=7, help="images of each dimension, -3 and 3 included (default: 7)"
    )
    traverse.add_argument("--class", dest="label", metavar="CLASS", help="the class of a file, if conditional")
    traverse.add_argument("--data-root", metavar="DIR", help="the folder of the data, if it has moved")
    traverse.add_argument("--out", metavar="FILE", help="where to, a .png (default: RUN/traversal.png)")


def move(args: argparse.Namespace) -> None:
    """Write the picture.

    Raises:
        UserError: an option or the run is wrong, or the image or the test images cannot be had.
    """
    positive_int("--dims", args.dims)
    if positive_int("--steps", args.steps) < 2:
        raise ConfigError("--steps", args.steps, "at least 2, the two ends")
    out = target(args, Run(args.run).traversal, (".png",))
    import torch

    from cvae import pictures
    from cvae.evaluation.batches import IMAGES
    from cvae.evaluation.latents import latents, traverse
    from cvae.evaluation.report import test_batches
    from cvae.runtime.noise import fixed_noise

    vae = model_of(args).vae
    require_room("--steps", args.steps, vae, min(args.dims, *vae.shapes[0]))
    data = data_of(args)
    x, y = images_of([args.image], args, vae, data)
    with fixed_noise(args.seed, torch.device("cpu")):
        batches = test_batches(vae, data, range(len(data.test)), torch.device("cpu"))
        found = latents(vae, watched(batches, "encoding", math.ceil(len(data.test) / IMAGES)))
    shown = traverse(vae, found, x, y, args.dims, args.steps)
    names = data.test.images.names
    title = args.image
    if is_number_of_an_image(args.image):
        title = f"test image {args.image}" + ("" if names is None else f", {names[int(args.image)]}")
    title = pictures.as_it_is(title, 200)
    save(out, pictures.png(pictures.traversal(*shown, title)))
    said(f"{len(shown.dims)} dimensions: {out}")
