"""Decode image files to levels, in one way for all files, with facts about each."""

import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from cvae.checks import one_of, positive_int, positive_number
from cvae.errors import ConfigError

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")  # Pillow has more, and PostScript is a program
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name
FITS = ("crop", "pad", "stretch")
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Reading:
    """How each file is decoded. Equal readings give equal levels.

    A file is turned as its EXIF orientation says, made grey or RGB, and brought to the shape (bilinear, antialiased).
    Of an animation or a file of several pages, the first picture is read. 16 bits become 8.

    Args:
        shape: (C, H, W), C 1 (grey), 3 (RGB), or with transparent=alpha 2 (grey and alpha) or 4 (RGB and alpha)
        fit: what is done to an image of another aspect ratio: crop around its centre; pad with the colour that
            transparent pixels get; or stretch
        transparent: what transparent pixels become: a colour, as white, black or #ff8800; or alpha: a channel says it
        white: the value in the files that is white; None: the largest of 8 or 16 bits. Needed for 32-bit numbers
        pixel_limit: a larger file is refused, as it could be made to fill the memory; None: Pillow's, 89,478,485

    Raises:
        ConfigError: a value is not as above.
    """

    shape: tuple[int, int, int]
    fit: str = "crop"
    transparent: str = "white"
    white: float | None = None
    pixel_limit: int | None = None

    def __post_init__(self) -> None:
        one_of("fit", self.fit, FITS)
        if self.white is not None:
            positive_number("white", self.white)
        if self.pixel_limit is not None:
            positive_int("pixel_limit", self.pixel_limit)
        allowed = "alpha, white, black or a colour as #ff8800 (in quotes)"
        try:
            if self.transparent != "alpha":
                ImageColor.getrgb(self.transparent)
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigError("transparent", self.transparent, allowed) from error
        channels = (2, 4) if self.transparent == "alpha" else (1, 3)
        if self.shape[0] not in channels:
            kinds = "2 (grey, alpha) or 4 (RGB, alpha) with transparent=alpha" if channels[0] == 2 else "1 or 3"
            raise ConfigError("channels", self.shape[0], f"{kinds}; 2 and 4 need transparent=alpha")


class Decoded(NamedTuple):
    """N decoded files. An unreadable file has a fault, and zeros elsewhere."""

    x: np.ndarray  # uint8 (N, C, H, W)
    digests: np.ndarray  # uint64 (N,), of each file's bytes
    peaks: np.ndarray  # float32 (N,), the largest value in the file, as a share of the largest that it could have
    bits: np.ndarray  # uint8 (N,), of each value in the file
    faults: dict[int, str]  # number -> why it cannot be read


def decode(files: Sequence[str | Path], reading: Reading, threads: int | None = None) -> Decoded:
    """Decode the files in several threads (or in `threads`). It raises nothing: see `Decoded`."""
    count = len(files)
    x = np.zeros((count, *reading.shape), np.uint8)
    digests, peaks, bits = np.zeros(count, np.uint64), np.full(count, np.nan, np.float32), np.zeros(count, np.uint8)

    def read(number: int) -> str | None:
        try:
            x[number], digest, peaks[number], bits[number] = read_file(files[number], reading)
        except UnidentifiedImageError:
            return "not an image of a known format"
        except Exception as error:  # a damaged file can make a decoder raise almost anything
            return " ".join((str(error) or type(error).__name__).split())
        digests[number] = digest
        return None

    with limited(reading.pixel_limit):
        if threads == 1:
            reasons = list(map(read, range(count)))
        else:
            with ThreadPoolExecutor(threads) as pool:  # Pillow works without holding Python's lock
                reasons = list(pool.map(read, range(count)))
    faults = {number: why for number, why in enumerate(reasons) if why}
    open_peaks = np.isnan(peaks)  # all at once: one by one takes as long as to decode a small file
    peaks[open_peaks] = x[open_peaks].max((1, 2, 3), initial=0) / 255
    return Decoded(x, digests, peaks, bits, faults)


def reading_of(data: Any) -> Reading:
    """How a user's own files are read for a model that was trained on `data` (ImageData)."""
    alpha = data.image_shape[0] in (2, 4)
    return getattr(data.source, "reading", None) or Reading(data.image_shape, transparent="alpha" if alpha else "white")


@contextmanager
def limited(pixels: int | None) -> Iterator[None]:
    """Inside this context Pillow refuses files with more pixels; it would warn, and refuse only twice as many.

    The limit and the filter hold for all threads, so they are set once, outside them.
    """
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = pixels or before
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_file(path: str | Path, reading: Reading) -> tuple[np.ndarray, int, float, int]:
    """A file as levels uint8 (C, H, W), with its digest, peak and bits (see `Decoded`). Raises whatever Pillow does.

    A peak of NaN was not looked for: take that of the levels.
    """
    content = content_of(path)
    digest = int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        twice = 2 * max(reading.shape[1:])
        if min(image.size) >= 2 * twice:  # a JPEG decodes faster at a fraction of its size; twice ours keeps the detail
            image.draft(None, (twice, twice))
        levels, peak, bits = levels_of(image, reading)
    return levels, digest, peak, bits


def levels_of(image: Image.Image, reading: Reading) -> tuple[np.ndarray, float, int]:
    """An image as levels uint8 (C, H, W), with its peak, or NaN, and bits (see `Decoded`)."""
    channels, height, width = reading.shape
    upright = ImageOps.exif_transpose(image) if is_turned(image) else image  # it would make a copy
    deep = upright.mode.startswith("I;16") or (upright.mode == "I" and image.format in ("PNG", "PPM"))
    shown, peak = in_levels(upright, deep, reading.white)
    if reading.transparent != "alpha":
        shown = opaque(shown, reading.transparent)
    mode = MODES[channels]
    fitted = fit(shown if shown.mode == mode else shown.convert(mode), (width, height), reading)
    levels = np.frombuffer(fitted.tobytes(), np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    return levels, np.nan if peak is None else peak, 16 if deep else 8


def is_turned(image: Image.Image) -> bool:
    """Whether its metadata say that it is shown turned or mirrored."""
    if image.format in ("JPEG", "PNG"):  # most have no metadata, which is seen sooner than Pillow looks into them
        image.load()  # in a PNG they may lie behind the pixels
        if not any("exif" in key or "xmp" in key for key in (str(name).lower() for name in image.info)):
            return False
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def opaque(image: Image.Image, colour: str) -> Image.Image:
    """The image in front of a colour, if some of it can be transparent."""
    if not image.has_transparency_data:
        return image
    behind = Image.new("RGBA", image.size, colour)
    behind.alpha_composite(image.convert("RGBA"))
    return behind


def content_of(path: str | Path) -> bytes:
    """The bytes of a regular file. Raises ValueError for others: reading a named pipe might never end."""
    try:
        descriptor = os.open(path, READ)
        try:  # a file object takes as long as all of this
            about = os.fstat(descriptor)
            if stat.S_ISREG(about.st_mode):
                content = os.read(descriptor, about.st_size + 1)
                while len(content) != about.st_size and (more := os.read(descriptor, 2**24)):
                    content += more
                return content
        finally:
            os.close(descriptor)
    except OSError:
        if os.path.isfile(path):
            raise
    raise ValueError("not a file, or a link to none")


def in_levels(image: Image.Image, deep: bool, white: float | None) -> tuple[Image.Image, float | None]:
    """An image whose values go from 0 to 255, and its largest value as a share of the range; None: not looked at.

    deep: whether it has 16 bits, which Pillow's own conversion cuts off at 255 instead of scaling
    """
    if not deep and image.mode not in ("I", "F") and (white is None or image.mode == "1"):
        return image, None
    if not deep and image.mode not in ("I", "F", "L", "RGB"):  # their numbers are places in a palette, or opacity
        raise ValueError(f"data.white is for files of grey or RGB values, the mode of this one is {image.mode}")
    values = np.asarray(image)
    if white is None and not deep:
        raise ValueError("its pixels are 32-bit numbers of an unknown range: data.white=VALUE says which one is white")
    low, high, most = values.min(), values.max(), white or 65535
    if not (low >= 0 and high <= most):  # NaN too
        raise ValueError(f"its values go from {low:g} to {high:g}, they must be from 0 to {most:g} (data.white)")
    scaled = values / 257 if white is None else values * (255 / white)
    return Image.fromarray(scaled.round().astype(np.uint8)), float(high / most)


def fit(image: Image.Image, size: tuple[int, int], reading: Reading) -> Image.Image:
    """The image in this size (width, height). Antialiased, like all of Pillow's filters."""
    if image.size == size:
        return image
    if reading.fit == "stretch":
        return image.resize(size, Image.Resampling.BILINEAR)
    if reading.fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    colour = ImageColor.getrgb("white" if reading.transparent == "alpha" else reading.transparent)[:3]
    around = Image.new("RGBA", (1, 1), (*colour, 0 if reading.transparent == "alpha" else 255)).convert(image.mode)
    pixel: Any = around.getpixel((0, 0))  # of a float for images of floats, which `pad` takes as well
    return ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=pixel)


def advised(decoded: Decoded, white: float | None = None) -> str | None:
    """Advice for files whose values all stay far below `white`; None if they do not.

    white: that of the `Reading`
    """
    fine = np.ones(len(decoded.peaks), bool)
    fine[list(decoded.faults)] = False
    if not fine.any() or (peak := float(decoded.peaks[fine].max())) >= 0.25:
        return None
    if not peak:
        return f"all {fine.sum():,} images are black: no value in them is above 0"
    said = f"all {fine.sum():,} images are almost black: the largest value in them is"
    if white is not None:
        return f"{said} {peak * white:g}, and data.white={white:g} says that this is white"
    deep = int(decoded.bits[fine].max())
    largest = round(peak * (2**deep - 1))
    bits = largest.bit_length()
    return (
        f"{said} {largest:,}, that of {deep} bits is {2**deep - 1:,}. If another value is white, say it: "
        f"data.white={largest if bits < 8 else 2**bits - 1}"
    )
