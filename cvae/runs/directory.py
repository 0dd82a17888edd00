"""A run directory: the only place that knows the names of its files. Needs no torch."""

import io
import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cvae.checks import is_number
from cvae.errors import Stopped, UserError
from cvae.runs import trust
from cvae.runs.small_files import CONFIG, read_json, read_text, read_yaml, yaml_text
from cvae.runs.storage import lock, locked, remove_unfinished, save, unlock
from cvae.version import VERSION

# Checkpoints: the last one, the one before it, and the one of the epoch with the best bound.
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

AVERAGED, RAW = "averaged", "raw"  # weights of a checkpoint: their averages over the training, or as they are

SPLITS = ("train", "validation", "test")  # which have curves
STATES = ("running", "finished", "interrupted", "failed")


class Run:
    """The files of one run.

    .hydra/config.yaml is the whole config, checkpoints/ has last.ckpt, previous.ckpt and best.ckpt, images/ the grids
    of each epoch (0 is before training), evaluation/ a file for each set of settings. All that is needed to load the
    model is in it.

    trust: whether its config may name anything, as one's own may: only for a run whose maker the user trusts.
    """

    def __init__(self, path: str | Path, trust: bool = False) -> None:
        self.path, self.trust = Path(path), trust
        self.config_file = self.path / ".hydra" / "config.yaml"
        self.overrides_file = self.path / ".hydra" / "overrides.yaml"
        self.hydra_file = self.path / ".hydra" / "hydra.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.images = self.path / "images"
        self.metrics = self.path / "metrics.json"
        self.log_file = self.path / "train.log"
        self.status_file = self.path / "status.json"
        self.lock_file = self.path / ".lock"
        self.evaluations = self.path / "evaluation"
        self.factor_figures = self.path / "factors"
        self.qualities = self.path / "quality"
        self.nearest = self.path / "nearest_training_images.png"
        self.gif = self.path / "cvae.gif"
        self.reconstruction = self.path / "reconstruction.png"  # beside the test images
        self.own = self.path / "own.png"  # the user's own images beside their reconstructions
        self.scatter = self.path / "latent_scatter.png"
        self.map = self.path / "latent_map.png"
        self.latent_traversal = self.path / "latent_traversal.png"
        self.latent_interpolation = self.path / "latent_interpolation.png"
        self.rates = self.path / "latent_rates.png"
        self.curves = self.path / "learning_curves.png"
        self.groups = self.path / "latent_groups.png"
        self.factors = self.path / "factors.png"  # what latents tell of known factors
        self.codes = self.path / "latent_codes.png"
        self.samples = self.path / "samples.png"
        self.reconstructed = self.path / "reconstructed.png"
        self.latents = self.path / "latents.npz"
        self.interpolation = self.path / "interpolation.png"
        self.traversal = self.path / "traversal.png"
        self.export = self.path / "export"
        self.data = self.path / "data.csv"  # which image is in which split, of a user's own
        self.arrays = self.path / "data.npz"  # the images, where they were handed over in Python

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The folder's name without the time, or without the number in a sweep."""
        return re.sub(r"^(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d|\d+)_", "", self.path.resolve().name)

    def events(self, split: str | None = None) -> Path:
        """The folder of TensorBoard's event files: of the curves of a split, or of everything else."""
        return self.path / split if split else self.path

    def event_files(self) -> list[Path]:
        """All of TensorBoard's files, the oldest of each folder first."""
        return [file for split in (None, *SPLITS) for file in sorted(self.events(split).glob("events.out.tfevents.*"))]

    def image(self, name: str, epoch: int | None = None) -> Path:
        """A grid of images, of an epoch or for the whole run."""
        return self.images / (f"{name}.png" if epoch is None else f"{name}_{epoch:04d}.png")

    def frames(self, epochs: int) -> list[tuple[int, Path, Path]]:
        """Each epoch from 0 to `epochs` that has both grids, with its reconstruction and its sample.

        Without a prior no epoch has samples: there the originals stand in their place.
        """
        grids = [(n, self.image("reconstruction", n), self.image("sample", n)) for n in range(epochs + 1)]
        if not any(right.is_file() for _, _, right in grids):
            grids = [(n, left, self.image("original")) for n, left, _ in grids]
        return [(n, left, right) for n, left, right in grids if left.is_file() and right.is_file()]

    def manifold(self, label: int | None = None) -> Path:
        """The latent manifold, of a class of a conditional model."""
        return self.path / ("latent_manifold.png" if label is None else f"latent_manifold_{label}.png")

    def fitted_prior(self, kind: str, checkpoint: str, step: int, weights: str = RAW) -> Path:
        """A density fitted to the aggregate posterior of a model, by its checkpoint and number of optimizer steps."""
        kept = "" if weights == RAW else f"_{weights}"
        return self.path / "priors" / f"{kind}_{Path(checkpoint).stem}_step={step}{kept}.pt"

    def factor_measures(self, checkpoint: str, weights: str, images: int, seed: int) -> Path:
        """Figures of latents against known factors."""
        kept = "" if weights == RAW else f"_{weights}"
        return self.factor_figures / f"{Path(checkpoint).stem}{kept}_images={images}_seed={seed}.json"

    def began(self) -> bool:
        """Whether a training has left something here: more than the config of a run that was refused."""
        written = (self.images, self.checkpoints, self.metrics)
        return any(path.exists() for path in written)

    def claim(self) -> None:
        """Let no other process write into this folder until `release` or the end of this process, however it ends.

        Raises:
            UserError: another process is writing into it.
            OSError: the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not lock(self.lock_file):
            raise UserError(f"{self} is being written by another run")
        remove_unfinished(self.checkpoints)  # of a training that was killed, and nobody else writes there

    def release(self) -> None:
        """End `claim`."""
        unlock(self.lock_file)

    def locked(self) -> bool:
        """Whether a process is writing into this folder."""
        return locked(self.lock_file)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Claim this folder for a training, and leave in status.json how it went.

        Raises as `claim` does.
        """
        self.claim()
        about: dict[str, Any] = {"started": now(), "host": socket.gethostname(), "pid": os.getpid(), "version": VERSION}
        if "SLURM_JOB_ID" in os.environ:
            about["slurm_job"] = os.environ["SLURM_JOB_ID"]
        try:
            self.save_status("running", **about)
            yield
        except BaseException as error:
            with suppress(OSError):  # the folder may be what is wrong
                self.save_status(*how_it_ended(error), ended=now(), **about)
            raise
        else:
            self.save_status("finished", ended=now(), **about)
        finally:
            self.release()

    def save_status(self, state: str, reason: str = "", **about: object) -> None:
        if not self.path.is_dir():  # it was deleted, and is not made again
            return
        content = json.dumps({"state": state, "reason": reason, **about}, indent=2).encode()
        try:
            save(self.status_file, content)
        except OSError:
            if not self.status_file.exists():
                raise
            with open(self.status_file, "r+b") as file:  # a full disk has room for it where the old one is
                file.write(content)
                file.truncate()

    def status(self) -> dict:
        """The content of status.json, with the state of this moment.

        state: running, finished, interrupted (by a signal, or the process was killed) or failed; reason: of the last
        two. A run of a version without status.json is finished if it has figures, else interrupted.
        """
        said = read_json(self.status_file)
        if said.get("state") not in STATES:
            return {"state": "finished" if self.metrics.exists() else "interrupted", "reason": ""}
        if said["state"] == "running" and not self.locked():
            return said | {"state": "interrupted", "reason": "killed"}
        return said

    def state(self) -> str:
        """The state of `status`: running, finished, interrupted or failed."""
        return self.status()["state"]

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

        Unless the run is trusted, it has the flag "foreign": `cvae.build.make` then makes only what is allowed.

        Raises:
            UserError: this is no run directory, the file is not YAML, or it says more than a saved config may.
        """
        if not self.config_file.is_file():
            raise UserError(f"{self} is not a run directory: it has no .hydra/config.yaml")
        try:
            if not self.trust:
                trust.require_inside(self.path)
            text = read_text(self.config_file, 10 * CONFIG) if self.trust else yaml_text(self.config_file)
            cfg = OmegaConf.load(io.StringIO(text))
            if not isinstance(cfg, DictConfig):
                raise UserError("this is not the config of a run: it has no keys")
            cfg.run_dir = ""  # where the run was does not matter
            if not self.trust:
                content: Any = OmegaConf.to_container(cfg)
                trust.require_plain(content)
            if re.search(r"\$\{|[\udc80-\udcff]", str(self.path)):  # the latter stand for bytes that no letter has
                raise UserError("the name of a folder cannot have ${, nor bytes that are no UTF-8: rename it")
            cfg.run_dir = str(self.path)
        except UserError as error:
            raise UserError(f"{self.config_file}: {error}") from error
        except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
            raise UserError(f"{self.config_file} is not valid YAML: {' '.join(str(error).split())}") from error
        return cfg if self.trust else OmegaConf.create(cfg, flags={"foreign": True})

    def overrides(self) -> list[str]:
        """The words of the command line that the run was started with; none where Hydra has not started it."""
        words = read_yaml(self.overrides_file)
        return [str(word) for word in words] if isinstance(words, list) else []

    def save_config(self, cfg: DictConfig) -> None:
        """Write the config again, where a run has found out what was left to the data (as the number of classes)."""
        save(self.config_file, OmegaConf.to_yaml(cfg).encode())

    def save_overrides(self, words: Iterable[str]) -> None:
        save(self.overrides_file, OmegaConf.to_yaml(list(words)).encode())

    def save_hydra(self, cfg: DictConfig) -> None:
        save(self.hydra_file, OmegaConf.to_yaml(cfg).encode())

    def result(self) -> float | None:
        """The bound that a finished run returned to its sweeper, which maximizes it; None if it is not finished."""
        metrics = read_json(self.metrics) if self.state() == "finished" else {}
        names = [f"{split}/{name}" for name in ("bound", "minus_loss") for split in ("validation", "test")]
        return next((metrics[name] for name in names if is_number(metrics.get(name))), None)

    def save_metrics(self, metrics: dict) -> None:
        save(self.metrics, json.dumps(metrics, indent=2).encode())

    def save_evaluation(self, content: dict) -> Path:
        """Write figures with their settings. Each set of settings has a file of its own: nothing else is replaced."""
        about = content["settings"]
        kept = "_averaged" if about.get("weights") == AVERAGED else ""
        folder, by = (self.qualities, f"_{about['features']}") if "features" in about else (self.evaluations, "")
        name = f"{Path(about['checkpoint']).stem}{kept}{by}_samples={about['samples']}"
        drawn = "" if about.get("draw") is None else f"_draw={about['draw']}"
        name += f"_images={about['images']}{drawn}_seed={about['seed']}"
        for number in itertools.count(1):
            file = folder / (f"{name}.json" if number == 1 else f"{name}_{number}.json")
            if not file.exists() or read_json(file).get("settings") == about:
                break
        save(file, json.dumps(content, indent=2).encode())
        return file


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def how_it_ended(error: BaseException) -> tuple[str, str]:
    """The state of a run that ends with this error, and the reason."""
    if isinstance(error, Stopped):
        return "interrupted", f"by {signal.Signals(error.signum).name}"
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted", "by a signal"
    return "failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def first_process() -> bool:
    """Whether this process is the one of its run that writes: Lightning, torchrun and SLURM number the others."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
