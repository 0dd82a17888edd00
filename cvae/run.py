"""A run directory: the only place that knows the names of its files. Needs no torch."""

import itertools
import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cvae.errors import UserError
from cvae.files import save

LAST, BEST = "last.ckpt", "best.ckpt"  # checkpoints: of the last epoch, and of the one with the best bound


class Run:
    """The files of one run.

    .hydra/config.yaml is the whole config, checkpoints/ has last.ckpt and best.ckpt, images/ the grids of each epoch
    (0 is before training), evaluation/ a file for each set of settings. All that is needed to load the model is in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / ".hydra" / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.images = self.path / "images"
        self.metrics = self.path / "metrics.json"
        self.evaluations = self.path / "evaluation"
        self.gif = self.path / "cvae.gif"
        self.scatter = self.path / "latent_scatter.png"
        self.samples = self.path / "samples.png"

    def __str__(self) -> str:
        return str(self.path)

    def image(self, name: str, epoch: int | None = None) -> Path:
        """A grid of images, of an epoch or for the whole run."""
        return self.images / (f"{name}.png" if epoch is None else f"{name}_{epoch:04d}.png")

    def manifold(self, label: int | None = None) -> Path:
        """The latent manifold, of a class of a conditional model."""
        return self.path / ("latent_manifold.png" if label is None else f"latent_manifold_{label}.png")

    def began(self) -> bool:
        """Whether a training has left something here: more than the config of a run that was refused."""
        written = (self.images, self.checkpoints, self.metrics)
        return any(path.exists() for path in written)

    def checkpoint(self, name: str) -> Path:
        """A checkpoint by its name, with or without .ckpt.

        Raises:
            UserError: there is no such file; the message names those that are there.
        """
        file = self.checkpoints / (name if name.endswith(".ckpt") else f"{name}.ckpt")
        if not file.is_file():
            there = ", ".join(sorted(path.name for path in self.checkpoints.glob("*.ckpt"))) or "none"
            raise UserError(f"{self} has no checkpoint {file.name}; it has: {there}")
        return file

    def config(self) -> DictConfig:
        """The saved config; run_dir is this folder, wherever it was when the run was made.

        Raises:
            UserError: this is no run directory, or the file is not YAML.
        """
        if not self.config_file.is_file():
            raise UserError(f"{self} is not a run directory: it has no .hydra/config.yaml")
        try:
            cfg = OmegaConf.load(self.config_file)
        except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
            raise UserError(f"{self.config_file} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(cfg, DictConfig):
            raise UserError(f"{self.config_file} is not the config of a run: it has no keys")
        cfg.run_dir = str(self.path)
        return cfg

    def save_config(self, cfg: DictConfig) -> None:
        """Write the config again, where a run has found out what was left to the data (as the number of classes)."""
        save(self.config_file, OmegaConf.to_yaml(cfg).encode())

    def save_metrics(self, metrics: dict) -> None:
        save(self.metrics, json.dumps(metrics, indent=2).encode())

    def save_evaluation(self, content: dict) -> Path:
        """Write figures with their settings. Each set of settings has a file of its own: nothing else is replaced."""
        about = content["settings"]
        checkpoint = Path(about["checkpoint"]).stem
        name = f"{checkpoint}_samples={about['samples']}_images={about['images']}_seed={about['seed']}"
        for number in itertools.count(1):
            file = self.evaluations / (f"{name}.json" if number == 1 else f"{name}_{number}.json")
            if not file.exists() or json.loads(file.read_text()).get("settings") == about:
                break
        save(file, json.dumps(content, indent=2).encode())
        return file
