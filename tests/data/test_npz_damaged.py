"""Files of arrays that are damaged or made to harm: nothing is run, and no more memory is taken than there is."""

import io
import re
import shutil
import warnings
import zipfile

import numpy as np
import pytest
from user_arrays import (
    grey,
    saved,  # noqa: F401, a fixture
    source,
)

from cvae.data.arrays import Header
from cvae.data.npz import Npz
from cvae.errors import DataError


class Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_nothing_is_unpickled(saved, monkeypatch):
    trap = np.array([Trap()] * 4, object)
    monkeypatch.setattr("cvae.data.npz.headers", lambda _: {"x": Header((4, 2, 2), np.dtype("uint8"), "", None)})
    monkeypatch.setattr("cvae.data.npz.check_arrays", lambda *_: (4, 2, 2))
    with pytest.raises(DataError, match="x cannot be read: Object arrays cannot be loaded"):
        source(saved(x=trap)).load()


def damaged(content, how):
    half = len(content) // 2
    if how == "flipped":
        return content[:half] + bytes([content[half] ^ 255]) + content[half + 1 :]
    return {"cut": content[:half], "empty": b"", "no archive": b"hello"}[how]


@pytest.mark.parametrize("how", ["cut", "empty", "no archive", "flipped"])
def test_damaged_files(saved, tmp_path, how):
    root = saved(x=grey(200))
    content = (tmp_path / "images.npz").read_bytes()
    (tmp_path / "images.npz").write_bytes(damaged(content, how))
    with pytest.raises(
        DataError, match=f"{re.escape(root)}(: x cannot be read| is damaged or no file of numpy.savez): "
    ):
        source(root).load()


def test_a_file_of_one_array_is_no_archive(tmp_path):
    np.save(tmp_path / "x.npy", grey())
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(DataError, match="x.npz is damaged or no file of numpy.savez: File is not a zip file"):
        source(str(tmp_path / "x.npz")).download()


# Files that unpack to more than there is


@pytest.mark.parametrize(
    "free, dtype, labels, fits",
    [
        (
            1000 + 160,
            np.uint8,
            None,
            True,
        ),  # 10 images of 50 pixels, as they are and as they are kept; two int64 a label
        (1000 + 159, np.uint8, None, False),
        (4500 + 160, np.float64, None, True),
        (4500 + 159, np.float64, None, False),
        (1000 + 20, np.uint8, np.uint8, True),
        (1000 + 19, np.uint8, np.uint8, False),
    ],
)
def test_arrays_that_do_not_fit_into_the_memory(saved, monkeypatch, free, dtype, labels, fits):
    arrays = {"x": np.zeros((10, 5, 10), dtype)} | ({} if labels is None else {"y": np.zeros(10, labels)})
    root = saved(**arrays)
    monkeypatch.setattr("cvae.data.npz.main_memory", lambda: free)
    if fits:
        source(root).load()
        return
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("read"))
    for call in ("download", "classes", "load", "image_shape"):
        with pytest.raises(
            DataError, match=r"images.npz: x is \w+ \(10, 5, 10\), which takes 0.0 GiB to read; 0.0 GiB"
        ):
            getattr(source(root), call)()


def bomb(file, start):
    """An archive of a few kilobytes whose x.npy begins like this, and goes on for 50 MB."""
    import zipfile

    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", start + b" " * 50_000_000)
    assert file.stat().st_size < 100_000
    return str(file)


def header(shape):
    import io

    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return content.getvalue()


def test_bombs_are_refused_before_memory_is_spent(tmp_path):
    import tracemalloc

    images = bomb(tmp_path / "images.npz", header((10**6, 2000, 2000)))
    long = bomb(tmp_path / "long.npz", b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little"))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"x is uint8 \(1000000, 2000, 2000\), which takes 7450.6 GiB to read; "):
        source(images).download()
    with pytest.raises(DataError, match="long.npz is damaged or no file of numpy.savez: EOF"):
        source(long).download()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_of_an_array_no_more_is_read_than_its_header_says(tmp_path):
    train, test = source(bomb(tmp_path / "images.npz", header((4, 2, 2))), test_size=1).load()
    assert len(train.x) == 3 and (test.x == 32).all()


def test_an_array_that_is_there_twice(tmp_path):
    """x.npy is what numpy reads, x is what was looked at: it could unpack to any size."""
    file = tmp_path / "a.npz"
    np.savez(file, x=np.zeros((100, 40, 40), np.uint8))
    small = io.BytesIO()
    np.save(small, np.zeros((1, 2, 2), np.uint8))
    for name in ("x", "x.npy"):
        shutil.copy(file, tmp_path / "b.npz")
        with zipfile.ZipFile(tmp_path / "b.npz", "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile says so
            archive.writestr(name, small.getvalue())
        with pytest.raises(DataError, match="b.npz is damaged or no file of numpy.savez: it has x twice"):
            Npz(str(tmp_path / "b.npz"), 0.5, 0).image_shape()
