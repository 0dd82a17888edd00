"""python -m cvae evaluate RUN: measure a run on its test set."""

import argparse
from typing import TYPE_CHECKING

from cvae.commands import factors, quality
from cvae.commands.inputs import add_device, device_of, model_of
from cvae.errors import ConfigError
from cvae.runs.directory import RAW, Run
from cvae.runs.modelled import remarks, weights_of
from cvae.runs.small_files import read_config

if TYPE_CHECKING:
    from cvae.data import ImageData
    from cvae.evaluation import Figure, Settings
    from cvae.models.vae import VAE

SAMPLES = 5000


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=[run],
        help="measure a run on its test set: log p(x), ELBO, bits per dim, active units, the aggregate posterior, "
        "or its samples and reconstructions",
        description="Measure a run on its test set. Writes a file into RUN/evaluation, and prints a table.",
        epilog="example: python -m cvae evaluate outputs/tf_tutorial/2026-01-31_12-00-00 --samples 5000",
    )
    evaluate.set_defaults(call=measure)
    evaluate.add_argument(
        "--samples",
        type=int,
        help=f"importance samples per image (default: {SAMPLES:,}); with --quality the number of sampled images "
        "(default: 10,000)",
    )
    evaluate.add_argument(
        "--until",
        type=float,
        metavar="NATS",
        help="double the samples of each block of up to 100 images until the estimated error of its mean log p(x), the "
        "bias and two standard errors, is below this, as in 0.05. About 95 of 100 blocks are then within it, unless "
        "the Pareto k-hat is high. At most 50,000 samples an image; --samples is the first number",
    )
    evaluate.add_argument("--images", type=int, metavar="N", help="only N test images, the first ones (default: all)")
    evaluate.add_argument(
        "--draw", type=int, metavar="SEED", help="with --images: these are drawn from all test images by this seed"
    )
    evaluate.add_argument(
        "--aggregate-images",
        type=int,
        metavar="N",
        default=2000,
        help="images for the aggregate posterior: the time grows with N squared, and the estimated mutual information "
        "is at most log N (default: %(default)s)",
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
    factors.add_options(evaluate)
    quality.add_options(evaluate)
    add_device(evaluate)


def measure(args: argparse.Namespace) -> None:
    """Measure a run as the options say: writes a file into RUN/evaluation, and prints a table.

    An evaluation of all test images goes into TensorBoard too, unless it is of raw weights beside averages.

    Raises:
        UserError: an option, the run or its data are wrong.
    """
    if args.factors and args.quality:
        raise ConfigError("--quality", "", "left out with --factors: one after the other")
    if args.features is not None and not args.quality:
        raise ConfigError("--features", args.features, "left out without --quality")
    if args.lpips is not None and not args.quality:
        raise ConfigError("--lpips", args.lpips, "left out without --quality")
    if args.factors or args.quality:
        return (factors if args.factors else quality).measure(args)
    from cvae.build import load_data
    from cvae.evaluation import Settings
    from cvae.runtime.devices import keep_freed_memory

    samples = SAMPLES if args.samples is None else args.samples
    try:
        settings = Settings(samples, args.images, args.draw, args.aggregate_images, args.memory, args.seed, args.until)
    except ConfigError as error:
        raise ConfigError("--" + error.key.replace("_", "-"), error.value, error.allowed) from error
    device = device_of(args)
    keep_freed_memory()
    run = Run(args.run, args.trust)
    vae, step, weights = model_of(args, device)
    data = load_data(run, args.data_root)
    into_run(vae, data, run, settings, run.checkpoint(args.checkpoint).name, step, weights)


def into_run(
    vae: "VAE", data: "ImageData", run: Run, settings: "Settings", checkpoint: str, step: int, weights: str = RAW
) -> "dict[str, Figure]":
    """The figures of a checkpoint's model, of so many optimizer steps: as a table, into the run and TensorBoard."""
    from cvae.evaluation.report import markdown, report, scalars
    from cvae.training.loggers import close, log_curves, log_table
    from cvae.training.tensorboard import TensorBoard

    figures = report(vae, data, run, settings, checkpoint, step, weights)
    config = read_config(run.config_file)
    whole = settings.images is None or settings.images >= len(data.test)
    if whole and weights == weights_of(config):  # a curve is of the weights that the training measures
        board = TensorBoard(str(run))
        log_curves([board], scalars(figures), step)
        said = remarks(config, checkpoint, weights)
        log_table([board], markdown(figures, settings, said), step)
        close([board], "success")
    return figures
