"""A user's own images: the pixels of each file, and what is said of one that has none."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features
from user_images import COLOUR, GREY, colour, folder_data, folder_of, many, noise, read_image, save

from cvae.data import decode
from cvae.data.listing import EXTENSIONS
from cvae.errors import DataError


@pytest.mark.parametrize("ending", [".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp"])
def test_lossless_formats_pixel_by_pixel(tmp_path, ending):
    pixels = noise(8, 8, 3)
    path = save(tmp_path / f"a{ending}", pixels, **({"lossless": True} if ending == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path, COLOUR), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("ending", [ending for ending in EXTENSIONS if ending != ".avif" or features.check("avif")])
def test_every_ending_is_read(tmp_path, ending):
    grey = ending == ".pgm"
    path = save(tmp_path / f"a{ending}", colour(200, 200, 200)[..., 0] if grey else colour(200, 100, 50))
    x = read_image(path, COLOUR).astype(int).mean((1, 2))
    assert np.abs(x - ([200] * 3 if grey else [200, 100, 50])).max() < 6  # JPEG, AVIF and GIF's palette lose a little


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    grey = noise(8, 8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "g.png", grey), COLOUR), np.stack([grey] * 3))
    luma = read_image(save(tmp_path / "c.png", colour(200, 100, 50)), GREY)
    assert luma.shape == GREY and np.all(np.abs(luma - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) <= 1)


def test_palette(tmp_path):
    pixels = np.where(noise(8, 8, 1) > 127, [250, 10, 20], [0, 200, 90]).astype(np.uint8)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save(path)
    with Image.open(path) as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(read_image(path, COLOUR), pixels.transpose(2, 0, 1))


def test_transparent_becomes_white(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200  # red, hidden on the left half, solid on the right
    pixels[:, 4:, 3] = 255
    x = read_image(save(tmp_path / "rgba.png", pixels), COLOUR)
    assert np.all(x[:, :, :4] == 255) and np.all(x[:, :, 4:] == np.array([200, 0, 0])[:, None, None])
    image = Image.fromarray((np.arange(64).reshape(8, 8) % 2).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=1)
    x = read_image(tmp_path / "p.png", COLOUR)
    assert np.all(x[:, :, 1::2] == 255) and np.all(x[:, :, 0::2] == np.array([10, 20, 30])[:, None, None])


@pytest.mark.parametrize("ending", [".png", ".pgm", ".tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, ending):
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    path = tmp_path / f"a{ending}"
    if ending == ".pgm":
        path.write_bytes(b"P5 8 8 65535\n" + levels.astype(">u2").tobytes())
    else:
        save(path, levels)
    np.testing.assert_array_equal(read_image(path, GREY)[0], (levels / 257).round())


def test_pixels_of_unknown_range_are_refused(tmp_path):
    save(tmp_path / "a" / "float.tif", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    save(tmp_path / "a" / "integer.tif", np.arange(64, dtype=np.int32).reshape(8, 8))
    save(tmp_path / "a" / "fine.png", noise(8, 8))
    why = "its pixels are 32-bit numbers of an unknown range"
    with pytest.raises(DataError, match=rf"2 of 3 (.|\n)*float.tif: {why}.*\n.*integer.tif: {why}"):
        folder_of(tmp_path).load()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 8, 16), (1, 16, 8)])
def test_larger_images_are_cropped_around_the_centre(tmp_path, shape):
    """A white square in the middle of a wide and of a tall black picture stays in the middle, and a square."""
    _, height, width = shape
    for size in ((64, 192), (192, 64)):
        pixels = np.zeros(size, np.uint8)
        middle = tuple(slice(n // 2 - 16, n // 2 + 16) for n in size)
        pixels[middle] = 255
        x = read_image(save(tmp_path / "a.png", pixels), shape)[0].astype(float) / 255
        np.testing.assert_allclose(x, x[::-1, ::-1], atol=0.01)
        scale = max(height / size[0], width / size[1])
        rows, columns = x.max(1).sum(), x.max(0).sum()
        assert abs(rows - 32 * scale) < 1.5 and abs(columns - 32 * scale) < 1.5


def test_shrinking_is_antialiased(tmp_path):
    """Black and white stripes of one pixel become grey; picking pixels would give all black or all white."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    x = read_image(save(tmp_path / "a.png", stripes), GREY)
    assert np.all(np.abs(x.astype(int) - 128) < 12)


def test_small_images_are_enlarged(tmp_path):
    assert np.all(read_image(save(tmp_path / "a.png", noise(1, 1)), (1, 9, 5)) == noise(1, 1))


def test_jpeg_read_at_a_fraction_of_its_size_keeps_its_detail(tmp_path):
    """Against the whole file, shrunk afterwards: blocks of which each becomes 2x2 pixels."""
    blocks = np.kron(noise(8, 8), np.ones((16, 16), np.uint8))
    path = save(tmp_path / "a.jpg", blocks, quality=95)
    with Image.open(path) as image:
        whole = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    difference = np.abs(read_image(path, (1, 16, 16))[0] - whole)
    assert difference.mean() < 4 and whole.std() > 50


def test_jpeg_is_read_at_a_fraction_of_its_size(tmp_path, monkeypatch):
    """At least twice the longer side: 32 of 256 pixels for 16."""
    sizes = []

    def resized(image, size, *args, whole=ImageOps.fit):
        sizes.append(image.size)
        return whole(image, size, *args)

    monkeypatch.setattr(ImageOps, "fit", resized)
    read_image(save(tmp_path / "a.jpg", noise(256, 256)), (1, 8, 16))
    assert sizes == [(32, 32)]


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: bright on the right
    x = read_image(save(tmp_path / "a.jpg", pixels, exif=exif), GREY)[0]
    assert np.all(x[:, 5:] > 200) and np.all(x[:, :3] < 55)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(colour(grey, grey, grey)) for grey in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.all(np.abs(read_image(tmp_path / "a.gif", GREY).astype(int) - 40) < 3)


def test_what_is_no_file_is_named(tmp_path):
    """Opening a pipe that nobody writes into would not end; links may lead nowhere or to themselves."""
    many(tmp_path, 3)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / "self.png")
    (tmp_path / "a" / "folder.png").mkdir()  # which is a folder without images, whatever its name
    with pytest.raises(DataError) as error:
        folder_of(tmp_path).load()
    first, *lines = str(error.value).splitlines()
    assert first.startswith("3 of 6 images")
    names = ("nowhere", "pipe", "self")
    assert sorted(lines) == [f"  {tmp_path}/a/{name}.png: not a file, or a link to none" for name in names]


def test_programs_that_draw_are_not_run(tmp_path):
    """Pillow hands PostScript to another program, whatever the file's name."""
    many(tmp_path, 3)
    (tmp_path / "a" / "drawn.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    with Image.open(tmp_path / "a" / "drawn.png") as image:
        assert image.format == "EPS"
    with pytest.raises(DataError, match="drawn.png: not an image of a known format"):
        folder_of(tmp_path).load()


def test_files_that_are_no_images_are_named_so(tmp_path):
    many(tmp_path, 3)
    (tmp_path / "a" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        folder_of(tmp_path).load()
    _, line = str(error.value).splitlines()
    assert line == f"  {tmp_path / 'a' / 'bad.png'}: not an image of a known format"


def test_errors_without_a_message_are_named(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    many(tmp_path, 3)
    monkeypatch.setattr(decode, "fit", fail)
    with pytest.raises(DataError, match=r"00.png: MemoryError\n"):
        folder_of(tmp_path).load()


def test_all_unreadable_files_are_named_in_one_error(tmp_path):
    many(tmp_path)
    good = save(tmp_path / "a" / "whole.jpg", noise(64, 64, 3)).read_bytes()
    png = save(tmp_path / "a" / "whole.png", noise(64, 64, 3)).read_bytes()
    bad = {
        "a/truncated.jpg": good[: len(good) // 2], "a/text.png": b"hello", "b/empty.gif": b"",
        "b/truncated.png": png[: len(png) // 2], "b/header.bmp": b"BM" + b"\xff" * 60,
    }  # fmt: skip
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        folder_of(tmp_path).load()
    first, *lines = str(error.value).splitlines()
    assert first.startswith("5 of 27 images cannot be read")
    assert sorted(line.split(": ")[0].strip() for line in lines) == sorted(str(tmp_path / name) for name in bad)
    assert all(len(line.split(": ", 1)[1]) > 5 for line in lines)  # each with its reason


def test_of_many_unreadable_files_ten_are_named(tmp_path):
    for number in range(13):
        save(tmp_path / "a" / f"{number:02}.png", np.full((8, 8), 1000 if number else 200, np.uint16))
    data = folder_data(tmp_path, white=255)
    with pytest.raises(DataError) as error:
        data.setup()
    first, *lines, last = str(error.value).splitlines()
    assert first.startswith("12 of 13 images cannot be read. Repair or delete them")
    why = "its values go from 1000 to 1000, they must be from 0 to 255 (data.white)"
    assert len(set(lines)) == 10
    assert set(lines) < {f"  {tmp_path}/a/{number:02}.png: {why}" for number in range(1, 13)}
    assert last == "  … and 2 more"


@pytest.mark.parametrize("limit", [63, 32, 31])  # at twice the limit Pillow raises; above the limit it warns
def test_decompression_bombs_are_named(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    save(tmp_path / "a" / "small.png", noise(5, 6))
    save(tmp_path / "b" / "bomb.png", noise(8, 8))
    with pytest.raises(DataError) as error:
        folder_of(tmp_path, test_size=1).load()
    assert str(error.value).startswith(
        "1 of 2 images cannot be read. Repair or delete them, or leave them out with data.skip_unreadable=true:\n"
    )
    assert f"bomb.png: Image size (64 pixels) exceeds limit of {limit if limit > 31 else 62} pixels" in str(error.value)


def test_a_size_that_is_only_claimed(tmp_path):
    """A header of a few bytes asks for 3 GiB; at Pillow's own limit, before they are taken."""
    many(tmp_path, 3)
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "a" / "claim.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + b"\0" * 4)
    with pytest.raises(DataError, match="claim.png: Image size .900000000 pixels. exceeds limit"):
        folder_of(tmp_path).load()


def test_images_at_the_limit_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    many(tmp_path, 4)
    assert len(folder_of(tmp_path).load()[0].x) == 3
