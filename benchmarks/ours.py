"""What the benchmarks know of cvae: configs, MNIST as a file for all competitors, the command of a paced training."""

import contextlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

import cvae.cli.messages  # noqa: F401, as train.py does: an experiment's values are put in
from benchmarks.driver import ROOT
from cvae.build import build_vae, make
from cvae.data import Images
from cvae.data.mnist import MNIST
from cvae.models.vae import VAE

DATA = os.environ.get("CVAE_DATA", str(ROOT / "data"))


class Npy:
    """A source of images for cvae.data: a file of levels, uint8 (N, H, W). They are the test images too."""

    def __init__(self, root: str) -> None:
        self.file = root

    def download(self) -> None:
        """There is nothing to fetch."""

    def load(self) -> tuple[Images, Images]:
        x = torch.from_numpy(np.load(self.file))[:, None]
        images = Images(x, torch.zeros(len(x), dtype=torch.int64))
        return images, images


def mnist(folder: Path, split: str, count: int) -> Path:
    """The first `count` images of MNIST ("train" or "test") as a file of levels, uint8 (N, 28, 28)."""
    source = MNIST(DATA)
    source.download()
    levels = source.load()[("train", "test").index(split)].x[:count, 0]
    if len(levels) < count:
        raise SystemExit(f"--images {count}: MNIST has {len(levels)} {split} images")
    file = folder / f"{split}_{count}.npy"
    np.save(file, levels.numpy())
    return file


def overrides_of(images: str | Path, overrides: list[str]) -> list[str]:
    """The overrides of a training on the images of a file."""
    return [*overrides, "data.source._target_=benchmarks.ours.Npy", f"data.root={images}"]


def paced(images: Path, run_dir: Path, overrides: list[str]) -> list[str]:
    """python train.py, an epoch a turn: with its progress bar and curves, without pictures, evaluation, checkpoints."""
    endless = ["trainer.max_epochs=100000", "trainer.check_val_every_n_epoch=100000"]
    without = ["~callbacks.pictures", "~callbacks.checkpoint"]
    turns = "+callbacks.turns._target_=benchmarks.callbacks.Pace"
    train = [sys.executable, "train.py", *overrides_of(images, overrides), *endless, *without]
    return [*train, turns, f"hydra.run.dir={run_dir}"]


def config(overrides: list[str]) -> DictConfig:
    """The config that `python train.py OVERRIDES` composes."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides)


def device_of(cfg: DictConfig) -> torch.device:
    """Where Lightning trains: the GPU if there is one, unless trainer=cpu."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


class Bare(NamedTuple):
    """What a step needs, and nothing else."""

    vae: VAE
    objective: nn.Module
    optimizer: Optimizer
    x: Tensor  # (N, C, H, W), all images on the device, as the model sees them
    y: Tensor  # (N,)
    batch_size: int
    bfloat16: bool

    def autocast(self) -> contextlib.AbstractContextManager:
        """What trainer.precision=bf16-mixed does to a step."""
        return torch.autocast(self.x.device.type, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()

    def loss(self, index: Tensor) -> Tensor:
        """The mean loss of the images of a batch, in nats."""
        with self.autocast():
            return self.objective(self.vae, self.x[index], self.vae.labels(self.y[index]), 0).loss.mean()

    def step(self, index: Tensor) -> None:
        loss = self.loss(index)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def batches(self) -> tuple[Tensor, ...]:
        """The indices of an epoch's batches, in a new order."""
        return torch.randperm(len(self.x), device=self.x.device).split(self.batch_size)


def bare(images: str | Path, overrides: list[str]) -> Bare:
    """Our model, objective, optimizer and data as configured, without Lightning."""
    cfg = config(overrides_of(images, overrides))
    device = device_of(cfg)
    torch.manual_seed(cfg.seed)
    data = make(cfg, "data")
    data.setup()
    vae, objective = build_vae(cfg).to(device), make(cfg, "objective").to(device)
    objective.prepare(len(data.train))
    optimizer = make(cfg, "optimizer")([*vae.parameters(), *objective.parameters()])
    x, y = data.batch("train", range(len(data.train)), device)
    return Bare(vae, objective, optimizer, x, y, data.batch_size, str(cfg.trainer.precision).startswith("bf16"))
