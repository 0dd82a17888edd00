"""The callback that draws, with what Lightning hands it."""

import hashlib
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from tiny import tiny
from torch import Tensor

from cvae import pictures
from cvae.build import build_data, build_vae, make
from cvae.runs.directory import Run
from cvae.runtime.noise import fixed_noise
from cvae.training.module import VAEModule

CPU = torch.device("cpu")


def stand_in(name):
    """A picture with axes takes a tenth of a second; this one differs for each name and each value that it gets."""

    def draw(*values):
        told = repr((name, [value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value for value in values]))
        return np.frombuffer(hashlib.sha256(told.encode()).digest()[:12], np.uint8).reshape(2, 2, 3)

    return draw


class Stage:
    """The callback with what Lightning hands it, and what it logged: (tag, height, width, epoch)."""

    def __init__(self, folder, monkeypatch, *overrides):
        cfg = tiny(folder, "seed=6", *overrides)
        torch.manual_seed(1)
        self.data, self.vae, self.run = build_data(cfg), build_vae(cfg), Run(folder)
        folder.mkdir(exist_ok=True)  # claimed before the training
        for part in self.vae.parameters():
            part.data *= 3  # far from grey
        self.data.setup()
        self.module = VAEModule(self.vae, None, None, None)
        self.callback = make(cfg, "callbacks")["pictures"]
        self.callback.chosen = []  # the first images; what is drawn has tests of its own
        self.logged, self.modes = [], []
        self.vae.decoder.register_forward_hook(lambda *_: self.modes.append(self.vae.training))
        self.module.figures = {}
        self.trainer = SimpleNamespace(
            is_global_zero=True, datamodule=self.data, loggers=["logger"], current_epoch=0, global_step=0,
            strategy=SimpleNamespace(root_device=CPU), interrupted=False,
        )  # fmt: skip
        monkeypatch.setattr("cvae.training.pictures.log_picture", self.log_picture)
        for name in ("manifold", "latent_map", "traversal", "rates", "curves"):
            monkeypatch.setattr(pictures, name, stand_in(name))
        for name in ("manifold", "latent_map"):  # which `decoded_map` and `scatter` draw by
            monkeypatch.setattr(f"cvae.pictures.latent.{name}", stand_in(name))

    def log_picture(self, loggers, tag, content, height, width, epoch, step):
        assert loggers == ["logger"] and step == self.trainer.global_step
        assert imageio.imread(content).shape[-3:-1] == (height, width)
        self.logged.append((tag, height, width, epoch))

    def epochs(self, count):
        """The calls of a run of so many epochs, after each of which the model is another."""
        self.callback.on_fit_start(self.trainer, self.module)
        self.callback.on_train_start(self.trainer, self.module)
        for epoch in range(count):
            self.trainer.current_epoch = epoch
            self.callback.on_train_epoch_start(self.trainer, self.module)
            self.change(epoch)
            self.callback.on_train_epoch_end(self.trainer, self.module)
        self.trainer.current_epoch = count
        self.callback.publish(self.trainer, self.module)

    def change(self, epoch):
        self.vae.decoder[-2].bias.data += 0.2 * (-1) ** epoch * (epoch + 1)

    def grids(self, x, y, labels, num, columns):
        """The expected grids of an epoch: reconstructions first, samples next, from one stream of noise."""
        with fixed_noise(6, CPU):
            left = self.vae.reconstruct(x, y)
            right = self.vae.sample(num, labels)
        return pictures.grid(left, columns), pictures.grid(right, columns)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return lambda *overrides: Stage(tmp_path / "run", monkeypatch, *overrides)


def read(file):
    return imageio.imread(file)
