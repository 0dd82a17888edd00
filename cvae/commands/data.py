"""python -m cvae data DATA…: what a user's own images are, and what to choose for them."""

import argparse
from pathlib import Path

from cvae.commands.inputs import said, target, watched
from cvae.errors import ConfigError, UserError
from cvae.runs.storage import save


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    data = commands.add_parser(
        "data",
        help="look at your own images before training: sizes, duplicates, damaged files, and what to choose",
        description="Look at folders of images or files of arrays: how many images there are, their classes, sizes, "
        "channels and values, duplicates and damaged files, and what to type to train on them. Saves a grid of images.",
        epilog="example: python -m cvae data my/images",
    )
    data.set_defaults(call=look)
    data.add_argument("paths", nargs="+", metavar="DATA", help="a folder of images; or arrays, as data=npz reads them")
    data.add_argument("--out", metavar="FILE", help="the grid, a .png (default: NAME_images.png here)")


def look(args: argparse.Namespace) -> None:
    """Print what is there, and save the grids.

    Raises:
        UserError: there is no such folder or file, it has no images, or an option is wrong.
    """
    if args.out and len(args.paths) > 1:
        raise ConfigError("--out", args.out, "left out with several data: each has a grid of its own")
    if words := [path for path in args.paths if "=" in path and not Path(path).exists()]:
        raise UserError(f"{words[0]}: name the folder or file alone, as in: python -m cvae data my/images")
    from cvae import pictures
    from cvae.data.survey import command, survey

    for number, path in enumerate(map(Path, args.paths)):
        out = target(args, Path(f"{path.resolve().stem}_images.png"), (".png",))
        found = survey(path, watched)
        said("\n" * bool(number) + f"{path}")
        for line in found.lines:
            said(f"  {line}".replace("\n", "\n  "))
        save(out, pictures.png(pictures.grid(found.shown, 8)))
        said(f"  a grid of images: {out}\nNext: {command(found.words)}")
