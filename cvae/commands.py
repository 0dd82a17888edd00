"""What `python -m cvae` does with a run directory."""

import math
from argparse import Namespace
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from cvae import pictures
from cvae.console import console
from cvae.errors import ConfigError, UserError, positive_int, seed_number
from cvae.experiment import load, make
from cvae.files import save
from cvae.noise import fixed_noise
from cvae.report import report, scalars
from cvae.vae import VAE


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


def sample(args: Namespace) -> None:
    """python -m cvae sample RUN."""
    num, device = positive_int("--num", args.num), torch.device("cpu")
    seed_number("--seed", args.seed)
    out = Path(args.out or Path(args.run) / "samples.png")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ConfigError("--out", out, "the name of a file that ends in .png")
    _, vae, _ = open_run(Path(args.run), args.checkpoint, device)
    labels, columns = None, round(num**0.5)
    if args.label is not None:
        if not 0 <= args.label < vae.num_classes:
            allowed = f"from 0 to {vae.num_classes - 1}" if vae.num_classes else "left out: this model knows no classes"
            raise ConfigError("--class", args.label, allowed)
        labels = torch.full((num,), args.label)
    elif vae.num_classes:
        columns = math.ceil(num / vae.num_classes)
        num = columns * vae.num_classes  # full rows, one a class
        labels = torch.arange(num) // columns
    with fixed_noise(args.seed, device):
        images = vae.sample(num, labels)
    save(out, pictures.png(pictures.grid(images, columns)))
    console.print(f"{num} samples: {out}", soft_wrap=True, markup=False, highlight=False)


def open_run(run: Path, checkpoint: str, device: torch.device) -> tuple[DictConfig, VAE, int]:
    """The saved config, the trained model in eval mode, and how many optimizer steps it has had.

    Raises:
        UserError: the checkpoint is missing, damaged or another model's.
        FileNotFoundError: `run` has no .hydra/config.yaml.
    """
    saved, file = run / ".hydra" / "config.yaml", run / "checkpoints" / checkpoint
    if not file.is_file():
        there = ", ".join(sorted(path.name for path in file.parent.glob("*.ckpt"))) or "none"
        raise UserError(f"{run} has no checkpoint {checkpoint}; it has: {there}")
    cfg = OmegaConf.load(saved)
    cfg.run_dir = str(run)  # what is saved is an interpolation that means something to the run itself alone
    try:
        step = torch.load(file, map_location="cpu", weights_only=True).get("global_step", 0)
    except Exception as error:  # damaged bytes make torch and pickle raise almost anything
        raise UserError(f"{file} is damaged or no checkpoint: {first_line(error)}") from error
    try:
        vae = load(run, checkpoint, device.type)
    except UserError:
        raise
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{file} does not hold the weights of the model in {saved}: {error}") from error
    return cfg, vae, step


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
