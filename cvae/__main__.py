"""cvae COMMAND, also python -m cvae COMMAND: train, and what is done with a run afterwards."""

import argparse
import logging
import sys
from pathlib import Path

from cvae.cli import train
from cvae.cli.messages import readable_errors
from cvae.commands import (
    compare,
    data,
    encode,
    evaluate,
    explore,
    export,
    features,
    fit_prior,
    interpolate,
    reconstruct,
    sample,
    traverse,
)
from cvae.runs.directory import AVERAGED, BEST, LAST, RAW, Run
from cvae.runs.trust import require_inside
from cvae.runtime.console import ConsoleHandler

COMMANDS = (
    data,
    features,
    evaluate,
    sample,
    reconstruct,
    encode,
    interpolate,
    traverse,
    fit_prior,
    export,
    compare,
    explore,
)  # in the order of --help


def parser() -> argparse.ArgumentParser:
    """The command line. It imports nothing slow: a command imports what it needs when it runs."""
    run = argparse.ArgumentParser(add_help=False)  # the arguments of every command that loads a model
    run.add_argument("run", metavar="RUN", help="a run directory, as train.py writes it")
    run.add_argument("--checkpoint", metavar="FILE", default=LAST, help=f"{LAST} (default) or {BEST}")
    run.add_argument(
        "--weights",
        choices=(AVERAGED, RAW),
        help="for a run with averaging.decay: the averaged weights (default), or the raw ones",
    )
    run.add_argument("--seed", type=int, default=0, help="the seed of the noise (default: 0)")
    run.add_argument(
        "--trust",
        action="store_true",
        help="the run's config may call any code: for runs with custom components, only if you trust their maker",
    )

    main = argparse.ArgumentParser(
        program(), description="Train a VAE, measure it, use it, and explore its latent space."
    )
    commands = main.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("train", help=f"train, as python train.py does: {program()} train --help")
    for command in COMMANDS:
        command.add(commands, run)
    return main


def program() -> str:
    """The program's name as the user typed it: cvae, or python -m cvae."""
    return "cvae" if Path(sys.argv[0]).stem == "cvae" else "python -m cvae"


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["train"]:  # its words are Hydra's
        sys.argv[0] = f"{program()} train"
        train.main(words[1:])
        return
    with readable_errors():
        args = parser().parse_args(words)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])
        if "run" in args:
            run = Run(args.run, args.trust)
            run.config()  # torch takes seconds to import: not for a misspelt name
            if not run.trust:
                require_inside(run.path, files=True)
        args.call(args)


if __name__ == "__main__":
    main()
