"""python -m cvae evaluate RUN: measure a run on its test set."""

import argparse

import torch

from cvae.build import load_with_step, make, saved_config
from cvae.devices import DEVICES, available, keep_freed_memory
from cvae.errors import ConfigError
from cvae.evaluation import Settings
from cvae.evaluation.report import report, scalars
from cvae.run import Run


def evaluate(args: argparse.Namespace) -> None:
    """Measure a run as the options say: writes a file into RUN/evaluation, and prints a table.

    An evaluation of all test images goes into TensorBoard too.

    Raises:
        UserError: an option, the run or its data are wrong.
    """
    try:
        settings = Settings(args.samples, args.images, args.aggregate_images, args.memory, args.seed)
    except ConfigError as error:
        raise ConfigError("--" + error.key.replace("_", "-"), error.value, error.allowed) from error
    default = "cuda" if torch.cuda.is_available() else "cpu"
    device = available("--device", args.device or default, DEVICES)
    keep_freed_memory()
    run = Run(args.run)
    cfg = saved_config(run)
    vae, step = load_with_step(run, args.checkpoint, device)
    if args.data_root:
        cfg.data.root = args.data_root
    data = make(cfg, "data")
    data.prepare_data()
    data.setup()
    figures = report(vae, data, run, settings, run.checkpoint(args.checkpoint).name)
    if settings.images is None or settings.images >= len(data.test):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not needed before

        with SummaryWriter(str(run.tensorboard)) as writer:
            for name, value in scalars(figures).items():
                writer.add_scalar(name, value, step)
