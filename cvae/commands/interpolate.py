"""python -m cvae interpolate RUN A B: the way from one image to another."""

import argparse

from cvae.checks import positive_int
from cvae.commands.inputs import images_of, model_of, require_room, said, target
from cvae.errors import ConfigError
from cvae.runs.directory import Run
from cvae.runs.storage import save

FRAME, HELD = 100, 800  # milliseconds, of a frame of the GIF and of its ends


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    interpolate = commands.add_parser(
        "interpolate",
        parents=[run],
        help="interpolate between two images: a strip and a GIF",
        description="Decode points between the posterior means of A and B: along an arc if the prior is "
        "N(0, I), else straight. Writes a strip, with A and B at its ends, and a GIF that goes there and back.",
        epilog="example: python -m cvae interpolate outputs/tf_tutorial/2026-01-31_12-00-00 0 seven.png --steps 12",
    )
    interpolate.set_defaults(call=walk)
    for name in ("a", "b"):
        interpolate.add_argument(name, metavar=name.upper(), help="an image file, or the number of a test image")
    interpolate.add_argument("--steps", type=int, default=10, help="decoded points, the ends included (default: 10)")
    interpolate.add_argument(
        "--class", dest="label", metavar="CLASS", help="the class of both, if conditional (default: that of A)"
    )
    interpolate.add_argument("--data-root", metavar="DIR", help="the folder of the data, if it has moved")
    interpolate.add_argument(
        "--out", metavar="FILE", help="where to, a .png; the GIF lies beside it (default: RUN/interpolation.png)"
    )


def walk(args: argparse.Namespace) -> None:
    """Write the strip and the GIF.

    Raises:
        UserError: an option or the run is wrong, or an image cannot be had.
    """
    if positive_int("--steps", args.steps) < 2:
        raise ConfigError("--steps", args.steps, "at least 2, the two ends")
    out = target(args, Run(args.run).interpolation, (".png",))
    from cvae import pictures

    vae = model_of(args).vae
    require_room("--steps", args.steps, vae)
    x, y = images_of([args.a, args.b], args, vae)
    way = vae.interpolate(x[:1], x[1:], None if y is None else y[:1], args.steps)  # (steps, 1, C, H, W)
    save(out, pictures.png(pictures.strips(x[:1], way, x[1:])))
    there = [pictures.grid(image, 1, padding=0, zoom=max(1, 224 // image.shape[-1])) for image in way]
    frames = [*there, *there[-2:0:-1]]
    pace = [HELD if number in (0, args.steps - 1) else FRAME for number in range(len(frames))]
    save(out.with_suffix(".gif"), pictures.gif(frames, pace))
    said(f"{args.steps} steps: {out} and {out.with_suffix('.gif')}")
