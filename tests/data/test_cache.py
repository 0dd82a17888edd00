"""Decoded images on disk: used where they are right, decoded again where they are not, whatever happens between."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from cvae.data import cache as module
from cvae.data import workers
from cvae.data.cache import Cache, files_now
from cvae.data.decode import Reading, decode
from cvae.data.folder import ImageFolder
from cvae.errors import DataError

READING = Reading((3, 4, 4))


def draw(path, seed=None, time=None):
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed if seed is not None else abs(hash(path.name))).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(x).save(path, "PNG")
    if time:
        os.utime(path, ns=(time, time))
    return path.name


@pytest.fixture
def root(tmp_path):
    for number in range(10):
        draw(tmp_path / "root" / f"{number}.png", number)
    return tmp_path / "root"


def names_in(root):
    return sorted(os.listdir(root))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, one list a call."""
    calls, blocks = [], module.decoded_blocks

    def noted(files, reading):
        calls.append([os.path.basename(file) for file in files])
        return blocks(files, reading)

    monkeypatch.setattr(module, "decoded_blocks", noted)
    return calls


def require_right(cache, root):
    """All files can be had from the cache, as they are now."""
    files = files_now(root, names_in(root))
    expected, index = decode(files.paths(range(len(files.names))), cache.reading), cache.read()
    lines = index.lines[index.find(files)]
    assert (index.find(files) >= 0).all()
    np.testing.assert_array_equal(cache.map(index)[lines["row"]], expected.x)
    for name, column in (("digest", expected.digests), ("peak", expected.peaks), ("bits", expected.bits)):
        np.testing.assert_array_equal(lines[name], column)
    np.testing.assert_array_equal(np.load(cache.array(index.generation)), cache.map(index))  # for everybody


def refreshed(root, reading=READING):
    cache = Cache(root.parent / "cache", reading)
    cache.refresh(files_now(root, names_in(root)))
    return cache


def test_each_file_is_decoded_once(root, decoded):
    for _ in range(2):
        require_right(refreshed(root), root)
    assert decoded == [names_in(root)]


def test_what_is_new_or_changed_is_decoded_and_nothing_else(root, decoded):
    cache = refreshed(root)
    before = cache.map(cache.read())
    kept = before.copy()
    draw(root / "new.png")
    draw(root / "3.png", 99)
    os.utime(root / "5.png", ns=(7, 7))  # the same content at another time, to be sure
    (root / "0.png").unlink()
    require_right(refreshed(root), root)
    assert decoded[1:] == [["3.png", "5.png", "new.png"]]
    np.testing.assert_array_equal(before, kept)  # who reads the cache is not disturbed
    refreshed(root)
    assert len(decoded) == 2


def test_where_most_rows_are_of_files_that_are_gone_another_array_begins(root, decoded):
    cache = refreshed(root)
    before = cache.map(cache.read())
    kept = before.copy()
    for number in range(6):
        (root / f"{number}.png").unlink()
    draw(root / "new.png")
    require_right(refreshed(root), root)
    assert decoded[1:] == [names_in(root)]
    np.testing.assert_array_equal(before, kept)
    assert len(list(cache.folder.glob("*.npy"))) == 1 and len(cache.map(cache.read())) == 5


def test_another_reading_has_another_array(root, decoded):
    for reading in (READING, Reading((1, 4, 4)), Reading((3, 4, 4), fit="stretch")):
        require_right(refreshed(root, reading), root)
    assert len(decoded) == 3
    require_right(refreshed(root), root)
    assert len(decoded) == 3


def test_what_cannot_be_read_is_not_tried_again(root, decoded):
    (root / "4.png").write_bytes(b"no image")
    (root / "9.png").unlink()
    (root / "9.png").symlink_to(root / "nowhere")
    cache = refreshed(root)
    refreshed(root)
    index = cache.read()
    rows = index.lines["row"][index.find(files_now(root, names_in(root)))]
    assert rows.tolist() == [0, 1, 2, 3, -1, 4, 5, 6, 7, -1] and len(decoded) == 1
    draw(root / "4.png")
    refreshed(root)
    assert decoded[1:] == [["4.png"]]


def test_names_of_all_kinds(root, decoded):
    for name in (b"a b.png", b"line\nline.png", b"\xff\xfe.png", "ä’\u202e.png".encode()):
        draw(root / os.fsdecode(name))
    for _ in range(2):
        require_right(refreshed(root), root)
    assert len(decoded) == 1


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("commit", "left"), [(0, 4), (10**6, 10)])
def test_what_a_killed_process_had_done_counts(root, decoded, monkeypatch, commit, left):
    """It dies in its fourth block of two files, two commits or none before; what it had written of it is nobody's."""
    add, calls = module.Growing.add, []

    def dies(self, numbers, block):
        calls.append(1)
        if len(calls) == 4:
            self.file.write(b"rubbish" * 9)
            self.file.flush()
            raise Killed
        add(self, numbers, block)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "COMMIT", commit)
        patch.setattr(workers, "BLOCK", 2)
        patch.setattr(module.Growing, "add", dies)
        refreshed(root)
    require_right(refreshed(root), root)
    assert [len(names) for names in decoded] == [10, left]
    assert len(list((root.parent / "cache").glob("*.npy"))) == 1


def damage(cache, how):
    index, array = cache.index, cache.array(cache.read().generation)
    if how == "index cut":
        index.write_bytes(index.read_bytes()[:-20])
    elif how == "index empty":
        index.write_bytes(b"")
    elif how == "index of something else":
        np.savez(index.open("wb"), lines=np.zeros(3))
    elif how == "an index of objects":
        np.savez(index.open("wb"), names=np.array([None]), lines=np.zeros(1), counts=np.zeros(2))
    elif how == "array cut":
        array.write_bytes(array.read_bytes()[:-1])
    elif how == "array of another shape":
        np.save(array, np.zeros((10, 3, 5, 5), np.uint8))
    elif how == "array gone":
        array.unlink()
    elif how == "index gone":
        index.unlink()


@pytest.mark.parametrize(
    "how",
    [
        "index cut", "index empty", "index of something else", "an index of objects", "array cut",
        "array of another shape", "array gone", "index gone",
    ],
)  # fmt: skip
def test_what_is_damaged_is_not_used(root, decoded, how):
    cache = refreshed(root)
    damage(cache, how)
    assert not len(cache.read().lines)
    require_right(refreshed(root), root)
    assert decoded[1:] == [names_in(root)] and len(list(cache.folder.glob("*.npy"))) == 1


@pytest.mark.parametrize("can_be_written", [True, False])
def test_damage_is_said_once(root, tmp_path, monkeypatch, caplog, can_be_written):
    """By a source that looks, looks again as the one that writes, and reads what is there."""
    source = ImageFolder(READING, str(root), 0.1, 0, "hash", cache=str(tmp_path / "kept"))
    source.download()
    damage(source.cache(), "index cut")
    if not can_be_written:
        monkeypatch.setattr(module, "waiting_for", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    again = ImageFolder(READING, str(root), 0.1, 0, "hash", cache=str(tmp_path / "kept"))
    again.download()
    again.load()
    own = [record.getMessage() for record in caplog.records if record.name == module.log.name]
    assert sum("is damaged and not used" in line for line in own) == 1, own


def test_two_at_once_make_one(root, decoded, monkeypatch):
    add = module.Growing.add
    monkeypatch.setattr(module.Growing, "add", lambda self, *given: (time.sleep(0.2), add(self, *given)))
    threads = [threading.Thread(target=refreshed, args=(root,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded == [names_in(root)]
    require_right(Cache(root.parent / "cache", READING), root)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("folder", OSError(errno.EACCES, "Permission denied")),
        ("lock", OSError(errno.EROFS, "Read-only file system")),
        ("no locks", OSError(errno.ENOLCK, "No locks available")),
        ("write", OSError(errno.ENOSPC, "No space left on device")),
        ("flush", OSError(errno.EIO, "Input/output error")),
        ("space", OSError(errno.ENOSPC, "0.06 GiB are needed and 0.00 GiB are free")),
    ],
)
def test_where_nothing_can_be_kept_a_line_says_so(root, monkeypatch, caplog, place, error):
    def fails(*_, **__):
        raise error

    if place == "folder":
        monkeypatch.setattr(module.Path, "mkdir", fails)
    elif place == "lock":
        monkeypatch.setattr(module.os, "open", fails)
    elif place == "no locks":
        monkeypatch.setattr("fcntl.flock", fails)
    elif place == "write":
        monkeypatch.setattr(module.Growing, "add", fails)
    elif place == "flush":  # the system tells it once
        monkeypatch.setattr(module, "FLUSH", 0)
        monkeypatch.setattr(workers, "BLOCK", 2)
        monkeypatch.setattr(module.os, "fsync", Mock(side_effect=[None, error, *[None] * 9]))
    else:
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        error.strerror = "0.00 GiB are needed and 0.00 GiB are free. Make room, or say data.cache=FOLDER"
    cache = refreshed(root)
    assert f"The decoded images are not kept in {cache.folder}: {error.strerror}" in caplog.text
    assert not len(cache.read().lines)


def test_the_disk_gets_what_is_written_while_more_is_decoded(root, monkeypatch):
    """Of five blocks of 96 bytes the first two, the next two, and the rest with what the header says of it."""
    sizes, fsync = [], os.fsync

    def noted(descriptor):
        sizes.append(os.fstat(descriptor).st_size - module.HEADER)
        fsync(descriptor)

    class AtOnce(ThreadPoolExecutor):
        def submit(self, *given):
            future = super().submit(*given)
            future.exception()
            return future

    monkeypatch.setattr(module, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(module, "FLUSH", 191)
    monkeypatch.setattr(workers, "BLOCK", 2)
    monkeypatch.setattr(module.os, "fsync", noted)
    refreshed(root)
    assert sizes[:-1] == [0, 192, 384, 480]  # the last one is the index


# Several processes


def test_processes_decode_as_one_does(root, monkeypatch):
    (root / "4.png").write_bytes(b"no image")
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(root / "deep.png")
    files = [str(root / name) for name in names_in(root)]
    expected = decode(files, READING)
    monkeypatch.setattr(workers, "FEW", 0)
    monkeypatch.setattr(workers, "BLOCK", 3)
    found = list(workers.decoded_blocks(files, READING))
    assert [start for start, _ in found] == [0, 3, 6, 9]
    for field in ("x", "digests", "peaks", "bits"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(block, field) for _, block in found]), getattr(expected, field)
        )
    assert {start + number: why for start, block in found for number, why in block.faults.items()} == expected.faults


def test_a_process_that_ends_is_named_with_its_files(root, monkeypatch):
    files = [str(root / name) for name in names_in(root)]
    monkeypatch.setattr(workers, "FEW", 0)
    monkeypatch.setattr(workers, "PROGRAM", "import sys; sys.stdin.readline()")
    with pytest.raises(DataError, match=r"a process was ended by one of the 10 files from \S+/0.png to \S+/9.png"):
        list(workers.decoded_blocks(files, READING))


def test_a_process_that_decodes_needs_no_torch():
    code = "import sys; import cvae.data.workers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


CACHING = """
import sys
from pathlib import Path
from cvae.data import cache, workers
from cvae.data.decode import Reading
cache.COMMIT, workers.FEW, workers.BLOCK = 0.01, 0, 8
root = Path(sys.argv[1])
names = sorted(path.name for path in root.iterdir())
cache.Cache(root.parent / "cache", Reading((3, 4, 4))).refresh(cache.files_now(root, names))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_killed_lose_nothing(root, seed):
    """By SIGKILL, at random moments; the processes that decode for them end, too."""
    for number in range(400):
        draw(root / f"more {number}.png", number)
    chance, rows, killed = random.Random(seed), [], 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", CACHING, str(root)])
        time.sleep(0.4 + 0.6 * chance.random())
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        rows.append(Cache(root.parent / "cache", READING).read().rows)
    assert killed and rows == sorted(rows)
    require_right(refreshed(root), root)


def test_a_file_where_the_folder_should_be_is_nothing_damaged(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    kept = Cache(tmp_path / "file" / "own", Reading((1, 8, 8)))
    assert not kept.read().rows and kept.open() is None and not caplog.text


def test_files_elsewhere_have_their_whole_path(root, tmp_path):
    draw(tmp_path / "a.png", 1)
    files = files_now(root, ["1.png", str(tmp_path / "a.png")])
    assert files.paths([1, 0]) == [str(tmp_path / "a.png"), str(root / "1.png")] and files.size.min() > 0


def test_a_file_of_another_size_at_the_same_time_is_decoded_again(root, decoded):
    """As where an archive is unpacked, which sets the times."""
    cache = refreshed(root)
    time = (root / "3.png").stat().st_mtime_ns
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "3.png")
    os.utime(root / "3.png", ns=(time, time))
    require_right(refreshed(root), root)
    assert decoded[1:] == [["3.png"]] and cache.read().rows == 11


def test_another_pillow_decodes_anew(root, decoded, monkeypatch):
    refreshed(root)
    monkeypatch.setattr(module.PIL, "__version__", "0.0")
    refreshed(root)
    assert len(decoded) == 2


def test_half_of_the_rows_are_enough_to_go_on(root, decoded):
    cache = refreshed(root)
    for number in range(5):
        (root / f"{number}.png").unlink()
    draw(root / "new.png")
    require_right(refreshed(root), root)
    assert decoded[1:] == [["new.png"]] and cache.read().rows == 11 and cache.read().generation == 1


def test_an_array_that_nobody_knows_is_not_written_over(root):
    """Its index is gone; a process may still read it."""
    cache = refreshed(root)
    known = cache.read()
    cache.array(known.generation).rename(cache.array(7))
    refreshed(root)
    assert cache.read().generation == 8 and not cache.array(7).exists()


@pytest.mark.parametrize(("missing", "enough"), [(0, True), (1, False)])
def test_some_space_is_left_on_the_disk(tmp_path, monkeypatch, missing, enough):
    """Beside 48 bytes of an image and 200 of its line."""
    cache = Cache(tmp_path, READING)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 248 + module.SPARE - missing))
    if enough:
        cache.require_space(3)
    else:
        with pytest.raises(OSError, match="GiB are needed"):
            cache.require_space(3)
