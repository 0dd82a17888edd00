"""Where images come from besides MNIST: torchvision's sets, a user's own folder, and a small set made in memory.

A source has download(), which fetches what is missing, and load() -> (train Images, test Images).
"""

import gzip
import logging
import math
import os
import pickle
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision import datasets
from torchvision.datasets.utils import download_url, extract_archive

from cvae.data import ImageData, Images
from cvae.errors import ConfigError, DataError, is_int, one_of, positive_int
from cvae.mnist import read_idx, verify

log = logging.getLogger(__name__)

OFFLINE = (OSError, RuntimeError, HTTPException)  # what a download that fails raises


class IdxFiles:
    """60,000 + 10,000 images of 28x28 in torchvision's layout: `root`/<dataset>/raw/train-images-idx3-ubyte.gz, ….

    The archives are read, not what torchvision unpacks beside them: its MD5 sums are those of the archives.

    Args:
        root: torchvision's root
        dataset: FashionMNIST (Xiao et al. 2017) or KMNIST (Clanuwat et al. 2018), torchvision's names
    """

    def __init__(self, root: str, dataset: str):
        self.dataset = one_of("source.dataset", dataset, ("FashionMNIST", "KMNIST"))
        self.folder = Path(root).expanduser() / dataset / "raw"
        known = getattr(datasets, dataset)
        self.mirrors, self.md5 = known.mirrors, dict(known.resources)

    def download(self) -> None:
        """Fetch the archives that are not there. Raises DataError if no mirror has them."""
        for name, md5 in self.md5.items():
            if not (self.folder / name).is_file():
                self._fetch(name, md5)

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing, truncated or altered."""
        # torchvision's order: training images, training labels, test images, test labels
        train_x, train_y, test_x, test_y = (self._read(self.folder / name, md5) for name, md5 in self.md5.items())
        return Images(train_x[:, None], train_y.long()), Images(test_x[:, None], test_y.long())

    def _fetch(self, name: str, md5: str) -> None:
        failures = []
        for mirror in self.mirrors:
            log.info("%s is not in %s: fetching it from %s", name, self.folder, mirror)
            try:
                with temporary_folder(self.folder) as temporary:
                    download_url(mirror + name, temporary, name, md5)
                    os.replace(temporary / name, self.folder / name)
                return
            except OFFLINE as error:
                failures.append((mirror + name, error))
        raise not_fetched(self.dataset, self.folder, failures, self.md5, f"{self.dataset}/raw/")

    def _read(self, path: Path, md5: str) -> torch.Tensor:
        return read_idx(gzip.decompress(verified(path, md5)))


class CIFAR10:
    """50,000 + 10,000 colour images of 32x32 (Krizhevsky 2009) in torchvision's layout, `root`/cifar-10-batches-py/….

    `root`/cifar-10-python.tar.gz is unpacked where it is there, fetched where it is not.
    """

    def __init__(self, root: str):
        self.root = Path(root).expanduser()
        self.folder = self.root / datasets.CIFAR10.base_folder
        self.train, self.test = dict(datasets.CIFAR10.train_list), dict(datasets.CIFAR10.test_list)

    def download(self) -> None:
        """Raises DataError if the archive is damaged, or is not there and cannot be fetched."""
        files = self.train | self.test
        if all((self.folder / name).is_file() for name in files):
            return
        url, name, md5 = datasets.CIFAR10.url, datasets.CIFAR10.filename, datasets.CIFAR10.tgz_md5
        archive = self.root / name
        try:
            with temporary_folder(self.root) as temporary:
                if archive.is_file():
                    verified(archive, md5)
                else:
                    log.info("CIFAR-10 is not in %s: fetching it from %s", self.folder, url)
                    download_url(url, temporary, name, md5)
                    archive = temporary / name
                extract_archive(archive, temporary)
                self.folder.mkdir(exist_ok=True)
                for file in files:  # all are whole: each appears under its own name in one step
                    os.replace(temporary / self.folder.name / file, self.folder / file)
        except DataError:
            raise
        except OFFLINE as error:
            raise not_fetched("CIFAR-10", self.folder, [(url, error)], files, f"{self.folder.name}/", archive) from error

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a file is missing, truncated or altered."""
        return self._read(self.train), self._read(self.test)

    def _read(self, files: dict[str, str]) -> Images:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of the way Python 2 wrote arrays
            # A pickle can run code when it is opened: these are known by their hashes.
            batches = [pickle.loads(verified(self.folder / name, md5), encoding="latin1") for name, md5 in files.items()]
        x = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        return Images(torch.from_numpy(x), torch.tensor(sum((batch["labels"] for batch in batches), [])))


@contextmanager
def temporary_folder(inside: Path):
    """A folder that is gone when its context ends: a download that breaks off leaves nothing behind."""
    inside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=inside, prefix=".download-") as name:
        yield Path(name)


def verified(path: Path, md5: str) -> bytes:
    """The content of a file. Raises DataError if it is missing or not the one that torchvision knows."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    content = path.read_bytes()
    verify(path, content, md5, "md5")
    return content


def not_fetched(name: str, folder: Path, failures, files, layout: str, archive: Path | None = None) -> DataError:
    tried = "\n".join(f"  {url}: {' '.join(str(error).split())}" for url, error in failures)
    wanted = "\n".join(f"  {file}" for file in files)
    either = f"Put {archive.name} into {archive.parent},\nor these files" if archive else "Put these files"
    return DataError(
        f"{name} is not in {folder} and could not be fetched:\n{tried}\n{either} into {folder}:\n{wanted}\n"
        f"or point data.root (or the environment variable CVAE_DATA) at a folder that has them in {layout}."
    )


EXTENSIONS = (*datasets.folder.IMG_EXTENSIONS, ".gif", ".avif")  # what torchvision takes for an image file


def image_folder(image_shape, test_size, seed, image_size=None, channels=None, **options) -> ImageData:
    """ImageData of a user's own images; see `ImageFolder`. The config makes image_shape of image_size and channels."""
    source = partial(ImageFolder, image_shape=image_shape, test_size=test_size, seed=seed)
    return ImageData(source, image_shape=image_shape, seed=seed, **options)


class ImageFolder:
    """The images below a folder, any count, size and format that Pillow reads.

    `root`/train/… and `root`/test/… are the training and the test images. Without these two all images below `root` are
    one set, of which a part is kept for testing. An image's class is the folder right below `root` (or train, or test) that
    it is in, numbered in alphabetical order; images in no such folder are a class of their own, the first one.

    Each is turned as its EXIF orientation says, made grey or RGB (what is transparent becomes white; 16 bits become 8),
    cropped around its centre to the aspect ratio that is asked for and resized, antialiased, bilinear. Of an animation or
    a file of several pages the first is read. Files whose names do not end like an image's, or begin with a dot, are left out.

    Args:
        root: the folder
        image_shape: [C, H, W]; C is 1 (grey) or 3 (RGB)
        test_size: how many of the images (an integer), or which share of them (between 0 and 1), are the test set where
            there is no test folder
        seed: of the choice of these
    """

    def __init__(self, root: str | None, image_shape, test_size, seed: int):
        if root is None:
            raise ConfigError("root", root, "the folder of your images")
        self.root, self.shape, self.test_size, self.seed = Path(root).expanduser(), tuple(image_shape), test_size, seed
        if self.shape[0] not in (1, 3):
            raise ConfigError("image_shape", list(image_shape), "[channels, height, width] with 1 channel (grey) or 3 (RGB)")
        if not (is_int(test_size) and test_size > 0) and not (isinstance(test_size, float) and 0 < test_size < 1):
            raise ConfigError("test_size", test_size, "a positive integer (images), or a number between 0 and 1 (a share)")

    def download(self) -> None:
        """Nothing is fetched. Raises DataError if the folder is missing or has no images."""
        self._find()

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if the folder is missing or empty, or naming all the files that cannot be read."""
        train, test = self._find()
        files = train + test
        classes = {name: label for label, name in enumerate(sorted({name for _, name in files}))}
        log.info("Reading %s images of %d classes from %s", f"{len(files):,}", len(classes), self.root)
        x = torch.empty((len(files), *self.shape), dtype=torch.uint8)

        def read(number: int) -> str | None:
            try:
                x[number] = torch.from_numpy(read_image(files[number][0], self.shape))
            except UnidentifiedImageError:
                return "not an image of a known format"
            except Exception as error:  # a damaged file can make a decoder raise almost anything
                return str(error) or type(error).__name__

        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without holding Python's lock
            faults = [(path, why) for (path, _), why in zip(files, pool.map(read, range(len(files))), strict=True) if why]
        if faults:
            lines = "\n".join(f"  {path}: {' '.join(why.split())}" for path, why in faults)
            raise DataError(f"{len(faults)} of {len(files)} images cannot be read. Mend or delete them:\n{lines}")
        y = torch.tensor([classes[name] for _, name in files])
        return Images(x[: len(train)], y[: len(train)]), Images(x[len(train) :], y[len(train) :])

    def _find(self) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
        """(train, test): each file with the name of its class."""
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root}: there is no such folder")
        parts = [self.root / name for name in ("train", "test") if (self.root / name).is_dir()]
        if len(parts) == 1:  # to take it for a class would train on the wrong images, or on no classes
            missing = "test" if parts[0].name == "train" else "train"
            raise DataError(
                f"{self.root} has a folder {parts[0].name} but none called {missing}. Add it, or have a part of all images "
                f"kept for testing: with data.root={parts[0]}, or after renaming that folder if it is a class."
            )
        if parts:
            return tuple(images_below(part) for part in parts)
        files = images_below(self.root)
        size = self.test_size if is_int(self.test_size) else max(1, round(self.test_size * len(files)))
        if size >= len(files):
            allowed = f"below the {len(files)} images in {self.root}, so that some are left for training"
            raise ConfigError("data.test_size", self.test_size, allowed)
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return [files[i] for i in sorted(order[size:])], [files[i] for i in sorted(order[:size])]


def images_below(folder: Path) -> list[tuple[Path, str]]:
    """The image files below a folder, sorted, each with the name of the folder right below it. Raises DataError if there are none."""
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    if not files:
        raise DataError(f"There are no images in {folder}: no file below it ends in {', '.join(EXTENSIONS)}")
    inner = [(file, file.relative_to(folder).parts) for file in sorted(files)]
    return [(file, parts[0] if len(parts) > 1 else "") for file, parts in inner]


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A file as uint8 (C, H, W); see `ImageFolder`. Raises whatever Pillow raises."""
    channels, height, width = shape
    with Image.open(path) as image:
        image.draft(None, (2 * max(height, width),) * 2)  # a JPEG decodes faster at a fraction of its size; twice ours will do
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format in ("PNG", "PPM")):
            # 16 bits: Pillow's own conversion cuts off at 255 instead of scaling
            upright = Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
        if upright.mode in ("I", "F"):
            raise ValueError("its pixels are 32-bit numbers of an unknown range")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    upright = upright.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)  # antialiased, as all of Pillow's filters
    return np.array(fitted).reshape(height, width, channels).transpose(2, 0, 1)


class Synthetic:
    """A bright spot on black, its place given by its class: for tests, and for trying things out without data.

    The same images at every call, whatever the seed of a run.

    Args:
        root: not read
        image_shape: [C, H, W]
        num_classes: the spots' centres are so many points on a circle, give or take 5 % of the image's width
        train_size, test_size: how many images
    """

    def __init__(self, root, image_shape, num_classes: int, train_size: int, test_size: int):
        self.shape, self.num_classes = tuple(image_shape), positive_int("num_classes", num_classes)
        self.train_size = positive_int("source.train_size", train_size)
        self.test_size = positive_int("source.test_size", test_size)

    def download(self) -> None:
        """There is nothing to fetch."""

    def load(self) -> tuple[Images, Images]:
        """(train, test); the classes take turns."""
        generator = torch.Generator().manual_seed(0)
        return self._make(self.train_size, generator), self._make(self.test_size, generator)

    def _make(self, count: int, generator: torch.Generator) -> Images:
        channels, height, width = self.shape
        y = torch.arange(count) % self.num_classes
        angle = 2 * math.pi * y / self.num_classes
        centre = 0.5 + 0.3 * torch.stack([angle.sin(), angle.cos()], 1)  # (N, 2): down, right
        centre = centre + 0.05 * torch.randn(count, 2, generator=generator)
        down = (torch.arange(height) + 0.5) / height - centre[:, :1]  # (N, H)
        right = (torch.arange(width) + 0.5) / width - centre[:, 1:]  # (N, W)
        spot = torch.exp(-(down[:, :, None] ** 2 + right[:, None] ** 2) / (2 * 0.12**2))  # (N, H, W)
        brightness = 0.7 + 0.3 * torch.rand(count, channels, 1, 1, generator=generator)
        return Images((255 * brightness * spot[:, None]).round().to(torch.uint8), y)
