"""What is done with a run after training: python -m cvae evaluate|sample RUN."""

import argparse
import logging
from pathlib import Path

from cvae.cli import readable_errors
from cvae.console import ConsoleHandler
from cvae.errors import UserError


def parser() -> argparse.ArgumentParser:
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("run", metavar="RUN", help="a run directory, as train.py writes it")
    run.add_argument(
        "--checkpoint", metavar="FILE", default="last.ckpt", help="of RUN/checkpoints (default: last.ckpt)"
    )
    run.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")

    main = argparse.ArgumentParser("python -m cvae", description="Evaluate a trained model, or draw samples from it.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    evaluate = commands.add_parser(
        "evaluate",
        parents=[run],
        help="measure a run on its test set: log p(x), ELBO, bits per dim, active units, the aggregate posterior",
        description="Measure a run on its test set. Writes RUN/evaluation.json and RUN/tensorboard, and prints a table.",
    )
    evaluate.add_argument("--samples", type=int, default=5000, help="importance samples an image (default: 5000)")
    evaluate.add_argument("--images", type=int, metavar="N", help="only the first N test images (default: all)")
    evaluate.add_argument(
        "--aggregate-images",
        type=int,
        metavar="N",
        default=2000,
        help="images for the aggregate posterior; time grows with their square, and mutual information is found "
        "up to log N (default: 2000)",
    )
    evaluate.add_argument(
        "--chunk",
        type=int,
        metavar="ROWS",
        default=1000,
        help="decoder rows (an image with a sample) at once: fewer need less memory; the figures stay the same (default: 1000)",
    )
    evaluate.add_argument(
        "--data-root", metavar="DIR", help="the folder of the data, if it is elsewhere than at the training"
    )
    evaluate.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: cuda if there is one, else cpu")

    sample = commands.add_parser(
        "sample",
        parents=[run],
        help="draw images from the prior into a PNG",
        description="Draw images from the prior into a PNG: means of p(x|z). A model that is conditioned on the class label "
        "draws one row a class.",
    )
    sample.add_argument(
        "--num", type=int, default=64, help="how many images (default: 64); conditional: rounded up to full rows"
    )
    sample.add_argument(
        "--class", dest="label", type=int, metavar="K", help="of this class alone, for a conditional model"
    )
    sample.add_argument("--out", metavar="FILE", help="where to, a .png (default: RUN/samples.png)")
    return main


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])
    with readable_errors():
        if not (Path(args.run) / ".hydra" / "config.yaml").is_file():
            raise UserError(f"{args.run} is not a run directory: it has no .hydra/config.yaml")
        from cvae import commands  # torch takes seconds to import: not for --help or a misspelt name

        getattr(commands, args.command)(args)


if __name__ == "__main__":
    main()
