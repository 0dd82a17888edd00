"""cvae from Python: train, open and compare runs as the command line does."""

import html
import os
from base64 import b64encode
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.cli.train import train_here
from cvae.errors import ConfigError, UserError
from cvae.runs.comparison import find, read
from cvae.runs.directory import LAST, Run, read_json
from cvae.runs.tables import as_markdown, parts

if TYPE_CHECKING:  # torch takes seconds to import: not for `import cvae`
    from omegaconf import DictConfig

    from cvae.data import ImageData
    from cvae.models.vae import VAE

SHOWN = ("test/elbo", "test/rate", "test/distortion", "evaluation/nll", "evaluation/active_units")  # in a notebook


class TrainedRun:
    """A run directory and what is in it. In a notebook it shows its figures and pictures.

    Args:
        path: the run directory
        trust: whether its config may name any class or function: only for a run whose maker you trust
    """

    def __init__(self, path: str | os.PathLike, trust: bool = False) -> None:
        self.files = Run(Path(path), trust)

    def __repr__(self) -> str:
        figures = [(title, self.metrics.get(f"test/{name}")) for title, name in (("ELBO", "elbo"), ("distortion",) * 2)]
        said = [f", test {title} {value:.2f} nats per image" for title, value in figures if value is not None]
        return f"<run {self.path}: {self.state}{''.join(said[:1])}>"

    @property
    def path(self) -> Path:
        return self.files.path

    @property
    def state(self) -> str:
        """running, finished, interrupted or failed."""
        return self.files.state()

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: test/elbo, evaluation/nll, … in nats per image; empty until the run ends."""
        return read_json(self.files.metrics)

    @property
    def config(self) -> "DictConfig":
        """The whole config, as it was saved."""
        return self.files.config()

    @property
    def images(self) -> dict[str, Path]:
        """The pictures of the run, by name: reconstruction, latent_manifold, cvae (the GIF), …"""
        pictures = (file for file in self.path.iterdir() if file.suffix in (".png", ".gif"))
        return {file.stem: file for file in sorted(pictures)}

    @cached_property
    def vae(self) -> "VAE":
        """The model of last.ckpt, in eval mode, on the CPU; of averaged weights, where there are some.

        `cvae.load` has the other choices.

        Raises:
            UserError: there is no checkpoint, or it is damaged.
        """
        from cvae.build import load_with_step

        return load_with_step(self.files, LAST, "cpu").vae

    @cached_property
    def data(self) -> "ImageData":
        """The images of the run: data.train, data.test; data.batch("test", range(16)) gives x in [0, 1] and labels.

        Raises:
            UserError: the data are missing or damaged.
        """
        from cvae.build import load_data

        return load_data(self.files)

    def evaluate(
        self, samples: int = 5000, checkpoint: str = LAST, weights: str | None = None, **settings: Any
    ) -> dict[str, float]:
        """Measure the run on its test images, as `cvae evaluate` does, and keep the figures in the run.

        Args:
            samples: importance samples for each image
            checkpoint: last.ckpt or best.ckpt
            weights: averaged or raw; None: the averages where there are some
            settings: images, draw, aggregate_images, memory, seed, until: see `cvae.evaluation.Settings`

        Returns:
            the figures by name, as in `metrics`: evaluation/nll, evaluation/elbo, … in nats per image

        Raises:
            UserError: a setting, the run or its data are wrong.
        """
        from cvae.build import load_with_step
        from cvae.commands.evaluate import into_run
        from cvae.evaluation import Settings
        from cvae.evaluation.report import scalars

        chosen = Settings(samples, **settings)
        vae, step, weights = load_with_step(self.files, checkpoint, "cpu", weights)
        name = self.files.checkpoint(checkpoint).name
        return scalars(into_run(vae, self.data, self.files, chosen, name, step, weights))

    def _repr_html_(self) -> str:
        """The figures, and the pictures of the latent space and of the training."""
        metrics, pictures = self.metrics, self.images
        figures = [(name, metrics[name]) for name in SHOWN if name in metrics]
        lines = "".join(f"<tr><td>{name}</td><td>{value:.2f}</td></tr>" for name, value in figures)
        wanted = ("latent_manifold", "latent_scatter", "latent_groups", "latent_codes", "reconstruction", "cvae")
        there = [pictures[name] for name in wanted if name in pictures]
        return f"<p><b>{html.escape(str(self.path))}</b>: {self.state}</p><table>{lines}</table>" + "".join(
            f'<img style="max-width: 45%; margin: 4px" src="{as_url(file)}" alt="{file.stem}">' for file in there
        )


class Runs(list[TrainedRun]):
    """Runs, in the order in which they were found."""

    def table(self, sort: str = "ELBO", each: bool = False) -> "Table":
        """Settings that differ, and results, as `cvae compare` prints them. Only runs in the same part can be ranked.

        Args:
            sort: the column by which the rows are sorted
            each: a row for each run, even if only their seeds differ

        Raises:
            UserError: there is no such column.
        """
        found = parts(read(run.files for run in self), sort, each)
        return Table("\n\n".join(map(as_markdown, found)))


class Table(str):
    """A table in Markdown, which a notebook shows as one."""

    def _repr_markdown_(self) -> str:
        return str(self)


def train(*words: str, data: Any = None, labels: Any = None, config_dir: str | os.PathLike | None = None) -> TrainedRun:
    """Train a VAE in this process, as `python train.py WORDS` does, and return its run.

        run = cvae.train("model.latent_dim=2", "trainer.max_epochs=10")
        run.metrics["test/elbo"]
        run = cvae.train("resume=outputs/tf_tutorial/2026-01-31_12-00-00")
        run = cvae.train("experiment=own_images", data=my_array)

    Args:
        words: KEY=VALUE and GROUP=NAME, as on the command line; or resume=RUN and the words that it takes
        data: your own images, (N, H, W) or (N, H, W, C): uint8, bool, or floats in [0, 1]. The run keeps them as
            data.npz for resuming and measuring. A tenth of them, drawn by seed, is the test set
        labels: their labels, integers (N,)
        config_dir: a folder with your own choices and components, as --config-dir

    Raises:
        UserError: a value or a choice is wrong (before training), data are missing, or a figure is not finite.
        KeyboardInterrupt: training was interrupted; the message says how to resume it.
    """
    if sweeps := [word for word in words if word in ("-m", "--multirun")]:
        raise UserError(f"{sweeps[0]}: cvae.train makes one run; a sweep is a loop around it")
    if data is None and labels is not None:
        raise ConfigError("labels", "an array", "given with data alone")
    if data is None:
        return TrainedRun(train_here(list(words), config_dir), trust=True)
    if named := [word for word in words if word.split("=")[0] in ("data", "data.root", "resume")]:
        raise UserError(f"{named[0]}: data= is an array here, which leaves no other images to choose")

    def keep(run: Run) -> None:
        from cvae.commands.inputs import save_arrays

        save_arrays(run.arrays, x=data, y=labels)

    return TrainedRun(train_here(["data=npz", "data.root=${run_dir}/data.npz", *words], config_dir, keep), trust=True)


def open_run(path: str | os.PathLike, trust: bool = False) -> TrainedRun:
    """A run by its directory.

    Examples:
        >>> import cvae
        >>> run = cvae.open_run(RUN)
        >>> run.state, "test/elbo" in run.metrics
        ('finished', True)

    trust: whether its config may name any class or function: only for a run whose maker you trust

    Raises:
        UserError: this is no run directory, or its config is damaged.
    """
    run = TrainedRun(path, trust)
    run.files.config()
    return run


def find_runs(*paths: str | os.PathLike) -> Runs:
    """The runs at and below folders, outputs/ if none is named. Raises UserError if there is none."""
    return Runs(TrainedRun(run.path) for run in find([Path(path) for path in paths or ("outputs",)]))


def as_url(file: Path) -> str:
    """A picture that a page holds itself."""
    return f"data:image/{file.suffix[1:]};base64,{b64encode(file.read_bytes()).decode()}"
