"""Shared by the commands: the model and the data of a run, the user's images, and output files."""

import argparse
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rich.progress import track

from cvae.checks import seed_number
from cvae.errors import ConfigError, UserError, printable
from cvae.runs.directory import Run
from cvae.runs.small_files import one_line
from cvae.runs.storage import save
from cvae.runtime.console import console

if TYPE_CHECKING:  # torch takes seconds to import: not for --help, nor for a wrong option
    from numpy import ndarray
    from omegaconf import DictConfig
    from torch import Tensor

    from cvae.build import Loaded
    from cvae.data import ImageData
    from cvae.data.mapped import Mapped
    from cvae.models.vae import VAE

log = logging.getLogger(__name__)

T = TypeVar("T")
BATCH = 500  # images that go through the model at once
BYTES = 50  # that a number of an image takes until it is in a picture: as float32, and three times as high and wide


def model_of(args: argparse.Namespace, device: str = "cpu") -> "Loaded":
    """The trained model with what it is. Raises UserError if it, or --seed, is wrong."""
    seed_number("--seed", args.seed)
    from cvae.build import load_with_step

    try:
        return load_with_step(Run(args.run, args.trust), args.checkpoint, device, args.weights)
    except ConfigError as error:
        raise ConfigError(error.key.replace("weights", "--weights"), error.value, error.allowed) from error


def data_of(args: argparse.Namespace) -> "ImageData":
    """The data of the run, ready for use."""
    from cvae.build import load_data

    return load_data(Run(args.run, args.trust), args.data_root)


def levels_of(cfg: "DictConfig") -> "ImageData":
    """The data of a config as the files have them: levels, not inverted, none kept for validation; ready for use.

    Raises:
        UserError: the data are missing or damaged, or the config names what is no part of cvae.
    """
    from omegaconf import OmegaConf

    from cvae.build import make, read_images

    plain = {"binarization": "none", "invert": False, "train_on": "train", "validation_size": 0, "augment": None}
    for key, value in plain.items():
        if key in cfg.data:
            OmegaConf.update(cfg, f"data.{key}", value)
    data = make(cfg, "data")
    read_images(cfg, data)
    return data


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: cuda if there is one, else cpu")


def device_of(args: argparse.Namespace) -> str:
    """--device, or its default. Raises ConfigError where this machine has no such device."""
    import torch

    from cvae.runtime.devices import DEVICES, available

    return available("--device", args.device or ("cuda" if torch.cuda.is_available() else "cpu"), DEVICES)


class OwnFiles(NamedTuple):
    """The user's image files: where they are, what they are called, and of folders the class of each."""

    paths: list[Path]
    names: list[str]
    classes: list[str] | None

    def take(self, numbers: Sequence[int]) -> "OwnFiles":
        """The files of these numbers."""
        kinds = None if self.classes is None else [self.classes[number] for number in numbers]
        return OwnFiles([self.paths[number] for number in numbers], [self.names[number] for number in numbers], kinds)


def own_files(words: Sequence[str], split: str) -> OwnFiles:
    """The files that are named, and those below folders that are. Raises UserError if there is no such file or image.

    A file in a folder has its path from there as its name, and the folder right below (or below its split's) as its
    class; "" is the class of a file beside such folders. split: as `cvae.data.listing.images_in` takes it
    """
    if missing := [str(word) for word in words if not os.path.lexists(word)]:
        raise UserError(f"there is no such file: {', '.join(missing)}")
    from cvae.data.listing import images_in

    several = len(words) > 1
    found: list[tuple[Path, str, str | None]] = []
    for word in words:
        below = images_in(Path(word), split) if Path(word).is_dir() else None
        for name, kind in below or []:
            found.append((Path(word, name), f"{word}/{name}" if several else name, kind))
        found += [] if below else [(Path(word), word, None)]
    paths, names, kinds = (list(part) for part in zip(*found, strict=True))
    return OwnFiles(paths, names, kinds if any(kinds) and None not in kinds else None)


def own_images(words: Sequence[str], args: argparse.Namespace) -> "tuple[OwnFiles, Tensor]":
    """The user's image files as the model of the run sees images: x float32 (N, C, H, W) in [0, 1]. Raises as
    `own_levels` does.
    """
    data, files, levels = own_levels(words, args)
    return files, data.as_tested(levels[:])


def own_levels(words: Sequence[str], args: argparse.Namespace) -> "tuple[ImageData, OwnFiles, Tensor | Mapped]":
    """The data of the run, of which nothing is read; the user's image files, and their levels uint8 (N, C, H, W).

    Files in the folder of the run's data that are decoded there already (data.cache) are not decoded again. Files that
    cannot be read are left out if those of the run's data were to be (data.skip_unreadable).

    Raises:
        UserError: a file is missing or cannot be read as an image; or all are left out.
    """
    from cvae.build import make, saved_config
    from cvae.data.cache import files_now, read_all
    from cvae.data.decode import reading_of
    from cvae.data.folder import unreadable
    from cvae.data.mapped import Mapped

    data = make(saved_config(Run(args.run, args.trust)), "data")  # nothing is read: only what is done to images
    files = own_files(words, getattr(data.source, "split", "hash"))
    kept = getattr(data.source, "kept_at", None)
    root = os.path.abspath(data.source.root if kept else ".")
    there = [os.path.abspath(path) for path in files.paths]
    inside = [os.path.relpath(p, root).replace(os.sep, "/") if p.startswith(root + os.sep) else p for p in there]
    levels, decoded = read_all(files_now(Path(root), inside), reading_of(data), kept and kept())
    if decoded.faults:
        faults = [(files.paths[number], why) for number, why in decoded.faults.items()]
        if not getattr(data.source, "skip_unreadable", False) or len(faults) == len(there):
            raise UserError(unreadable(faults, len(there), ". Repair or delete them"))
        log.warning("%s", unreadable(faults, len(there), " and are left out, as data.skip_unreadable=true says"))
        rows = [number for number in range(len(there)) if number not in decoded.faults]
        files, levels = files.take(rows), levels.take(rows) if isinstance(levels, Mapped) else levels[rows]
    return data, files, levels


def images_of(
    words: Sequence[str], args: argparse.Namespace, vae: "VAE", data: "ImageData | None" = None
) -> "tuple[Tensor, Tensor | None]":
    """Images (N, C, H, W) and labels (N,): for each word a file, or a test image by its number.

    The labels are those of --class or, of test images, their own. data: of the run, if it is loaded already.

    Raises:
        UserError: a word is neither, or a model that is conditioned on the class lacks a label.
    """
    import torch

    numbers = {word: int(word) for word in words if is_number_of_an_image(word)}
    x, y = {}, {}
    if numbers:
        data = data or data_of(args)
        for word, number in numbers.items():
            if number >= len(data.test):
                raise UserError(f"{word} is neither a file nor a test image, of which there are {len(data.test)}: 0 …")
            x[word], y[word] = data.batch("test", [number])
    for word in set(words) - set(numbers):
        if Path(word).is_dir():
            raise UserError(f"{word} is a folder: name an image in it")
        _, x[word] = own_images([word], args)
    together = torch.cat([x[word] for word in words])
    known = torch.cat([y[word] for word in words]) if len(y) == len(x) and args.label is None else None
    return together, vae.labels(known) if known is not None else labels_of(args, vae, len(words))


def is_number_of_an_image(word: str) -> bool:
    """Whether a word is the number of a test image, and no file (a run of a sweep may be a folder with a number)."""
    return word.isdecimal() and not Path(word).is_file()


def labels_of(args: argparse.Namespace, vae: "VAE", num: int, classes: Sequence[str] | None = None) -> "Tensor | None":
    """--class, a name of the user's own data or a number, as labels (num,); None for a model without classes.

    classes: of each image, by the folder that it is in, where --class says none

    Raises:
        UserError: there is no such class, or it is missing or not wanted.
    """
    import torch

    from cvae.data.contents import listed, saved_classes

    if args.label is None and not vae.num_classes:
        return None
    if not vae.num_classes:
        raise ConfigError("--class", args.label, "left out: this model knows no classes")
    numbers = {str(number): number for number in range(vae.num_classes)}
    saved = sorted(saved_classes(Run(args.run)).items(), key=lambda item: item[1])
    known = {name: number for name, number in saved if number < vae.num_classes}
    if args.label is None and classes is not None:
        own = known or numbers  # where classes have names, a folder called 0 need not be of the first
        if others := sorted(set(classes) - own.keys()):
            there, allowed = (listed([one_line(name) or "(no folder)" for name in names]) for names in (others, own))
            raise UserError(
                f"sub-folders give images their class, and this run has no class called {there}: its classes are "
                f"{allowed}. Rename the folders, or give all images one class: --class"
            )
        return torch.tensor([own[name] for name in classes])
    if str(args.label) not in numbers | known:
        names = f", or a name: {listed(list(known))}" if known else ""
        why = ": this model is given the class" if args.label is None else ""
        raise ConfigError("--class", args.label, f"from 0 to {vae.num_classes - 1}{names}{why}")
    return torch.full((num,), (numbers | known)[args.label])


def target(args: argparse.Namespace, default: Path, endings: Sequence[str]) -> Path:
    """The output file or folder: --out, or the default. "" among the endings allows a folder.

    Raises:
        ConfigError: the name ends otherwise, or something else has it.
    """
    out = Path(args.out) if args.out else default
    folder_meant = out.is_dir() or str(args.out or "").endswith(("/", os.sep))
    wanted = [f"the name of a file that ends in {' or '.join(ending for ending in endings if ending)}"]
    wanted += ["a folder"] if "" in endings else []
    ending = out.suffix.lower()
    if "" in endings and ending not in endings and folder_meant:  # a name may have a dot
        ending = ""
    if ending not in endings or (out.is_dir() if ending else out.is_file()):
        raise ConfigError("--out", out, ", or ".join(wanted))
    folder = out.parent if ending else out
    there = folder if folder.exists() else folder.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError("--out", out, f"in a folder that is there and can be written, which {there} is not")
    return out


def require_room(key: str, num: int, vae: "VAE", each: int = 1) -> None:
    """Raise ConfigError unless `num` times so many images of the model fit into the memory."""
    from cvae.runtime.devices import main_memory

    most = main_memory() // (BYTES * math.prod(vae.shapes[1]) * each)
    if num > most:
        raise ConfigError(key, num, f"at most {most:,}: more images do not fit into the memory")


def save_images(
    out: Path, images: "Tensor", files: Sequence[str], grid: "Callable[[], ndarray]", **more: object
) -> None:
    """Images (N, C, H, W) in [0, 1] as the ending of `out` says.

    .png: what `grid` draws; .npz: x (N, H, W, C) float32, as data=npz reads it, and the arrays in `more`; a folder: a
    PNG for each, called by its name in `files`.
    """
    from cvae import pictures

    if out.suffix.lower() == ".png":
        save(out, pictures.png(grid()))
    elif out.suffix.lower() == ".npz":
        save_arrays(out, x=images.clamp(0, 1).permute(0, 2, 3, 1).numpy(), **more)
    else:
        for name, image in zip(files, images, strict=True):
            save(out / f"{name}.png", pictures.png(pictures.grid(image[None], 1, padding=0, zoom=1)))


def save_arrays(out: Path, **arrays: object) -> None:
    """An .npz file with the arrays that are not None."""
    import numpy as np

    content, known = io.BytesIO(), {name: array for name, array in arrays.items() if array is not None}
    kept: dict[str, Any] = {name: np.asarray(array) for name, array in known.items()}
    np.savez_compressed(content, **kept)
    save(out, content.getvalue())


def watched(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The `total` items; on a terminal, if they are several, with a progress bar that goes away at the end."""
    disable = total < 2 or not console.is_terminal
    return iter(track(items, description, total, console=console, transient=True, disable=disable))


def said(line: str) -> None:
    """A line on the terminal, as it is."""
    console.print(printable(line), soft_wrap=True, markup=False, highlight=False)
