"""Describe a user's own data before training, and advise what to choose for them."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cvae.data.contents import listed
from cvae.data.decode import FORMATS, Reading, decode, limited, opaque
from cvae.data.folder import ImageFolder
from cvae.data.images import Images, in_turns
from cvae.data.listing import is_image
from cvae.data.mapped import BLOCK
from cvae.data.npz import Npz
from cvae.errors import DataError
from cvae.runs.small_files import one_line

SPLITS = ("train", "test", "validation")  # in the order of load()
SIDES = (16, 32, 64, 128)  # image sizes that are advised
LATENTS = (8, 16, 32, 64, 128, 256)
LOOKED_AT = 2000  # images, at most, for the number of latents; their pixels are brought to this size:
SMALL = 32
VARIANCE = 0.95  # of the pixels, that as many principal components carry as there should be latents
SHOWN = 64  # images in the grid

Watch = Callable[[Iterable, str, int], Iterable]  # (items, what is done, how many) -> the items, with a progress bar


class Survey(NamedTuple):
    """The result: lines for the terminal, words for train.py, and images (N, C, H, W) in [0, 1] for a grid."""

    lines: list[str]
    words: list[str]
    shown: Tensor


class Form(NamedTuple):
    """Size, mode and transparency of a file, from its header."""

    width: int
    height: int
    mode: str
    transparent: bool


def survey(root: Path, watch: Watch) -> Survey:
    """Look at a folder of images or at a file of arrays.

    Raises DataError or ConfigError if there is nothing to train on.
    """
    if not root.exists():
        raise DataError(f"{root}: there is no such file or folder")
    return of_folder(root, watch) if root.is_dir() and not holds_arrays(root) else of_arrays(root)


def holds_arrays(root: Path) -> bool:
    """Whether a folder is one of arrays, as `Npz` reads them, and of no images."""
    if any((root / f"train.{kind}").is_file() for kind in ("npz", "npy")):
        return True
    there = any(root.glob("*.npy")) or any(root.glob("train/*.npy"))
    return there and not any(is_image(name) for _, _, names in os.walk(root) for name in names)


def of_folder(root: Path, watch: Watch) -> Survey:
    source = ImageFolder(Reading((3, SMALL, SMALL)), str(root), 0.1, 0, "hash", skip_unreadable=True, cache=None)
    splits = dict(zip(SPLITS, source.load(), strict=False))
    names = [str(name) for images in splits.values() for name in images.names]  # type: ignore[union-attr]
    with limited(None), ThreadPoolExecutor() as pool:
        forms = list(watch(pool.map(form, [root / name for name in names]), "looking at the files", len(names)))
    everything = [images.x[:] for images in splits.values()]
    grey = all((x == x[:, :1]).all() for x in everything)
    sides = sorted(min(each.width, each.height) for each in forms)
    size = max([side for side in SIDES if side <= sides[len(sides) // 2]], default=SIDES[0])
    channels = 1 if grey else 3
    lines = [counted(splits), *of_forms(forms, grey)]
    lines += duplicates(splits, source.contents or {})
    if source.left_out:
        why = [f"    {one_line(name)}: {reason}" for name, reason in list(source.left_out.items())[:10]]
        lines += [f"unreadable: {len(source.left_out):,} (data.skip_unreadable=true leaves them out)", *why]
    words = ["data=image_folder", f"data.root={root}", f"data.image_size={size}"]
    words += ["data.channels=1"] if grey else []
    words += ["data.skip_unreadable=true"] if source.left_out else []
    chosen = splits["train"].take(a_few(splits["train"].y))
    files = [root / str(name) for name in chosen.names]  # type: ignore[union-attr]
    with limited(None):
        more, advice = advised(splits["train"], channels, float(np.mean([black_or_white(file) for file in files])))
    shown = torch.as_tensor(decode(files, Reading((channels, size, size))).x) / 255
    return Survey([*lines, *advice], [*words, *more], shown)


def form(path: Path) -> Form:
    with Image.open(path, formats=FORMATS) as image:
        return Form(*image.size, image.mode, image.has_transparency_data)


def black_or_white(path: Path) -> float:
    """The share of a file's pixels that are black or white, at its own size; transparent ones are white."""
    with Image.open(path, formats=FORMATS) as image:
        counts = np.array(opaque(image, "white").convert("L").histogram())
    return float((counts[:5].sum() + counts[-5:].sum()) / counts.sum())


def of_forms(forms: Sequence[Form], grey: bool) -> list[str]:
    """Sizes and channels in words."""
    sizes = Counter((each.width, each.height) for each in forms)
    widths, heights = (sorted(each[axis] for each in forms) for axis in (0, 1))
    middle = len(forms) // 2
    if len(sizes) <= 3:
        said = ", ".join(f"{width}x{height} ({count:,})" for (width, height), count in sizes.most_common())
    else:
        ends = f"from {widths[0]}x{heights[0]} to {widths[-1]}x{heights[-1]}"
        said = f"{len(sizes):,}, width x height {ends}, median {widths[middle]}x{heights[middle]}"
    lines = [f"sizes: {said}"]
    if long := sum(max(each[:2]) > 1.2 * min(each[:2]) for each in forms):
        lines.append(
            f"    {long:,} are not square: their ends are cropped; data.fit=pad or stretch keeps them, and "
            "data.image_size=[HEIGHT,WIDTH] is of another shape"
        )
    modes = ", ".join(f"{mode} ({count:,})" for mode, count in Counter(each.mode for each in forms).most_common())
    lines.append(f"channels: {modes}" + ("; all images are grey" if grey else ""))
    if clear := sum(each.transparent for each in forms):
        lines.append(
            f"    {clear:,} can have transparent pixels: they become white; data.transparent says another colour"
        )
    return lines


def of_arrays(root: Path) -> Survey:
    source = Npz(str(root), 0.1, 0, "hash")
    splits = dict(zip(SPLITS, source.load(), strict=False))
    train = splits["train"]
    channels, height, width = train.x.shape[1:]
    named: dict[str, Images] = {}
    digests: dict[str, str] = {}
    for split, images in splits.items():
        names = np.array([f"{split} {name}" for name in images.names])  # type: ignore[union-attr]
        digests |= dict(
            zip(
                names, (blake2b(row.numpy()).hexdigest() for rows in images.x.split(BLOCK) for row in rows), strict=True
            )
        )
        named[split] = images._replace(names=names)
    lines = [counted(splits), f"sizes: {width}x{height}", f"channels: {channels}", *duplicates(named, digests)]
    levels = train.x[a_few(train.y)]
    words, advice = advised(train, channels, ((levels < 5) | (levels > 250)).float().mean().item())
    return Survey([*lines, *advice], ["data=npz", f"data.root={root}", *words], train.x[a_few(train.y)] / 255)


def a_few(y: Tensor) -> Tensor:
    """The images of the grid, by their labels y (N,): all classes that occur take turns."""
    return in_turns(y, torch.randperm(len(y), generator=torch.Generator().manual_seed(0)))[:SHOWN]


def counted(splits: dict[str, Images]) -> str:
    """How many images there are, of which classes, in which splits."""
    total = sum(len(images.y) for images in splits.values())
    count: Counter[str] = Counter()
    for images in splits.values():
        count.update(images.kind(label) for label in images.y.tolist())
    kinds = [f"{one_line(name) or '(in no folder)'} {number:,}" for name, number in sorted(count.items())]
    of = ", ".join(kinds[:12]) + (f", … ({len(kinds):,} in all)" if len(kinds) > 12 else "")
    parts = ", ".join(f"{len(images.y):,} {split}" for split, images in splits.items())
    return f"images: {total:,} ({parts})\nclasses: {len(kinds):,}: {of}"


def duplicates(splits: dict[str, Images], digests: dict[str, str]) -> list[str]:
    """Images of the same content: how many, and which lie in several splits."""
    places: dict[str, list[tuple[str, str]]] = {}
    for split, images in splits.items():
        for name in map(str, images.names):  # type: ignore[arg-type]
            places.setdefault(digests[name], []).append((split, name))
    alike = [found for found in places.values() if len(found) > 1]
    if not alike:
        return ["duplicates: none"]
    across = [found for found in alike if len({split for split, _ in found}) > 1]
    more = sum(map(len, alike)) - len(alike)
    lines = [f"duplicates: {more:,}, images that are there already under another name; better remove them"]
    if across:
        pairs = [" = ".join(one_line(name) for _, name in found[:3]) for found in across]
        said = "image is" if len(across) == 1 else "images are"
        lines.append(f"    {len(across):,} {said} in several splits, so the test is no test of them: {listed(pairs)}")
    return lines


def advised(train: Images, channels: int, edges: float) -> tuple[list[str], list[str]]:
    """(Words for train.py, lines that say why): the likelihood and the number of latents.

    edges: the share of pixels that are black or white
    """
    step = max(1, len(train.y) // LOOKED_AT)
    x = train.x[torch.arange(0, len(train.y), step)][:LOOKED_AT, :channels].float() / 255
    lines, words = [f"values: from {255 * x.min():.0f} to {255 * x.max():.0f} of 255, {edges:.0%} black or white"], []
    if edges > 0.99 and channels == 1:
        words += ["likelihood=bernoulli", "data.binarization=static"]
        lines.append("likelihood: bernoulli, as nearly all pixels are black or white")
    else:
        lines.append("likelihood: discretized_logistic, 256 levels, as experiment=own_images has it")
    small = torch.nn.functional.interpolate(x, (SMALL, SMALL), mode="area") if max(x.shape[2:]) > SMALL else x
    wanted, most = components(small.flatten(1)), max(LATENTS[0], len(train.y) // 10)
    latents = next((n for n in LATENTS if n >= min(wanted, most)), LATENTS[-1])
    words.append(f"model.latent_dim={latents}")
    few = f", and there are {len(train.y):,} training images" if wanted > most else ""
    lines.append(f"latent_dim: {latents}; {wanted} principal components have {VARIANCE:.0%} of the variance{few}")
    return words, lines


def components(x: Tensor) -> int:
    """How many principal components of x (N, D) carry VARIANCE of it."""
    centred = (x - x.mean(0)).cpu().double()
    gram = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred
    variance = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
    if variance.sum() < 1e-12:  # all images are the same
        return 1
    share = variance.cumsum(0) / variance.sum()
    return min(int((share < VARIANCE).sum()) + 1, len(share))


def command(words: Sequence[str]) -> str:
    return f"python train.py {shlex.join(words)}"
