"""The classifier whose features samples are measured by: trained on the data's labels, kept beside the data."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from cvae.data import ImageData, contents
from cvae.data.contents import of_images
from cvae.data.images import at
from cvae.errors import DataError, UserError
from cvae.evaluation.features import Classifier, Watch, checksum
from cvae.runs.checkpoint import Budget, read_checkpoint
from cvae.runs.storage import save
from cvae.runtime.noise import fixed_noise

FOLDER = ".cvae_features"  # beside the data
BATCH, RATE = 128, 2e-3
BLOCK = 1000  # images that are read at once


class Trained(NamedTuple):
    """A classifier in eval mode, and the share of test images whose class it finds."""

    features: Classifier
    accuracy: float


def fingerprint(data: ImageData) -> str:
    """Of the levels and labels of the training and test images of data without binarization."""
    return contents.fingerprint(of_images("train", data.train.images) | of_images("test", data.test.images))


def own_folder() -> Path:
    """The user's folder for what can be computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvae" / "features"


def places(root: str | None) -> list[Path]:
    """Folders for a classifier: beside the data, or where that cannot be, the user's own."""
    if root is None:
        return [own_folder()]
    path = Path(root).expanduser()
    return [(path if path.is_dir() else path.parent) / FOLDER, own_folder()]


def train(data: ImageData, epochs: int, watched: Watch, seed: int = 0) -> Trained:
    """Train a classifier on levels / 255 and labels of the training images, by Adam with a rate that rises and falls.

    data: without binarization, after its setup()

    Raises:
        UserError: the images have one class.
    """
    images = data.train.images
    classes = int(max(images.y.max(), data.test.images.y.max())) + 1
    if len(images.y.unique()) < 2:
        raise UserError(
            f"{data.root}: all images have one class, and features need two. Without labels there are pixels"
        )
    with fixed_noise(seed, torch.device("cpu")):
        model = Classifier(data.image_shape, classes).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), RATE)
        rows = torch.cat([torch.randperm(len(images.y)) for _ in range(epochs)]).split(BATCH)
        rows = rows[:-1] if len(rows) > 1 else rows  # the last batch may be of one image, which has no variance
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, len(rows))
        for step in watched(range(len(rows)), "training the classifier", len(rows)):
            x, y = at(images.x, rows[step]), images.y[rows[step]]
            loss = F.cross_entropy(model.logits(x.float() / 255), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return named(model.eval(), accuracy(model, data))


@torch.no_grad()
def accuracy(model: Classifier, data: ImageData) -> float:
    """The share of the test images whose class it finds."""
    images, right = data.test.images, 0
    for start in range(0, len(images.y), BLOCK):
        found = model.logits(images.x[start : start + BLOCK].float() / 255).argmax(1)
        right += int((found == images.y[start : start + BLOCK]).sum())
    return right / len(images.y)


def named(model: Classifier, share: float) -> Trained:
    model.name = f"classifier-{checksum(model)}"
    return Trained(model, share)


def keep(trained: Trained, data: ImageData, folders: Iterable[Path]) -> Path:
    """Save a classifier with its checksum, its accuracy and what the data are known by; return the file.

    folders: of which the first that can be written gets it

    Raises:
        UserError: no folder can be written.
    """
    model = trained.features
    about = {"name": model.name, "accuracy": trained.accuracy, "data": fingerprint(data)}
    about |= {"image_shape": list(model.image_shape), "num_classes": model.num_classes}
    content = io.BytesIO()
    torch.save({"state_dict": model.state_dict(), "classifier": about}, content)
    for folder in folders:
        file = folder / f"classifier-{about['data']}.pt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save(file, content.getvalue())
        except OSError:
            continue
        return file
    raise UserError(f"none of these folders can be written: {', '.join(map(str, folders))}")


def kept_file(data: ImageData) -> Path | None:
    """The file of a classifier of these data, without binarization: of several the newest; None where none is kept."""
    name = f"classifier-{fingerprint(data)}.pt"
    files = [folder / name for folder in places(data.root)]
    return max((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime, default=None)


def kept(data: ImageData) -> Trained | None:
    """The classifier of these data, without binarization; None where none is kept.

    Raises:
        UserError: its file is damaged.
    """
    file = kept_file(data)
    return read(file, data) if file else None


def read(file: Path, data: ImageData) -> Trained:
    """The classifier in a file, of these data. Raises UserError where it is damaged.

    It may have come with data of somebody else: it is no larger than its file, and has its sizes from the data.
    """
    content = read_checkpoint(file)
    try:
        about, shape = content["classifier"], data.image_shape
        classes = about["num_classes"]
        if about["image_shape"] != list(shape) or type(classes) is not int or classes < 1:
            raise DataError("it is of images of another shape, or has no number of classes")
        with Budget([file]):
            model = Classifier(shape, classes)
            model.load_state_dict(content["state_dict"])
        trained = named(model.eval(), float(about["accuracy"]))
        if about["data"] != fingerprint(data) or about["name"] != trained.features.name:
            raise DataError("its checksum is another")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, UserError) as error:
        said = f"{' '.join(str(error).split()):.200}"
        raise UserError(f"{file} is damaged: {said}. Delete it, and train it again: python -m cvae features") from error
    return trained
