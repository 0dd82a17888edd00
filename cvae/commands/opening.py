"""Opening a run."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from cvae.build import load
from cvae.errors import UserError
from cvae.vae import VAE


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
