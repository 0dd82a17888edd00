"""python -m cvae evaluate."""

from argparse import Namespace
from pathlib import Path

import torch

from cvae.build import make
from cvae.checks import positive_int, seed_number
from cvae.commands.opening import open_run
from cvae.errors import ConfigError
from cvae.evaluation.report import report, scalars


def evaluate(args: Namespace) -> None:
    """python -m cvae evaluate RUN."""
    for key in ("samples", "aggregate_images", "chunk"):
        positive_int("--" + key.replace("_", "-"), getattr(args, key))
    if args.images is not None:
        positive_int("--images", args.images)
    seed_number("--seed", args.seed)
    run, device = Path(args.run), torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device.type]:
        raise ConfigError("--device", device.type, "one that is in this machine: cpu always is")
    cfg, vae, step = open_run(run, args.checkpoint, device)
    if args.data_root:
        cfg.data.root = args.data_root
    data = make(cfg, "data")
    data.prepare_data()
    data.setup()
    limits = {"samples": args.samples, "aggregate_images": args.aggregate_images, "chunk": args.chunk}
    figures = report(vae, data, run, device, **limits, images=args.images, seed=args.seed, checkpoint=args.checkpoint)

    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tensorboard")) as writer:
        for name, value in scalars(figures).items():
            writer.add_scalar(name, value, step)
