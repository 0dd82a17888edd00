"""python -m cvae encode RUN FILES… | --split test: the latents of images."""

import argparse
import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cvae.commands.inputs import (
    BATCH,
    data_of,
    labels_of,
    model_of,
    own_levels,
    said,
    save_arrays,
    target,
    watched,
)
from cvae.errors import ConfigError
from cvae.runs.directory import SPLITS, Run
from cvae.runs.storage import save

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from cvae.models.vae import VAE


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    encode = commands.add_parser(
        "encode",
        parents=[run],
        help="write the latents of your own images, or of a split of the data",
        description="Write the posterior means of images, with names and, where they are known, labels. Your own "
        "images are cropped around the centre and resized to the size of the run's images, made grey or RGB and "
        "binarized as those were.",
        epilog="example: python -m cvae encode outputs/tf_tutorial/2026-01-31_12-00-00 --split test --out latents.csv",
    )
    encode.set_defaults(call=write_latents)
    encode.add_argument(
        "files", nargs="*", metavar="FILE", help="an image, of any format that Pillow reads, or a folder of them"
    )
    encode.add_argument("--split", choices=SPLITS, help="all images of a split of the run's data, instead of files")
    encode.add_argument(
        "--class",
        dest="label",
        metavar="CLASS",
        help="the class of all files, if conditional (default: their sub-folders of a folder say it)",
    )
    encode.add_argument("--data-root", metavar="DIR", help="the folder of the data, if it has moved")
    encode.add_argument(
        "--out",
        metavar="FILE",
        help="where to: a .npz with latents (N, D), labels, classes and names (N,), and of a model of codes codes "
        "(N, M), whose vectors the latents are; or a .csv with a row for each image (default: RUN/latents.npz)",
    )


def write_latents(args: argparse.Namespace) -> None:
    """Write means of q(z|x), for a flow the point that it makes of its base's mean.

    Raises:
        UserError: an option or the run is wrong, a file cannot be read, or the data are missing.
    """
    if bool(args.files) == bool(args.split):
        raise ConfigError("--split", args.split, "given instead of files, or left out with files")
    out = target(args, Run(args.run).latents, (".npz", ".csv"))
    import torch

    from cvae.models.latent_paths import posterior_mean
    from cvae.runtime.noise import fixed_noise

    vae = model_of(args).vae
    names, labels, classes, batches = batches_of(args, vae)
    of_codes, means, read = vae.posterior.num_codes is not None, [], []
    with torch.no_grad(), fixed_noise(args.seed, torch.device("cpu")):  # training images may be drawn anew
        for x, y in watched(batches, "encoding", math.ceil(len(names) / BATCH)):
            means.append(posterior_mean(vae.encode(x, y)))
            read += [vae.posterior.read(means[-1]).flatten(1)] if of_codes else []
    latents, codes = torch.cat(means).numpy(), torch.cat(read).numpy() if of_codes else None
    if out.suffix.lower() == ".npz":
        texts = [str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names]
        save_arrays(out, latents=latents, labels=labels, names=texts, classes=classes, codes=codes)
    else:
        save(out, table(latents, labels, names, codes, classes).encode("utf-8", "surrogateescape"))
    made = f"{latents.shape[1]} latents" if codes is None else f"{codes.shape[1]} codes each"
    said(f"{len(latents)} images, {made}: {out}")


def batches_of(
    args: argparse.Namespace, vae: "VAE"
) -> "tuple[Sequence[str], ndarray | None, list[str] | None, Iterator[tuple[Tensor, Tensor | None]]]":
    """Names; labels and the class of each image where they are known; batches (x, y) of the images."""
    import torch

    if args.files:
        data, files, levels = own_levels(args.files, args)
        y = labels_of(args, vae, len(levels), files.classes)
        noise = torch.Generator().manual_seed(data.seed)
        blocks = ((data.as_tested(levels[rows], noise), rows) for rows in torch.arange(len(levels)).split(BATCH))
        batches = ((x, None if y is None else y[rows]) for x, rows in blocks)
        return files.names, None if y is None else y.numpy(), files.classes, batches
    data = data_of(args)
    split = getattr(data, args.split)
    if split is None:
        raise ConfigError("--split", args.split, "train or test: this run has kept no images for validation")
    images = split.images
    seen = (data.batch(args.split, rows.tolist()) for rows in torch.arange(len(split)).split(BATCH))
    numbers = (f"{args.split}_{number}" for number in range(len(split)))
    names = list(numbers if images.names is None else map(str, images.names))
    labels = images.y.cpu().numpy()
    classes = [images.kind(label) for label in labels.tolist()] if images.classes else None
    return names, labels, classes, ((x, vae.labels(y)) for x, y in seen)


def table(
    latents: "ndarray",
    labels: "ndarray | None",
    names: Sequence[str],
    codes: "ndarray | None" = None,
    classes: Sequence[str] | None = None,
) -> str:
    """The latents as comma-separated values: name, label and class (where known), codes (where there are), z.

    z has all digits of a float32.
    """
    known: list[tuple[str, Sequence | ndarray]] = [] if labels is None else [("label", labels)]
    known += [] if classes is None else [("class", classes)]
    known += [] if codes is None else [(f"code{number}", column) for number, column in enumerate(codes.T)]
    rows = [["name", *(name for name, _ in known), *(f"z{d}" for d in range(latents.shape[1]))]]
    for number, (name, z) in enumerate(zip(names, latents, strict=True)):
        rows.append([name, *(column[number] for _, column in known), *(f"{value:.9g}" for value in z)])
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    return content.getvalue()
