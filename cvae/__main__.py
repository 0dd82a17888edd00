"""What is done with a run after training: python -m cvae COMMAND RUN."""

import argparse
import logging

from cvae.cli.messages import readable_errors
from cvae.commands import (
    compare,
    encode,
    evaluate,
    explore,
    export,
    fit_prior,
    interpolate,
    reconstruct,
    sample,
    traverse,
)
from cvae.runs.directory import BEST, LAST, Run
from cvae.runs.trust import require_inside
from cvae.runtime.console import ConsoleHandler

COMMANDS = (
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
    run.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    run.add_argument(
        "--trust",
        action="store_true",
        help="the run's config may call any code: for runs with parts that are not cvae's, if you trust their maker",
    )

    main = argparse.ArgumentParser("python -m cvae", description="Measure, use and look into a trained model.")
    commands = main.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands, run)
    return main


def main(argv: list[str] | None = None) -> None:
    with readable_errors():
        args = parser().parse_args(argv)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])
        if "run" in args:
            run = Run(args.run, args.trust)
            run.config()  # torch takes seconds to import: not for a misspelt name
            if not run.trust:
                require_inside(run.path, files=True)
        args.call(args)


if __name__ == "__main__":
    main()
