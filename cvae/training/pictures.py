"""Pictures during training and at its end."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
from pytorch_lightning import Callback
from torch import Tensor

from cvae import pictures
from cvae.checks import is_int, positive_int
from cvae.data import ImageData
from cvae.data.images import in_turns
from cvae.distributions import Unknown, is_discrete
from cvae.errors import ConfigError
from cvae.evaluation.latents import Latents, latents, traverse
from cvae.evaluation.report import test_batches
from cvae.models.ladder import Ladder
from cvae.models.vae import VAE
from cvae.runs.directory import Run, first_process
from cvae.runs.storage import save
from cvae.runtime.noise import fixed_noise
from cvae.training.drawn_epochs import spread, thinned
from cvae.training.engine import Trainer
from cvae.training.loggers import log_picture
from cvae.training.means import SHOWN
from cvae.training.module import VAEModule
from cvae.training.own_pictures import OwnImages

__all__ = ["Pictures"]  # what conf/ and saved configs may name

log = logging.getLogger(__name__)

SPLITS = {"train_epoch": "train", "validation": "validation", "test": "test"}  # in figures, and on curves
WAYS, STEPS = 5, 10  # interpolations, and images of each
VARIATIONS = 8  # images that differ by one group of latents
CODED, MAPS = 10, 4  # images with their codes, and at most so many maps of these
DIMS, PLACES = 10, 7  # latents that are traversed, and images of each
LARGE, FEW = 128, 4  # reconstruction.png shows so few images, if they have more pixels in height or width
FRAMES, GRID = 100, 500_000  # of the GIF, at most, and about how many pixels a grid in it has: a byte a pixel in memory


class Pictures(Callback):
    """Reconstructions of test images and samples from fixed noise, before training and after epochs.

    The images are drawn by seed, and the classes that occur take turns.

    Which epochs have pictures depends on their numbers alone, so a resumed or prolonged run has the pictures of an
    uninterrupted one; the last epoch always has some. A model that is conditioned on the class label shows one
    row per class. At the end: the frames as a GIF, the learning curves, and pictures of the latent space, which take
    longer.

    Args:
        run_dir: the run directory
        num: images per grid; a square number makes a square grid; a conditional model has a row of sqrt(num) images for
            each class
        seed: of the noise, the same at every epoch
        manifold_steps: the manifold has steps x steps images
        max_classes: at most so many classes have a row and a manifold, the first ones
        plane: how posterior means of more than two dimensions are shown in a plane: pca, tsne or umap
        frame_milliseconds, last_frame_milliseconds: the pace of the GIF
        every_n_epochs: those whose number is a multiple of it; None: all to epoch 20, then fewer and fewer (`thinned`)
        own: a folder of the user's images, of which the first `num` are reconstructed, too

    Raises:
        ConfigError: a number is not a positive integer, `plane` is none of these or its package is missing, or there
            are no images in `own`.
    """

    def __init__(
        self,
        run_dir: str,
        num: int,
        seed: int,
        manifold_steps: int,
        max_classes: int,
        plane: str,
        frame_milliseconds: int,
        last_frame_milliseconds: int,
        every_n_epochs: int | None = None,
        own: str | None = None,
    ) -> None:
        self.run, self.seed = Run(run_dir), seed
        self.num, self.manifold_steps = positive_int("num", num), positive_int("manifold_steps", manifold_steps)
        self.max_classes = positive_int("max_classes", max_classes)
        self.plane = pictures.require_plane("plane", plane)
        self.frame_milliseconds = positive_int("frame_milliseconds", frame_milliseconds)
        self.last_frame_milliseconds = positive_int("last_frame_milliseconds", last_frame_milliseconds)
        if every_n_epochs is not None and (not is_int(every_n_epochs) or every_n_epochs < 1):
            raise ConfigError("every_n_epochs", every_n_epochs, "a positive integer or null")
        self.every_n_epochs = every_n_epochs
        self.columns = round(num**0.5)
        self.own = OwnImages("own", own, num) if own is not None and first_process() else None
        self.lost = False
        self.chosen: list[int] | None = None  # the test images that are shown; []: the first ones, as up to cvae 0.1
        self.history: dict[str, list[tuple[int, float]]] = {}  # the learning curves: (epoch, nats per image)

    def on_fit_start(self, trainer: Trainer, module: VAEModule) -> None:
        if not trainer.is_global_zero:
            return
        vae, data = module.vae, trainer.datamodule
        chosen, labels = self._choose(vae, data)
        self.chosen = self.chosen or chosen
        if self.own:
            self.own.read(vae, data)
        with fixed_noise(self.seed, torch.device("cpu")):
            self.x, y = data.batch("test", self.chosen)
        self.y, self.labels = vae.labels(y), labels  # of the test images, of the samples
        images = data.test.images
        self.few, self.few_columns = list(range(len(self.x))), self.columns  # those of reconstruction.png
        if max(self.x.shape[2:]) > LARGE:
            self.few, self.few_columns = self.few[:: self.columns if vae.num_classes else 1][:FEW], 2
        self.names = [images.kind(int(y[number])) for number in self.few] if any(images.classes or ()) else None

    def on_train_start(self, trainer: Trainer, module: VAEModule) -> None:
        if not trainer.is_global_zero:
            return
        if not trainer.global_step:
            self._save(self.run.image("original"), pictures.png(pictures.grid(self.x, self.columns)))
            self._epoch(trainer, module, 0)
        elif not self.draws(epoch := trainer.current_epoch):  # the run ended here once, and goes on for longer
            with suppress(OSError):
                self.run.image("reconstruction", epoch).unlink()
                self.run.image("sample", epoch).unlink()

    def on_train_epoch_start(self, trainer: Trainer, module: VAEModule) -> None:
        self._remember(module, trainer.current_epoch)  # the figures of the epoch before are complete by now

    def on_train_epoch_end(self, trainer: Trainer, module: VAEModule) -> None:
        if self.draws(epoch := trainer.current_epoch + 1):
            self._epoch(trainer, module, epoch)

    def publish(self, trainer: Trainer, module: VAEModule) -> None:
        """Draw the pictures of the whole run, up to the last complete epoch."""
        epoch = trainer.current_epoch
        if not trainer.is_global_zero:
            return
        if not self.draws(epoch) and not trainer.interrupted:  # else the model is that of a step within the next one
            self._epoch(trainer, module, epoch)
        frames = spread(self.run.frames(epoch), FRAMES)
        if not frames:
            return
        pace = [self.frame_milliseconds] * (len(frames) - 1) + [self.last_frame_milliseconds]
        content = pictures.gif((frame(*of_epoch) for of_epoch in frames), pace)
        height, width = imageio.improps(content, index=0).shape[:2]
        self._save(self.run.gif, content)
        log_picture(trainer.loggers, "training", content, height, width, epoch, trainer.global_step)
        self._remember(module, epoch)
        device = trainer.strategy.root_device
        with fixed_noise(self.seed, device):
            vae = module.vae.to(device).eval()
            with module.as_evaluated():
                for file, pixels in self._at_the_end(vae, trainer.datamodule, device):
                    self._picture(trainer, file, pixels, file.stem, epoch)

    def draws(self, epoch: int) -> bool:
        """Whether this epoch has pictures; 0 is before training."""
        return epoch % (self.every_n_epochs or thinned(epoch)) == 0

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "chosen": self.chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.chosen = state_dict["history"], state_dict.get("chosen", [])

    def _choose(self, vae: VAE, data: ImageData) -> tuple[list[int], Tensor | None]:
        """The test images to reconstruct, by their numbers, drawn by seed, and the labels of the samples.

        A conditional model has one row per class; other models have no labels.
        """
        y = data.test.images.y.cpu()
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.arange(len(y)) if self.chosen == [] else torch.randperm(len(y), generator=generator)
        if not vae.num_classes:
            return (order[: self.num] if self.chosen == [] else in_turns(y, order)[: self.num]).tolist(), None
        classes = range(min(vae.num_classes, self.max_classes))
        if len(classes) < vae.num_classes:
            log.info("Pictures show the first %d of %d classes", len(classes), vae.num_classes)
        rows = [order[y[order] == label] for label in classes]
        # A class with too few images starts again from its first.
        full = [row.repeat(self.columns)[: self.columns] for row in rows if len(row)]
        return torch.cat(full).tolist(), torch.arange(len(classes)).repeat_interleave(self.columns)

    def _remember(self, module: VAEModule, epoch: int) -> None:
        """Add a point to each learning curve whose figure has changed."""
        for name, value in module.figures.items():
            split, _, figure = name.partition("/")
            if split in SPLITS and figure in SHOWN:
                points = self.history.setdefault(f"{SPLITS[split]}/{figure}", [])
                if not points or points[-1][1] != value:
                    points.append((epoch, value))

    def _epoch(self, trainer: Trainer, module: VAEModule, epoch: int) -> None:
        """Draw both grids; file names count epochs, 0 is before training."""
        if not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device
        vae = module.vae.to(device)  # where it is, but at the end of a fit
        y, labels = (part if part is None else part.to(device) for part in (self.y, self.labels))
        module.eval()
        has_prior = not isinstance(vae.p_z(), Unknown)
        with fixed_noise(self.seed, device), module.as_evaluated():
            reconstructed = vae.reconstruct(self.x.to(device), y).cpu()
            if has_prior:
                sample = pictures.grid(vae.sample(self.num if labels is None else len(labels), labels), self.columns)
        module.train()
        grid = pictures.grid(reconstructed, self.columns)
        self._save(self.run.image("reconstruction", epoch), pictures.png(grid))
        headings = ("test images", f"reconstructions, epoch {epoch}")
        both = (self.x[self.few], reconstructed[self.few])
        pair = pictures.pair(both, headings, self.few_columns, self.names)
        self._picture(trainer, self.run.reconstruction, pair, "reconstruction", epoch)
        if has_prior:
            self._picture(trainer, self.run.image("sample", epoch), sample, "sample", epoch)
        if self.own:
            self._picture(trainer, self.run.own, self.own.drawn(module, device, self.seed, epoch), "own", epoch)

    def _at_the_end(self, vae: VAE, data: ImageData, device: torch.device) -> Iterator[tuple[Path, np.ndarray]]:
        """Files with pictures of the latent space, and the learning curves."""
        if isinstance(vae, Ladder):
            y = torch.zeros(VARIATIONS, dtype=torch.long, device=device) if vae.num_classes else None
            shown = pictures.grid(vae.variations(VARIATIONS, y).flatten(0, 1), VARIATIONS)
            yield self.run.groups, pictures.headed(shown, "a row a group of latents: it alone is drawn")
        (latent_dim,), codes = vae.shapes[0], is_discrete(vae.p_z())
        found, labels = latents(vae, test_batches(vae, data, range(len(data.test)), device)), data.test.images.y.cpu()
        classes = data.test.images.classes
        if latent_dim == (3 if vae.posterior.sphere else 2) and not codes:
            for label in range(min(vae.num_classes, self.max_classes)) if vae.num_classes else [None]:
                of_class = "" if label is None else f", class {data.test.images.kind(label)}"
                shown = pictures.decoded_map(vae, found.means.to(device), self.manifold_steps, label, of_class)
                yield self.run.manifold(label), shown
        if latent_dim == 2 and not codes:
            yield self.run.scatter, pictures.scatter(vae, found.means, labels, classes)
        elif latent_dim > 2:
            points, names = pictures.plane(found.means, self.plane, self.seed)
            title = f"posterior means of the test images, {latent_dim} dimensions"
            shown = pictures.latent_map(points.numpy(), labels[: len(points)].numpy(), names, title, classes)
            yield self.run.map, shown
        if codes:
            yield self.run.codes, self._codes(vae, device)
        else:  # of codes, between which nothing lies, there is none to move
            yield from self._moved(vae, found, self.x.to(device), None if self.y is None else self.y.to(device))
        yield self.run.curves, pictures.curves(self.history)

    def _codes(self, vae: VAE, device: torch.device) -> np.ndarray:
        """Test images with their codes."""
        x, y = self.x[:CODED].to(device), None if self.y is None else self.y[:CODED].to(device)
        rows = pictures.code_maps(vae, x, y)
        shown = torch.cat([rows[:-1][: MAPS + 1], rows[-1:]])
        return pictures.headed(pictures.grid(shown.flatten(0, 1), len(x)), "test images, codes, reconstructions")

    def _moved(self, vae: VAE, found: Latents, x: Tensor, y: Tensor | None) -> Iterator[tuple[Path, np.ndarray]]:
        """Latents of test images moved along single dimensions, and to those of others."""
        moved = traverse(vae, found, x[:1], None if y is None else y[:1], DIMS, PLACES)
        yield self.run.latent_traversal, pictures.traversal(*moved, "a test image, one dimension of z moved")
        apart = 2 if y is None else self.columns  # both ends are of one class
        b = x[1::apart][:WAYS]
        if apart > 1 and len(b):
            a = x[::apart][: len(b)]
            way = vae.interpolate(a, b, None if y is None else y[::apart][: len(b)], STEPS)
            yield self.run.latent_interpolation, pictures.strips(a, way, b)
        if found.exact is not None:  # else there is no density
            yield self.run.rates, pictures.rates(found.rate, found.exact)

    def _picture(self, trainer: Trainer, file: Path, pixels: np.ndarray, tag: str, epoch: int) -> None:
        content = pictures.png(pixels)
        self._save(file, content)
        height, width, _ = pixels.shape
        log_picture(trainer.loggers, tag, content, height, width, epoch, trainer.global_step)

    def _save(self, file: Path, content: bytes) -> None:
        """Save a picture. The first that cannot be saved is a warning: it is no reason to end a run."""
        try:
            self.run.path.stat()  # names a run directory that was deleted: `save` would make it again for its own files
            save(file, content)
        except OSError as error:
            if not self.lost:
                log.warning("Pictures are missing, the training goes on: %s", error)
            self.lost = True


def frame(epoch: int, reconstruction: Path, sample: Path) -> np.ndarray:
    """A frame of the GIF: the grids of an epoch, from their files, side by side."""
    left, right = (pictures.reduced(imageio.imread(file), GRID) for file in (reconstruction, sample))
    heading, beside = f"reconstructions, epoch {epoch}", "test images" if sample.stem == "original" else "samples"
    return pictures.side_by_side(pictures.headed(left, heading), pictures.headed(right, beside))
