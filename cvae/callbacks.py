"""What a run shows while it goes and leaves behind: pictures, a progress bar, a line an epoch, metrics.json."""

import io
import logging
import time
from pathlib import Path

import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import TorchCheckpointIO
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from cvae import pictures
from cvae.console import console
from cvae.data import as_is
from cvae.errors import positive_int
from cvae.files import save
from cvae.noise import fixed_noise

log = logging.getLogger(__name__)


class Pictures(Callback):
    """Reconstructions of fixed test images and samples from fixed noise, before training and after each epoch.

    A model that is conditioned on the class label shows one row a class. At the end: the frames as a GIF and, for two latent
    dimensions, the manifold (one a class for a conditional model) and the scatter of posterior means.

    Args:
        folder: the run directory
        num: images a grid; a square number makes a square grid; a conditional model has a row of its root for each class
        seed: of the noise, the same at every epoch
        manifold_steps: the manifold has steps x steps images
        frame_milliseconds, last_frame_milliseconds: the pace of the GIF
    """

    def __init__(self, folder, num: int, seed: int, manifold_steps: int, frame_milliseconds: int, last_frame_milliseconds: int):
        self.folder, self.seed = Path(folder), seed
        self.num, self.manifold_steps = positive_int("num", num), positive_int("manifold_steps", manifold_steps)
        self.frame_milliseconds = positive_int("frame_milliseconds", frame_milliseconds)
        self.last_frame_milliseconds = positive_int("last_frame_milliseconds", last_frame_milliseconds)
        self.columns = round(num**0.5)
        self.frames = []  # of this run only: nothing is read back from the folder

    def on_fit_start(self, trainer, module) -> None:
        data, classes = trainer.datamodule, module.vae.num_classes
        if classes:
            self.labels = torch.arange(classes).repeat_interleave(self.columns)
            rows = [(data.test.images.y == label).nonzero().flatten() for label in range(classes)]
            full = [row.repeat(self.columns)[: self.columns] for row in rows if len(row)]  # again from the first, if too few
            chosen = torch.cat(full).tolist()
        else:
            self.labels, chosen = None, list(range(min(self.num, len(data.test))))
        with fixed_noise(self.seed, torch.device("cpu")):
            self.x, self.y = data.on_after_batch_transfer(data.test.__getitems__(chosen), 0)
        self._picture(trainer, "images/original.png", pictures.grid(self.x, self.columns), "original")

    def on_train_start(self, trainer, module) -> None:
        self._epoch(trainer, module)

    def on_train_epoch_end(self, trainer, module) -> None:
        self._epoch(trainer, module)

    def on_train_end(self, trainer, module) -> None:
        if not trainer.is_global_zero or not self.frames:
            return
        height, width, _ = self.frames[0].shape
        content = pictures.gif(self.frames, self.frame_milliseconds, self.last_frame_milliseconds)
        save(self.folder / "cvae.gif", content)
        self._summary(trainer, "training", content, height, width)
        module.eval()
        self._latent(trainer, module)
        module.train()

    def _epoch(self, trainer, module) -> None:
        """Draw both grids; file names and TensorBoard's steps count epochs, 0 is before training."""
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1 if trainer.global_step else 0
        vae, device = module.vae, module.device
        module.eval()
        with fixed_noise(self.seed, device):
            reconstruction = pictures.grid(vae.reconstruct(self.x.to(device), self.y.to(device)), self.columns)
            if self.labels is None:
                sample = pictures.grid(vae.sample(self.num), self.columns)
            else:
                sample = pictures.grid(vae.sample(len(self.labels), self.labels.to(device)), self.columns)
        module.train()
        for name, pixels in (("reconstruction", reconstruction), ("sample", sample)):
            self._picture(trainer, f"images/{name}_{epoch:04d}.png", pixels, name, epoch)
        self.frames.append(pictures.side_by_side(reconstruction, sample))

    def _latent(self, trainer, module) -> None:
        data, vae, device = trainer.datamodule, module.vae, module.device
        latent_dim = vae.prior().event_shape[0]
        if latent_dim != 2:
            log.info("No latent manifold and scatter: they need model.latent_dim=2, here it is %d", latent_dim)
            return
        for label in range(vae.num_classes) if vae.num_classes else [None]:
            name = "latent_manifold" if label is None else f"latent_manifold_{label}"
            self._picture(trainer, f"{name}.png", pictures.latent_manifold(vae, self.manifold_steps, device, label), name)
        means, labels = [], []
        with torch.no_grad():
            for batch in DataLoader(data.test, data.eval_batch_size, collate_fn=as_is):  # all of it, in this process
                x, y = data.on_after_batch_transfer([part.to(device) for part in batch], 0)
                means.append(vae.encode(x, y).mean.cpu())
                labels.append(y.cpu())
        scatter = pictures.latent_scatter(torch.cat(means).numpy(), torch.cat(labels).numpy())
        self._picture(trainer, "latent_scatter.png", scatter, "latent_scatter")

    def _picture(self, trainer, name: str, pixels, tag: str, step: int | None = None) -> None:
        if trainer.is_global_zero:
            content = pictures.png(pixels)
            save(self.folder / name, content)
            self._summary(trainer, tag, content, *pixels.shape[:2], step=step)

    def _summary(self, trainer, tag, content, height, width, step=None) -> None:
        summary = pictures.image_summary(tag, content, height, width)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment._get_file_writer().add_summary(summary, trainer.current_epoch if step is None else step)


class ProgressBar(Callback):
    """One bar for the whole training with the time left, and the figures of the last `log_every_n_steps` steps."""

    def on_train_start(self, trainer, module) -> None:
        if not trainer.is_global_zero:
            return
        columns = (
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        self.bar = Progress(*columns, console=console)
        steps = trainer.estimated_stepping_batches
        self.task = self.bar.add_task("", total=steps if steps < float("inf") else None, epoch="", figures="")
        self.bar.start()
        self.drawn = 0.0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        # Five times a second is enough for the eye, and costs the training nothing.
        if trainer.is_global_zero and time.monotonic() - self.drawn > 0.2:
            self._draw(trainer, module)

    def _draw(self, trainer, module) -> None:
        shown = ("elbo", "rate", "distortion") if console.width >= 100 else ("elbo",)  # the time left must have its place
        figures = "  ".join(f"{name} {module.recent[name]:.2f}" for name in shown if name in module.recent)
        epoch = f"{min(trainer.current_epoch + 1, trainer.max_epochs)}/{trainer.max_epochs}"
        self.bar.update(self.task, completed=trainer.global_step, epoch=epoch, figures=figures)
        self.drawn = time.monotonic()

    def on_train_end(self, trainer, module) -> None:
        if trainer.is_global_zero:
            self._draw(trainer, module)
            self.bar.stop()

    def on_exception(self, trainer, module, exception) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()


class EpochLines(Callback):
    """A line an epoch, as the tutorial prints it, and the seconds of each epoch's training (evaluation not counted)."""

    def __init__(self):
        self.seconds = []

    def on_train_epoch_start(self, trainer, module) -> None:
        self.started, self.trained = time.perf_counter(), None

    def on_validation_start(self, trainer, module) -> None:
        self.trained = time.perf_counter()

    def on_train_epoch_end(self, trainer, module) -> None:
        self.seconds.append((self.trained or time.perf_counter()) - self.started)
        for split in ("validation", "test"):
            figures = {name: trainer.callback_metrics.get(f"{split}/{name}") for name in ("elbo", "rate", "distortion")}
            if self.trained and None not in figures.values():
                text = "{elbo:.2f} (rate {rate:.2f}, distortion {distortion:.2f})".format(**figures)
                log.info("Epoch %d: %s ELBO %s, %.1f s", trainer.current_epoch + 1, split, text, self.seconds[-1])

    def on_exception(self, trainer, module, exception) -> None:
        if isinstance(exception, KeyboardInterrupt):
            log.info(
                "Interrupted in epoch %d. Checkpoints and pictures of the epochs before are kept.", trainer.current_epoch + 1
            )


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints through `save`: its own way leaves half a file under the name when the disk is full."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        save(Path(path), content.getvalue())
