"""python -m cvae explore RUN: the latent space in the browser."""

import argparse
import socket
from collections.abc import Callable
from pathlib import Path

from cvae.checks import positive_int
from cvae.commands.inputs import data_of, model_of, said
from cvae.errors import ConfigError, UserError
from cvae.runs.directory import Run
from cvae.runs.storage import save


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    explore = commands.add_parser(
        "explore",
        parents=[run],
        help="explore the latent space in the browser",
        description="Explore the latent space in the browser: the point under the pointer is decoded at once. Only "
        "this computer can see the page. --html instead writes a page without a server, which you can send to "
        "somebody.",
        epilog="example: python -m cvae explore outputs/tf_tutorial/2026-01-31_12-00-00",
    )
    explore.set_defaults(call=look)
    explore.add_argument("--port", type=int, default=8080, help="where the page is served (default: %(default)s)")
    explore.add_argument("--no-browser", action="store_true", help="open no browser, print the address alone")
    explore.add_argument(
        "--html", metavar="FILE", help="write a page without a server, for a model with two latent dimensions"
    )
    explore.add_argument("--images", type=int, metavar="N", help="only the first N test images (default: all)")
    explore.add_argument(
        "--data-root", metavar="DIR", help="the folder of the data, if it has moved since the training"
    )


def look(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, or write --html.

    Raises:
        UserError: an option, the run or its data are wrong, or NiceGUI is not installed.
    """
    if args.images is not None:
        positive_int("--images", args.images)
    serve = None if args.html else server(args.port, args.run)
    from cvae.distributions import is_discrete
    from cvae.explorer import static_tables
    from cvae.explorer.codes import CodeSpace
    from cvae.explorer.space import Space, require_plane, space_of

    vae = model_of(args).vae
    require_plane(vae)
    if args.html:
        static_tables.require_two_dimensions(vae)
    data = data_of(args)
    space = CodeSpace(vae, data, args.seed) if is_discrete(vae.p_z()) else space_of(vae, data, args.images, args.seed)
    title = f"{args.run}, {Run(args.run).checkpoint(args.checkpoint).name}"
    if serve:
        serve(space, title, args.port, not args.no_browser)
    elif isinstance(space, Space):  # codes are refused above
        save(Path(args.html), static_tables.page(space, title).encode())
        said(f"A page without a server: {args.html}")


def server(port: int, run: str) -> Callable:
    """The function that serves the page, once it is clear that it can, which it says. Raises UserError if it cannot."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended holds it no longer
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise ConfigError("--port", port, f"a port that no other program uses ({error})") from error
    said(f"Starting: libraries, the model of {run} and its test images take some seconds.")
    try:
        from cvae.explorer.page import serve
    except ModuleNotFoundError as error:
        install = "pip install -c constraints.txt -e '.[explore]'"
        raise UserError(f"explore needs {error.name}: {install}; or write a page with --html FILE") from error
    return serve
