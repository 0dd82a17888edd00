"""What is done with a run after training: python -m cvae evaluate|sample RUN."""

import argparse
import importlib
import logging

from cvae.cli import readable_errors
from cvae.console import ConsoleHandler
from cvae.run import BEST, LAST, Run


def parser() -> argparse.ArgumentParser:
    """The command line, without what the commands import: --help is instant."""
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("run", metavar="RUN", help="a run directory, as train.py writes it")
    run.add_argument("--checkpoint", metavar="FILE", default=LAST, help=f"{LAST} (default) or {BEST}")
    run.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")

    main = argparse.ArgumentParser("python -m cvae", description="Evaluate a trained model, or draw samples from it.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_evaluate(commands, run)
    add_sample(commands, run)
    return main


def add_evaluate(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=[run],
        help="measure a run on its test set: log p(x), ELBO, bits per dim, active units, the aggregate posterior",
        description="Measure a run on its test set. Writes a file into RUN/evaluation, and prints a table.",
        epilog="example: python -m cvae evaluate outputs/tf_tutorial/2026-01-31_12-00-00 --samples 5000",
    )
    evaluate.add_argument(
        "--samples", type=int, default=5000, help="importance samples per image (default: %(default)s)"
    )
    evaluate.add_argument("--images", type=int, metavar="N", help="only the first N test images (default: all)")
    evaluate.add_argument(
        "--aggregate-images",
        type=int,
        metavar="N",
        default=2000,
        help="images for the aggregate posterior: time grows with their square, and mutual information is found "
        "up to log N (default: %(default)s)",
    )
    evaluate.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        default=1.0,
        help="about how much memory decoded images may take at once (default: %(default)g)",
    )
    evaluate.add_argument(
        "--data-root", metavar="DIR", help="the folder of the data, if it has moved since the training"
    )
    evaluate.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: cuda if there is one, else cpu")


def add_sample(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    sample = commands.add_parser(
        "sample",
        parents=[run],
        help="draw images from the prior into a PNG",
        description="Draw images from the prior into a PNG: means of p(x|z). A model that is conditioned on the class "
        "label draws one row per class.",
        epilog="example: python -m cvae sample outputs/tf_tutorial/2026-01-31_12-00-00 --num 64",
    )
    sample.add_argument(
        "--num", type=int, default=64, help="images (default: 64); conditional: rounded up to full rows"
    )
    sample.add_argument("--class", dest="label", type=int, metavar="K", help="of this class alone, if conditional")
    sample.add_argument("--out", metavar="FILE", help="where to, a .png (default: RUN/samples.png)")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])
    with readable_errors():
        Run(args.run).config()  # torch takes seconds to import: not for a misspelt name
        command = importlib.import_module(f"cvae.commands.{args.command}")
        getattr(command, args.command)(args)


if __name__ == "__main__":
    main()
