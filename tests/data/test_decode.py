"""From a file to levels: each option by value, and what is remembered of a file."""

import logging
import os
import struct
import warnings
import zlib
from hashlib import blake2b
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cvae.data.decode import Reading, advised, content_of, decode, read_file, reading_of
from cvae.data.folder import ImageFolder
from cvae.errors import ConfigError


def saved(path, values, **how):
    Image.fromarray(values).save(path, **how)
    return path


def read(path, shape=(3, 4, 4), **how):
    return read_file(path, Reading(shape, **how))[0]


@pytest.mark.parametrize(
    ("how", "channels", "expected"),
    [
        ("white", 3, [255, 255, 255]), ("black", 3, [0, 0, 0]), ("#ff8800", 3, [255, 136, 0]), ("black", 1, [0]),
        ("alpha", 4, [9, 8, 7, 0]),
    ],
)  # fmt: skip
def test_what_transparent_pixels_become(tmp_path, how, channels, expected):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., :3], pixels[:, 2:, 3] = (9, 8, 7), 255
    x = read(saved(tmp_path / "a.png", pixels), (channels, 4, 4), transparent=how)
    assert x[:, 0, 0].tolist() == expected
    assert x[:, 0, 3].tolist() == {3: [9, 8, 7], 1: [8], 4: [9, 8, 7, 255]}[channels]


def test_grey_with_alpha(tmp_path):
    pixels = np.zeros((4, 4, 2), np.uint8)
    pixels[..., 0], pixels[:, 2:, 1] = 77, 200
    Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
    x = read(tmp_path / "a.png", (2, 4, 4), transparent="alpha")
    assert x[:, 0, 0].tolist() == [77, 0] and x[:, 0, 3].tolist() == [77, 200]
    assert read(saved(tmp_path / "b.png", pixels[..., 0]), (2, 4, 4), transparent="alpha")[1].min() == 255  # opaque


def test_images_of_another_aspect_ratio(tmp_path):
    """Twice as wide as high: black, with a white right half."""
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 8:] = 255
    path = saved(tmp_path / "a.png", pixels)
    crop, stretch, pad = (read(path, (1, 8, 8), fit=how)[0] for how in ("crop", "stretch", "pad"))
    assert (crop[:, 0] == 0).all() and (crop[:, 7] == 255).all() and (crop == crop[:1]).all()
    assert (
        (stretch[:, 0] == 0).all()
        and (stretch[:, 7] == 255).all()
        and np.array_equal(stretch, stretch[:1].repeat(8, 0))
    )
    assert (pad[[0, 1, 6, 7]] == 255).all() and (pad[2:6, 0] == 0).all()  # white bands above and below
    assert (read(path, (1, 8, 8), fit="pad", transparent="black")[0][[0, 7]] == 0).all()
    alpha = read(path, (2, 8, 8), fit="pad", transparent="alpha")
    assert (alpha[1, [0, 1, 6, 7]] == 0).all() and (alpha[1, 2:6] == 255).all()
    assert (alpha[0, [0, 1, 6, 7]] == 255).all()
    orange = read(path, (3, 8, 8), fit="pad", transparent="#ff8800")
    assert orange[:, 0, 0].tolist() == [255, 136, 0] and orange[:, 4, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype, white", [(np.uint16, 4095), (np.uint8, 2), (np.int32, 1000), (np.float32, 0.5)])
def test_the_value_that_is_white(tmp_path, dtype, white):
    values = (np.linspace(0, 1, 16).reshape(4, 4) * white).astype(dtype)
    path = saved(tmp_path / "a.tif", values)
    x = read(path, (1, 4, 4), white=white)
    np.testing.assert_array_equal(x[0], (values * (255 / white)).round())
    assert x.max() == 255
    with pytest.raises(ValueError, match=r"its values go from 0 to \S+, they must be from 0 to \S+ \(data.white\)"):
        read(path, (1, 4, 4), white=white / 2)


def test_the_value_that_is_white_in_colour(tmp_path):
    colours = np.array([[[0, 1, 2], [2, 2, 0]]], np.uint8)
    x = read(saved(tmp_path / "a.png", colours), (3, 1, 2), white=2)
    assert x.transpose(1, 2, 0).tolist() == [[[0, 128, 255], [255, 255, 0]]]
    black = Image.fromarray(np.array([[False, True]]))
    black.save(tmp_path / "b.png")
    assert read(tmp_path / "b.png", (1, 1, 2), white=2).tolist() == [[[0, 255]]]


@pytest.mark.parametrize(
    ("mode", "how"), [("RGBA", {}), ("LA", {}), ("P", {"transparent": "black"}), ("RGBA", {"transparent": "alpha"})]
)
def test_a_value_that_is_white_is_not_ignored_silently(tmp_path, mode, how):
    """Where the numbers of a file are not all levels of grey or of colours."""
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    found = decode([tmp_path / "a.png"], Reading((4 if how.get("transparent") == "alpha" else 3, 4, 4), white=2, **how))
    assert found.faults == {0: f"data.white is for files of grey or RGB values, the mode of this one is {mode}"}


def test_what_is_no_number_is_refused(tmp_path):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 2] = np.nan
    faults = decode([saved(tmp_path / "a.tif", values)], Reading((1, 4, 4), white=1)).faults
    assert faults == {0: "its values go from nan to nan, they must be from 0 to 1 (data.white)"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 4), 4000, np.uint16), "the largest value in them is 4,000, that of 16 bits is 65,535. If another "
         "value is white, say it: data.white=4095"),
        (np.arange(16, dtype=np.uint8).reshape(4, 4) % 3, "value in them is 2, that of 8 bits is 255. If another "
         "value is white, say it: data.white=2"),
        (np.full((4, 4), 63, np.uint8), "value in them is 63, that of 8 bits is 255. If another value is white, "
         "say it: data.white=63"),
        (np.full((4, 4), 64, np.uint8), None),
        (np.full((4, 4), 40_000, np.uint16), None),
    ],
)  # fmt: skip
def test_images_that_stay_far_below_the_range(tmp_path, values, said):
    files = [saved(tmp_path / "a.png", values), saved(tmp_path / "b.png", 0 * values), tmp_path / "missing.png"]
    advice = advised(decode(files, Reading((1, 4, 4))))
    assert advice is None if said is None else advice.startswith("all 2 images are almost black") and said in advice


def test_of_black_images_no_value_is_advised(tmp_path):
    """Nor where none can be read."""
    black = saved(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    found = advised(decode([black, tmp_path / "missing.png"], Reading((1, 4, 4))))
    assert found == "all 1 images are black: no value in them is above 0"
    assert advised(decode([tmp_path / "missing.png"], Reading((1, 4, 4)))) is None


@pytest.mark.parametrize(("dtype", "white", "value"), [(np.uint16, 60000, 12345), (np.uint8, 200, 40)])
def test_far_below_what_is_said_to_be_white(tmp_path, caplog, dtype, white, value):
    for number in range(4):
        saved(tmp_path / f"{number}.png", np.full((4, 4), value, dtype))
    ImageFolder(Reading((1, 4, 4), white=white), str(tmp_path), 0.5, 0).load()
    said = f"all 4 images are almost black: the largest value in them is {value}, and data.white={white} says that this"
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == [f"{said} is white"]


RIGHT = Image.Exif()
RIGHT[0x0112] = 6  # to be turned by 90 degrees clockwise
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def put(before, kind, data):
    """A chunk in a PNG, before the first one of another type."""

    def change(content):
        place = content.index(before) - 4
        chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        return content[:place] + chunk + content[place:]

    return change


EXIF = RIGHT.tobytes().removeprefix(b"Exif\0\0")
OLD = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(EXIF) + 6, (b"Exif\0\0" + EXIF).hex().encode())


@pytest.mark.parametrize(
    ("ending", "how", "change"),
    [
        ("jpg", {"exif": RIGHT}, bytes), ("jpg", {"xmp": XMP}, bytes), ("tif", {"tiffinfo": {0x0112: 6}}, bytes),
        ("webp", {"exif": RIGHT, "lossless": True}, bytes), ("png", {"exif": RIGHT}, bytes),
        ("png", {}, put(b"IDAT", b"eXIf", EXIF)), ("png", {}, put(b"IEND", b"eXIf", EXIF)),
        ("png", {}, put(b"IDAT", b"tEXt", OLD)), ("png", {}, put(b"IEND", b"tEXt", OLD)),
        ("png", {}, put(b"IDAT", b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    ],
)  # fmt: skip
def test_files_are_turned_as_their_metadata_say(tmp_path, ending, how, change):
    """Bright on the left in the file, so bright above as it is shown."""
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, :8] = 255
    path = saved(tmp_path / f"a.{ending}", pixels, **how)
    path.write_bytes(change(path.read_bytes()))
    x = read(path, (1, 16, 16))[0]
    assert x[:8].min() > 200 and x[8:].max() < 50
    x = read(saved(tmp_path / f"b.{ending}", pixels), (1, 16, 16))[0]  # nothing says so
    assert x[:, :8].min() > 200 and x[:, 8:].max() < 50


def test_a_file_that_is_read_in_parts_is_whole(tmp_path, monkeypatch):
    """As from a network's disk, or of more than 2 GiB."""
    content = np.random.default_rng(0).bytes(100)
    (tmp_path / "a").write_bytes(content)
    parts = os.read
    monkeypatch.setattr(os, "read", lambda file, count: parts(file, min(count, 7)))
    assert content_of(tmp_path / "a") == content


def test_of_thousands_of_files_none_stays_open(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"content")
    begin, end, opened, closed = os.open, os.close, [], []
    monkeypatch.setattr(os, "open", lambda *given: opened.append(begin(*given)) or opened[-1])
    monkeypatch.setattr(os, "close", lambda descriptor: closed.append(descriptor) or end(descriptor))
    assert content_of(tmp_path / "a") == b"content" and len(opened) == 1
    with pytest.raises(ValueError, match="not a file"):
        content_of(tmp_path)
    assert len(opened) == 2 and closed == opened


def test_one_file_is_remembered_by_its_bytes(tmp_path):
    """BMP files of one size differ by their content alone; a copy is the same."""
    one = saved(tmp_path / "1.bmp", np.zeros((4, 4), np.uint8))
    two = saved(tmp_path / "2.bmp", np.ones((4, 4), np.uint8))
    (tmp_path / "3.bmp").write_bytes(one.read_bytes())
    assert one.stat().st_size == two.stat().st_size
    decoded = decode([one, two, tmp_path / "3.bmp", tmp_path / "no.bmp"], Reading((1, 4, 4)))
    first, second, third, none = decoded.digests.tolist()
    assert f"{first:016x}" == blake2b(one.read_bytes(), digest_size=8).hexdigest()  # which runs and caches keep
    assert first == third != second and none == 0
    assert decoded.faults == {3: "not a file, or a link to none"} and decoded.x[3].max() == 0


def test_the_limit_of_pixels_is_a_key(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert "exceeds limit of 40 pixels" in decode([path], Reading((1, 4, 4))).faults[0]
    assert not decode([path], Reading((1, 4, 4), pixel_limit=64)).faults
    assert "exceeds limit" in decode([path], Reading((1, 4, 4), pixel_limit=63)).faults[0]
    assert Image.MAX_IMAGE_PIXELS == 40


@pytest.mark.parametrize(
    ("shape", "options", "key"),
    [
        ((1, 4, 4), {"fit": "fill"}, "fit"), ((1, 4, 4), {"transparent": "whitish"}, "transparent"),
        ((1, 4, 4), {"transparent": None}, "transparent"), ((1, 4, 4), {"white": 0}, "white"),
        ((1, 4, 4), {"white": "4095"}, "white"), ((1, 4, 4), {"pixel_limit": 0}, "pixel_limit"),
        ((4, 4, 4), {}, "channels"), ((3, 4, 4), {"transparent": "alpha"}, "channels"), ((5, 4, 4), {}, "channels"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(shape, options, key):
    with pytest.raises(ConfigError) as error:
        Reading(shape, **options)
    assert error.value.key == key


@pytest.mark.parametrize("white", [None, 60000])
def test_files_of_16_bits_alone(tmp_path, white):
    """Of none of them the levels say the largest value."""
    for number, value in enumerate((0, 30000)):
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / f"{number}.png")
    found = decode([tmp_path / "0.png", tmp_path / "1.png"], Reading((1, 4, 4), white=white))
    np.testing.assert_allclose(found.peaks, [0, 30000 / (white or 65535)], rtol=1e-6)
    assert not found.faults and found.bits.tolist() == [16, 16] and found.x[1, 0, 0, 0] == (128 if white else 117)


def test_peaks_are_of_all_channels_and_the_same_in_one_thread(tmp_path):
    files = []
    for number, colour in enumerate([(10, 51, 20), (0, 0, 255), (102, 0, 1)]):
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[1, 2] = colour
        files.append(saved(tmp_path / f"{number}.png", pixels))
    files.insert(1, tmp_path / "missing.png")
    several, one = decode(files, Reading((3, 4, 4))), decode(files, Reading((3, 4, 4)), threads=1)
    np.testing.assert_allclose(several.peaks, [0.2, 0, 1, 0.4], rtol=1e-6)
    assert several.bits.tolist() == [8, 0, 8, 8] and several.x[2, :, 1, 2].tolist() == [0, 0, 255]
    for name in ("x", "digests", "peaks", "bits"):
        np.testing.assert_array_equal(getattr(several, name), getattr(one, name))
    assert several.faults == one.faults == {1: "not a file, or a link to none"}


@pytest.mark.parametrize(
    ("error", "said"), [(MemoryError(), "MemoryError"), (SyntaxError("a\n  b"), "a b"), (KeyError(3), "3")]
)
def test_any_error_of_a_decoder_is_a_line(tmp_path, monkeypatch, error, said):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fails)
    assert decode([saved(tmp_path / "a.png", np.zeros((4, 4), np.uint8))], Reading((1, 4, 4))).faults == {0: said}


def test_a_palette_with_degrees_of_transparency(tmp_path):
    """Pillow would warn if they went lost."""
    image = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2) % 2, "P")
    image.putpalette([10, 10, 10, 40, 40, 40])
    image.save(tmp_path / "a.png", transparency=bytes([0, 100]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode([tmp_path / "a.png"], Reading((2, 2, 2), transparent="alpha"))
        white = decode([tmp_path / "a.png"], Reading((3, 2, 2)))
    assert not found.faults and found.x[0, :, 0].tolist() == [[10, 40], [0, 100]]
    mixed = round(255 + (40 - 255) * 100 / 255)
    assert not white.faults and white.x[0, :, 0].tolist() == [[255, mixed]] * 3


@pytest.mark.parametrize(
    ("shape", "transparent"), [((1, 8, 8), "white"), ((2, 8, 8), "alpha"), ((3, 8, 8), "white"), ((4, 8, 8), "alpha")]
)
def test_how_files_are_read_for_data_that_are_no_files(shape, transparent):
    data = SimpleNamespace(image_shape=shape, source=SimpleNamespace())
    assert reading_of(data) == Reading(shape, transparent=transparent)
    own = Reading((1, 4, 4), fit="pad")
    assert reading_of(SimpleNamespace(image_shape=shape, source=SimpleNamespace(reading=own))) is own
