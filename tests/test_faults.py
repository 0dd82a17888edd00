"""What happens to a run when its disk, its folder or its loggers fail, by the real cause: slow, run by .ci/run."""

import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress

import pytest
import torch
from conftest import ROOT
from hold import held

import cvae
from cvae.runs.directory import Run

pytestmark = pytest.mark.slow

SMALL = [
    "data=synthetic", "data.source.train_size=20", "data.source.test_size=8", "model=mlp", "model.hidden=[4]",
    "model.latent_dim=2", "trainer=cpu", "evaluation.samples=2", "callbacks.pictures.manifold_steps=2",
]  # fmt: skip


def errors(done):
    assert "Traceback" not in done.stdout + done.stderr and "Logging error" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def on_a_disk_of(size, folder, *words):
    """train.py with a file system of its own in `folder`, and what is in it afterwards, copied to a folder beside."""
    folder.mkdir()
    quiet = f"{sys.executable} {ROOT / 'train.py'} {' '.join(words)} hydra.run.dir={folder}/run"
    keep = f"code=$?; cp -r {folder}/. {folder}-kept; exit $code"
    command = f"mount -t tmpfs -o size={size} none {folder} && {quiet}; {keep}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=600)
    if re.search("unshare|mount|not permitted", done.stderr):
        pytest.skip(f"no file system can be made here: {done.stderr}")
    return done, Run(folder.with_name(f"{folder.name}-kept") / "run")


@pytest.mark.parametrize("size", ["4k", "60k", "400k"])
def test_a_full_disk(tmp_path, size):
    """At the start; before the first checkpoint; when there are some."""
    done, run = on_a_disk_of(size, tmp_path / "disk", *SMALL, "trainer.max_epochs=9")
    assert done.returncode == 1
    (said,) = errors(done)
    if size == "4k":
        assert said == f"Error: [Errno 28] No space left on device: '{tmp_path}/disk/run/.hydra/hydra.yaml'"
        return
    file = f"{tmp_path}/disk/run/checkpoints/"
    assert said.startswith(f"Error: [Errno 28] No space left on device: '{file}") and said.endswith(".ckpt'")
    assert "Once this is fixed, resume with: python train.py resume=" in done.stderr
    assert run.status()["reason"] == f"OSError: {said.removeprefix('Error: ')}" and run.state() == "failed"
    assert done.stdout.count("Pictures are missing") <= 1 and done.stdout.count("logs nothing more") <= 1
    assert not list(run.path.rglob("*.part"))
    if size == "400k":
        vae = cvae.load(run.path)  # what was saved stays usable
        assert vae.sample(3).shape == (3, 1, 28, 28)
        for file in run.checkpoints.iterdir():
            torch.load(file, weights_only=True)


@pytest.fixture
def unprivileged():
    """How to start a process to which files can be forbidden."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and there is no setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def while_it_trains(tmp_path, action, *words, start=()):
    """Call `action` in the second epoch of a run; (what the process left, the run)."""
    run, over = Run(tmp_path / "run"), threading.Event()

    def act():
        while not over.wait(0.05):
            if run.log_file.exists() and "Epoch 2:" in run.log_file.read_text():
                action(run)
                return (tmp_path / "go").touch()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        command = [*start, sys.executable, ROOT / "train.py", *words, *SMALL, f"hydra.run.dir={run}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600), run
    finally:
        over.set()
        thread.join()


@pytest.fixture
def hang_up():
    """What a closed terminal does, also where these tests themselves were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal(tmp_path, hang_up):
    """A real one, whose other end goes away: system and shell each tell of it. What is printed leads nowhere then."""
    keeper, terminal = pty.openpty()
    run = Run(tmp_path / "run")
    command = [sys.executable, ROOT / "train.py", *SMALL, f"hydra.run.dir={run}", "trainer.max_epochs=10000"]
    own = {"stdin": terminal, "stdout": terminal, "stderr": terminal, "start_new_session": True}
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **own)
    os.close(terminal)
    threading.Thread(target=read, args=[keeper], daemon=True).start()
    try:
        end = time.monotonic() + 600
        while not (run.log_file.exists() and "Epoch 3:" in run.log_file.read_text()):
            assert time.monotonic() < end, "no epoch is over"
            time.sleep(0.05)
        os.close(keeper)
        process.send_signal(signal.SIGHUP)
        assert process.wait(600) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    said = run.log_file.read_text()
    step = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["global_step"]
    assert "SIGHUP: the run stops after this step" in said and f"last.ckpt, is of step {step}. Resume with:" in said
    assert "Error" not in said and "Traceback" not in said
    assert run.status()["state"] == "interrupted" and run.status()["reason"] == "by SIGHUP" and run.gif.exists()


def read(terminal):
    """Take what is written to a terminal, until it is closed."""
    with suppress(OSError):
        while os.read(terminal, 1 << 16):
            pass


def test_nohup_ends_no_run_with_its_terminal(tmp_path, hang_up):
    """Without it, SIGHUP saves and ends the run."""
    close = lambda run: os.kill(run.status()["pid"], signal.SIGHUP)
    done, run = while_it_trains(tmp_path, close, *held(tmp_path, "run"), "trainer.max_epochs=4", start=["nohup"])
    assert done.returncode == 0 and run.state() == "finished" and "SIGHUP" not in run.log_file.read_text()
    run.path.rename(tmp_path / "other")
    done, run = while_it_trains(tmp_path, close, "trainer.max_epochs=10000")
    assert done.returncode == 128 + signal.SIGHUP and errors(done) == [], done.stdout
    step = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["global_step"]
    assert f"Stopped by SIGHUP after step {step}. The last checkpoint" in done.stdout
    assert run.status()["state"] == "interrupted" and run.status()["reason"] == "by SIGHUP" and run.gif.exists()


def test_a_folder_that_is_deleted_while_the_run_goes(tmp_path):
    def delete(run):
        run.path.rename(tmp_path / "deleted")  # at once
        shutil.rmtree(tmp_path / "deleted")

    done, run = while_it_trains(tmp_path, delete, "trainer.max_epochs=10000")
    (said,) = errors(done)
    assert done.returncode == 1 and re.search(r"No such file or directory: '.*/run/checkpoints/\w+.ckpt'", said)
    assert not run.path.exists()


def test_a_folder_that_is_made_read_only_while_the_run_goes(tmp_path, unprivileged):
    forbid = lambda run: run.checkpoints.chmod(0o500)
    done, run = while_it_trains(tmp_path, forbid, "trainer.max_epochs=10000", start=unprivileged)
    (said,) = errors(done)
    assert done.returncode == 1 and re.search(r"Permission denied: '.*/run/checkpoints/\w+.ckpt'", said)
    assert run.state() == "failed" and "Permission denied" in run.status()["reason"]
    run.checkpoints.chmod(0o700)
    assert cvae.load(run.path).sample(1).shape == (1, 1, 28, 28)


def test_pictures_and_curves_that_cannot_be_written_are_a_warning_each(tmp_path, unprivileged):
    """TensorBoard writes in a thread of its own."""

    def forbid(run):
        run.images.chmod(0o500)
        for file in run.event_files():
            file.chmod(0o400)

    done, run = while_it_trains(tmp_path, forbid, *held(tmp_path, "run"), "trainer.max_epochs=30", start=unprivileged)
    run.images.chmod(0o700)
    assert done.returncode == 0 and errors(done) == [] and run.state() == "finished"
    assert done.stdout.count("Pictures are missing, the training goes on: [Errno 13] Permission denied: '") == 1
    assert done.stdout.count(f"TensorBoard in {run} logs nothing more, the training goes on: [Errno 13]") == 1


def test_a_folder_that_may_not_be_written_from_the_start(tmp_path, unprivileged):
    (tmp_path / "mine").mkdir(mode=0o500)
    command = [*unprivileged, sys.executable, ROOT / "train.py", "hydra.run.dir=mine/run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    (said,) = errors(done)
    assert done.returncode == 1 and said.startswith(
        "Error: hydra.run.dir=mine/run: must be a folder that can be written"
    )
