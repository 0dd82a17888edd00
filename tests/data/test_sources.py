"""Sources of images, on files made here in the real formats."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image, features
from torchvision import datasets

from cvae.data.cifar10 import CIFAR10
from cvae.data.folder import EXTENSIONS, ImageFolder, read_image
from cvae.data.idx_files import IdxFiles
from cvae.data.synthetic import Synthetic
from cvae.errors import ConfigError, DataError

IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
NOWHERE = "http://127.0.0.1:9/"  # nothing listens there


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror(tmp_path):
    """(a folder, the address where its files can be fetched)."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def md5(content):
    return hashlib.md5(content).hexdigest()


def below(folder):
    """Every file and folder below, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def idx(array):
    """LeCun's format: 0, 0, 8 (unsigned bytes), rank, big-endian sizes, values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_archives(monkeypatch):
    """{file: bytes} of a small Fashion-MNIST whose sums torchvision knows, and the arrays in them."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(256, size=shape, dtype=np.uint8) for shape in ((6, 28, 28), 6, (3, 28, 28), 3)]
    archives = {name: gzip.compress(idx(array), mtime=0) for name, array in zip(IDX, arrays, strict=True)}
    monkeypatch.setattr(
        datasets.FashionMNIST, "resources", [(name, md5(content)) for name, content in archives.items()]
    )
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [NOWHERE])
    return archives, arrays


def assert_is(images, x, y):
    assert images.x.dtype == torch.uint8 and images.y.dtype == torch.int64
    np.testing.assert_array_equal(images.x, x)
    np.testing.assert_array_equal(images.y, y)


def test_idx_files(tmp_path, idx_archives):
    archives, (train_x, train_y, test_x, test_y) = idx_archives
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    source = IdxFiles(tmp_path, "FashionMNIST")
    source.download()
    train, test = source.load()
    assert_is(train, train_x[:, None], train_y)
    assert_is(test, test_x[:, None], test_y)
    theirs = datasets.FashionMNIST  # torchvision unpacks the same archives to the same images
    for archive in archives:
        (folder / archive.removesuffix(".gz")).write_bytes(gzip.decompress(archives[archive]))
    assert torch.equal(theirs(tmp_path, train=True).data, train.x[:, 0])
    assert torch.equal(theirs(tmp_path, train=False).targets, test.y)


@pytest.mark.parametrize("harm", [lambda c: c[:-20], lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:], lambda c: b""])
def test_damaged_idx_file_is_named(tmp_path, idx_archives, harm):
    archives, _ = idx_archives
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in archives.items():
        (folder / name).write_bytes(harm(content) if name == IDX[2] else content)
    source = IdxFiles(tmp_path, "FashionMNIST")
    source.download()
    with pytest.raises(DataError, match=IDX[2]):
        source.load()


def test_idx_files_are_fetched_from_the_mirror_that_has_them(tmp_path, idx_archives, mirror, monkeypatch):
    archives, (train_x, *_) = idx_archives
    folder, address = mirror
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [NOWHERE, address])
    source = IdxFiles(tmp_path / "data", "FashionMNIST")
    source.download()
    assert below(source.folder) == sorted(IDX)
    assert_is(source.load()[0], train_x[:, None], source.load()[0].y)
    (folder / IDX[0]).unlink()  # what is there is not fetched again
    source.download()


def test_altered_download_leaves_nothing(tmp_path, idx_archives, mirror, monkeypatch):
    archives, _ = idx_archives
    folder, address = mirror
    for name, content in archives.items():
        (folder / name).write_bytes(content + b"!")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    source = IdxFiles(tmp_path / "data", "FashionMNIST")
    with pytest.raises(DataError):
        source.download()
    assert below(source.folder) == []


def test_where_nothing_can_be_fetched_the_error_says_what_to_do(tmp_path, idx_archives):
    with pytest.raises(DataError) as error:
        IdxFiles(tmp_path, "FashionMNIST").download()
    expected = (NOWHERE, str(tmp_path / "FashionMNIST" / "raw"), *IDX, "data.root", "CVAE_DATA", "Connection refused")
    assert [text for text in expected if text not in str(error.value)] == []


def python2_pickle(name, data, labels):
    """A CIFAR batch byte for byte as Python 2 and its NumPy wrote them: {"batch_label", "labels", "data", "filenames"}."""

    def text(value):  # SHORT_BINSTRING
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        + b"(K\x01" + b"".join(b"M" + struct.pack("<H", n) for n in data.shape) + b"\x86"
        + b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
        + b"\x89T" + struct.pack("<I", data.nbytes) + data.tobytes() + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"image_%d.png" % i) for i in range(len(labels))) + b"e"
    items = (
        text(b"batch_label")
        + text(name)
        + text(b"labels")
        + numbers
        + text(b"data")
        + array
        + text(b"filenames")
        + names
    )
    return b"\x80\x02}(" + items + b"u."


@pytest.fixture
def cifar(monkeypatch):
    """{file: bytes} and {file: (images (4, 3, 32, 32), labels)} of a small CIFAR-10, with its archive; torchvision knows the sums."""
    rng = np.random.default_rng(1)
    files, arrays = {}, {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        x, y = rng.integers(256, size=(4, 3, 32, 32), dtype=np.uint8), rng.integers(10, size=4).tolist()
        files[name], arrays[name] = python2_pickle(name.encode(), x.reshape(4, 3072), y), (x, y)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    known = datasets.CIFAR10
    monkeypatch.setattr(
        known, "train_list", [[name, md5(content)] for name, content in files.items() if name != "test_batch"]
    )
    monkeypatch.setattr(known, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(known, "tgz_md5", md5(packed.getvalue()))
    monkeypatch.setattr(known, "url", NOWHERE + known.filename)
    return files, arrays, packed.getvalue()


def assert_is_cifar(source, arrays):
    train, test = source.load()
    x, y = zip(*(arrays[f"data_batch_{i}"] for i in range(1, 6)), strict=True)
    assert_is(train, np.concatenate(x), np.concatenate(y))
    assert_is(test, *arrays["test_batch"])


def test_cifar_batches(tmp_path, cifar):
    files, arrays, _ = cifar
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    source = CIFAR10(tmp_path)
    source.download()
    assert_is_cifar(source, arrays)
    (folder / "data_batch_3").write_bytes(files["data_batch_2"])
    with pytest.raises(DataError, match="data_batch_3"):
        source.load()


def test_cifar_pickle_of_unknown_hash_is_not_opened(tmp_path, cifar):
    files, _, _ = cifar
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return opened.touch, ()

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        CIFAR10(tmp_path).load()
    assert not opened.exists()


def test_cifar_archive_in_the_folder_is_unpacked(tmp_path, cifar):
    files, arrays, packed = cifar
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed)
    source = CIFAR10(tmp_path)
    source.download()
    assert_is_cifar(source, arrays)
    assert below(tmp_path) == sorted(
        ["cifar-10-batches-py", datasets.CIFAR10.filename, *(f"cifar-10-batches-py/{n}" for n in files)]
    )


def test_cifar_archive_is_fetched(tmp_path, cifar, mirror, monkeypatch):
    _, arrays, packed = cifar
    folder, address = mirror
    (folder / datasets.CIFAR10.filename).write_bytes(packed)
    monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
    source = CIFAR10(tmp_path / "data")
    source.download()
    assert_is_cifar(source, arrays)


def test_damaged_cifar_archive_is_named_and_nothing_unpacked(tmp_path, cifar):
    _, _, packed = cifar
    (tmp_path / datasets.CIFAR10.filename).write_bytes(packed[:-50])
    with pytest.raises(DataError, match=f"{datasets.CIFAR10.filename} is damaged"):
        CIFAR10(tmp_path).download()
    assert below(tmp_path) == [datasets.CIFAR10.filename]


def test_where_cifar_cannot_be_fetched_the_error_says_what_to_do(tmp_path, cifar):
    files, _, _ = cifar
    with pytest.raises(DataError) as error:
        CIFAR10(tmp_path).download()
    expected = (datasets.CIFAR10.url, datasets.CIFAR10.filename, str(tmp_path), *files, "data.root", "CVAE_DATA")
    assert [text for text in expected if text not in str(error.value)] == []


# --- a user's own images

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def noise(*shape):
    return np.random.default_rng(2).integers(256, size=shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def colour(red, green, blue, height=8, width=8):
    return np.broadcast_to(np.array([red, green, blue], np.uint8), (height, width, 3)).copy()


def folder_of(root, shape=GREY, test_size=0.1, seed=0):
    return ImageFolder(root, shape, test_size, seed)


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
    save(tmp_path / "a" / "fine.png", noise(8, 8))
    with pytest.raises(DataError, match="float.tif: .*32-bit"):
        folder_of(tmp_path).load()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 8, 16), (1, 16, 8)])
def test_larger_images_are_cropped_around_the_centre(tmp_path, shape):
    """A white square in the middle of a wide and of a tall black picture stays in the middle, and as square as it was."""
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


def test_train_and_test_folders(tmp_path):
    """The class is the folder's number in alphabetical order, over both parts."""
    levels = {
        "train/cat/a.png": 1,
        "train/cat/deeper/b.PNG": 2,
        "train/ant/c.png": 3,
        "test/cat/d.png": 4,
        "test/bee/e.png": 5,
    }
    for name, level in levels.items():
        save(tmp_path / name, np.full((8, 8), level, np.uint8))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image, and not called one")
    (tmp_path / "train" / "cat" / "._a.png").write_bytes(b"what some systems put beside a file")
    (tmp_path / ".thumbnails").mkdir()
    train, test = folder_of(tmp_path).load()
    assert (train.x.shape, test.x.shape) == ((3, 1, 8, 8), (2, 1, 8, 8))
    assert dict(zip(train.x[:, 0, 0, 0].tolist(), train.y.tolist(), strict=True)) == {3: 0, 1: 2, 2: 2}  # ant, bee, cat
    assert dict(zip(test.x[:, 0, 0, 0].tolist(), test.y.tolist(), strict=True)) == {5: 1, 4: 2}


def many(root, count=20):
    """`count` images in two folders, their level their number."""
    for level in range(count):
        save(root / "ab"[level % 2] / f"{level:02}.png", np.full((8, 8), level, np.uint8))


@pytest.mark.parametrize("test_size, expected", [(0.25, 5), (7, 7), (0.001, 1)])
def test_part_of_one_set_is_kept_for_testing(tmp_path, test_size, expected):
    many(tmp_path)
    train, test = folder_of(tmp_path, test_size=test_size).load()
    assert len(test.x) == expected
    levels = torch.cat([train.x, test.x])[:, 0, 0, 0]
    assert sorted(levels.tolist()) == list(range(20))  # each image once
    assert torch.equal(torch.cat([train.y, test.y]), levels.long() % 2)


def test_the_part_is_drawn_by_seed(tmp_path):
    many(tmp_path)

    def chosen(seed):
        return folder_of(tmp_path, test_size=0.25, seed=seed).load()[1].x[:, 0, 0, 0].tolist()

    assert chosen(0) == chosen(0) != chosen(1)
    assert chosen(0) != list(range(5))


def test_images_in_no_folder_have_label_0(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(8, 8))
    train, test = folder_of(tmp_path).load()
    assert train.y.tolist() == [0, 0, 0] and test.y.tolist() == [0]


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


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="no-such: there is no such folder"):
        folder_of(tmp_path / "no-such").download()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.txt").write_text("")
    with pytest.raises(DataError, match=r"There are no images in .*\.jpg, .*\.webp"):
        folder_of(tmp_path).download()
    save(tmp_path / "a" / "only.png", noise(8, 8))
    with pytest.raises(ConfigError, match="data.test_size=0.1: must be below the 1 images"):
        folder_of(tmp_path).download()


@pytest.mark.parametrize("present, missing", [("train", "test"), ("test", "train")])
def test_one_of_train_and_test_alone_is_not_guessed_at(tmp_path, present, missing):
    save(tmp_path / present / "a" / "1.png", noise(8, 8))
    with pytest.raises(DataError, match=f"a folder {present} but none called {missing}"):
        folder_of(tmp_path).download()


@pytest.mark.parametrize("present, empty", [("train", "test"), ("test", "train")])
def test_empty_part_is_named(tmp_path, present, empty):
    save(tmp_path / present / "a" / "1.png", noise(8, 8))
    (tmp_path / empty).mkdir()
    with pytest.raises(DataError, match=f"There are no images in .*{empty}:"):
        folder_of(tmp_path).download()


# --- the tests' own set


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 5, 9)])
def test_synthetic(shape):
    train, test = Synthetic(None, shape, 5, 40, 11).load()
    assert (train.x.shape, test.x.shape) == ((40, *shape), (11, *shape))
    assert train.x.dtype == torch.uint8 and train.y.dtype == torch.int64
    assert train.y.bincount().tolist() == [8] * 5
    again = Synthetic("anywhere", shape, 5, 40, 11).load()
    assert torch.equal(train.x, again[0].x) and torch.equal(test.x, again[1].x)
    assert not torch.equal(train.x[:11], test.x)


def test_synthetic_class_decides_the_place():
    """The nearest class mean of the training images names every test image's class."""
    train, test = (
        images._replace(x=images.x.double().flatten(1)) for images in Synthetic(None, (1, 28, 28), 6, 240, 60).load()
    )
    means = torch.stack([train.x[train.y == label].mean(0) for label in range(6)])
    assert torch.equal(torch.cdist(test.x, means).argmin(1), test.y)
