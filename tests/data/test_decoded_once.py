"""Decoded images on disk, as whole commands and several processes use them: slow, run by .ci/run."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import train_py
from conftest import ROOT
from PIL import Image

from cvae.data import cache, folder, mapped, workers
from cvae.data.cache import Cache, files_now, read_all
from cvae.data.decode import Reading, decode
from cvae.data.folder import ImageFolder
from cvae.runs.directory import Run

pytestmark = pytest.mark.slow

READING = Reading((3, 8, 8))
SMALL = [
    "data=image_folder", "data.root=images", "data.image_size=8", "model.width=8", "model.latent_dim=2",
    "trainer.max_epochs=1", "evaluation.samples=0", "~callbacks.pictures", "~callbacks.progress",
]  # fmt: skip


def images(place, count, seed=0):
    """So many PNG files of noise in ten folders."""
    x = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    for number, levels in enumerate(x):
        file = place / f"{number % 10}" / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(file)
    return sorted(str(path.relative_to(place)) for path in place.rglob("*.png"))


def decodings(path):
    """How many images were decoded each time, as the logs of the runs below a folder say."""
    logs = [log.read_text() for log in sorted(path.rglob("train.log"))]
    return [int(count.replace(",", "")) for log in logs for count in re.findall("Decoding ([0-9,]+) images, once", log)]


def require_right(root, names, kept):
    """All files can be had from the cache, with the values that decoding without one gives."""
    files, index = files_now(root, names), kept.read()
    lines, expected = index.find(files), decode(files.paths(range(len(names))), kept.reading)
    assert (lines >= 0).all()
    np.testing.assert_array_equal(kept.map(index)[index.lines["row"][lines]], expected.x)
    np.testing.assert_array_equal(index.lines["digest"][lines], expected.digests)


TOGETHER = """
import os, time
from pathlib import Path
from hydra.experimental.callback import Callback
from cvae.data.cache import Cache

class Together(Callback):
    def __init__(self, folder):
        self.folder = Path(folder)

    def on_job_start(self, config, **kwargs):
        read, end = Cache.read, time.monotonic() + 500

        def first(cache):
            Cache.read, found = read, read(cache)
            (self.folder / str(os.getpid())).touch()
            while len(list(self.folder.iterdir())) < 4 and time.monotonic() < end:
                time.sleep(0.01)
            return found

        Cache.read = first
"""


@pytest.mark.parametrize("at_once", [False, True])
def test_a_sweep_decodes_once(tmp_path, at_once):
    """Also where four processes have seen that nothing is kept, before one of them keeps something."""
    words = []
    if at_once:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        (tmp_path / "own" / "here").mkdir(parents=True)
        (tmp_path / "own" / "together.py").write_text(TOGETHER)
        words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=4"]
        words += ["+hydra.callbacks.all._target_=together.Together", f"+hydra.callbacks.all.folder={tmp_path}/own/here"]
    names = images(tmp_path / "images", folder.MANY)
    path = os.pathsep.join([str(tmp_path / "own"), os.environ.get("PYTHONPATH", "")])
    more = {"cwd": tmp_path, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = train_py("-m", *SMALL, *words, "seed=1,2,3,4", "hydra.sweep.dir=sweep", **more)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 4
    assert not at_once or len(list((tmp_path / "own" / "here").iterdir())) == 4
    assert decodings(tmp_path / "sweep") == [folder.MANY]
    require_right(tmp_path / "images", names, Cache(tmp_path / "images" / folder.BESIDE, READING))


def test_two_processes_share_what_is_decoded(tmp_path):
    names = images(tmp_path / "images", folder.MANY)
    words = [*SMALL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=run"]
    done = train_py(*words, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0 and Run(tmp_path / "run").state() == "finished", done.stderr
    assert decodings(tmp_path / "run") == [folder.MANY]
    require_right(tmp_path / "images", names, Cache(tmp_path / "images" / folder.BESIDE, READING))


CACHING = """
import sys, time
from pathlib import Path
from cvae.data import cache, workers
from cvae.data.decode import Reading
decode = workers.Worker.decode

def slowly(worker, files, reading):  # so that ten kills come before the end, however fast the machine is
    time.sleep(0.05)
    return decode(worker, files, reading)

workers.Worker.decode, workers.cores = slowly, lambda: 2
cache.COMMIT, workers.FEW, workers.BLOCK = 0.05, 0, 8
root = Path(sys.argv[1])
names = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
cache.Cache(root.parent / "cache", Reading((3, 8, 8))).refresh(cache.files_now(root, names))
"""


def test_ten_kills_lose_nothing(tmp_path):
    """By SIGKILL, at random moments while images are decoded; no process that decodes outlives the one it is for."""
    names = images(tmp_path / "images", 2500)
    kept, chance = Cache(tmp_path / "cache", READING), random.Random(0)
    arrays, rows, begun = 0, [0], 0
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", CACHING, str(tmp_path / "images")], process_group=0)
        begun += wait_for_rows(kept, process)
        time.sleep(0.3 * chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows.append(kept.read().rows)
        arrays = max(arrays, len(list(kept.folder.glob("*.npy"))))
        while group_lives(process.pid):
            time.sleep(0.01)
    assert begun == 10 and rows == sorted(rows) and 0 < rows[-1] < len(names) and arrays == 1
    kept.refresh(files_now(tmp_path / "images", names))
    require_right(tmp_path / "images", names, kept)
    assert kept.read().rows == len(names)  # none twice


def wait_for_rows(kept, process):
    """Until the process has written images that no index has yet; False if it has ended before."""
    known = cache.HEADER + kept.read().rows * kept.bytes
    while process.poll() is None:
        if sum(path.stat().st_size for path in kept.folder.glob("*.npy")) > known:
            return True
        time.sleep(0.002)
    return False


def group_lives(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_kills_of_the_whole_command(tmp_path):
    """A training that was killed while it decoded has the weights of one that decodes without a cache."""
    images(tmp_path / "images", 3 * folder.MANY)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HYDRA_", "CVAE_"))}
    kept = Cache(tmp_path / "images" / folder.BESIDE, READING)
    for number in range(3):
        words = [sys.executable, str(ROOT / "train.py"), *SMALL, f"hydra.run.dir=killed_{number}"]
        process = subprocess.Popen(words, cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"})
        wait_for_rows(kept, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    for name, words in {"kept": [], "plain": ["data.cache=null"]}.items():
        done = train_py(*SMALL, *words, f"hydra.run.dir={name}", cwd=tmp_path, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("kept", "plain")
    )
    assert all(torch.equal(one["state_dict"][name], value) for name, value in two["state_dict"].items())


def test_17_of_20_000_files_are_damaged(tmp_path, monkeypatch, caplog):
    """In each of the ways in which files are; on disk, and with a cache, as for sets that are larger than memory."""
    for module in (mapped, cache):
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    root, chance = tmp_path / "images", random.Random(0)
    names = images(root, 20_000)
    bad = sorted(chance.sample(names, 17))
    for number, name in enumerate(bad):
        whole = (root / name).read_bytes()
        (root / name).unlink()
        if number % 4 == 0:
            (root / name).symlink_to("nowhere")
        else:
            (root / name).write_bytes([whole[: len(whole) // 2], b"", b"<html>404</html>"][number % 4 - 1])
    source = ImageFolder(READING, str(root), 0.1, 0, "hash", skip_unreadable=True)
    source.download()
    train, test = source.load()
    assert sorted(source.left_out) == bad and len(train.y) + len(test.y) == 20_000 - 17
    assert "17 of 20,000 images cannot be read and are left out" in caplog.text and "and 7 more" in caplog.text
    expected = decode([root / name for name in train.names[::50]], READING)
    assert not expected.faults and (train.x[slice(0, None, 50)].numpy() == expected.x).all()
    found = [train.kind(label) for label in train.y.tolist()]
    assert found == [name.partition("/")[0] for name in train.names.tolist()]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 72 MiB, of which 64 stay free."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a disk of its own can be mounted by root alone")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_while_images_are_decoded(tmp_path, small_disk, monkeypatch, caplog):
    """A line says so, the images are decoded into memory, and what was written before is right and used later."""
    monkeypatch.setattr(cache, "COMMIT", 0)
    root, add, calls = tmp_path / "images", cache.Growing.add, []
    names, kept, other = images(root, 2500), Cache(small_disk / "cache", READING), small_disk / "other"

    def fills(self, numbers, block):
        add(self, numbers, block)
        calls.append(1)
        if len(calls) == 5:
            with open(other, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while file.write(bytes(2**16)):
                    pass

    monkeypatch.setattr(cache.Growing, "add", fills)
    files = files_now(root, names)
    kept.refresh(files)
    assert f"The decoded images are not kept in {kept.folder}: No space left on device" in caplog.text
    before = kept.read().rows
    assert before == 5 * workers.BLOCK
    x, decoded = read_all(files, READING, kept)
    expected = decode(files.paths(range(len(names))), READING)
    assert (x.numpy() == expected.x).all() and (decoded.digests == expected.digests).all() and not decoded.faults
    other.unlink()
    kept.refresh(files)
    require_right(root, names, kept)
    assert kept.read().rows == len(names)
