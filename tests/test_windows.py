"""Windows lacks some modules, signals and functions: without them everything starts, trains, goes on and measures.

What torch and Lightning need of Linux to be imported is there until they are. The GitHub workflow tries Windows itself.
"""

import ast
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

MISSING = {
    "signal": ["SIGHUP", "SIGUSR1", "SIGKILL", "SIGSTOP", "pthread_sigmask"],
    "os": ["register_at_fork", "fork", "getuid", "geteuid", "O_NONBLOCK", "O_NOCTTY", "killpg", "setsid", "mkfifo"],
}
MODULES = ["fcntl", "resource", "termios", "pwd", "grp"]

LIBRARIES = """
import pytorch_lightning, signal, torch
from pytorch_lightning.trainer.connectors import signal_connector
signal_connector._IS_WINDOWS = True
signal.valid_signals = lambda kinds={signal.SIGINT, signal.SIGTERM}: kinds
"""
AS_ON_WINDOWS = f"""
import fcntl, getpass, multiprocessing, os, pathlib, signal, subprocess, sys, types

def locking(descriptor, mode, count, flock=fcntl.flock, how=fcntl.LOCK_EX | fcntl.LOCK_NB):
    try:
        flock(descriptor, how)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
sys.modules |= dict.fromkeys({MODULES})
for name in {MISSING["signal"]}:
    delattr(signal, name)
for name in {MISSING["os"]}:
    delattr(os, name)
"""


def start(code, folder):
    """Run code in a process that has only what Windows has."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment, text=True, **pipes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the GitHub workflow trains there")
def test_it_trains_goes_on_and_measures(tmp_path):
    code = """
from cvae.__main__ import main
words = ["data=synthetic", "data.source.train_size=64", "data.source.test_size=16", "model=mlp", "model.hidden=[8]",
         "trainer=cpu", "trainer.max_epochs=1", "callbacks.pictures.manifold_steps=2", "hydra.run.dir=run"]
main(["train", *words])
main(["train", "resume=run", "trainer.max_epochs=2"])
main(["evaluate", "run", "--samples", "2"])
"""
    process = start(LIBRARIES + AS_ON_WINDOWS + code, tmp_path)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and "Goes on from run/checkpoints/last.ckpt" in out, err
    assert "active units" in out and (tmp_path / "run" / "cvae.gif").exists()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


@pytest.mark.skipif(sys.platform == "win32", reason="the tests of locks try its own")
def test_a_lock_of_windows_keeps_others_out_until_its_process_ends(tmp_path):
    """The file can be read meanwhile."""
    own = AS_ON_WINDOWS + "from cvae.runs.storage import lock, locked, unlock; file = pathlib.Path('lock'); "
    with start(own + "print(lock(file), flush=True); sys.stdin.read()", tmp_path) as other:
        assert other.stdout.readline() == "True\n"
        said, _ = start(own + "print(lock(file), locked(file), file.read_bytes())", tmp_path).communicate()
        assert said == "False True b''\n"
        other.kill()
    said, _ = start(own + "print(locked(file), lock(file), locked(file)); unlock(file)", tmp_path).communicate()
    assert said == "False True True\n"


def without_guard(tree):
    """The nodes of a module, but for what stands behind `if sys.platform == …` or `if hasattr(…)`."""
    for node in ast.iter_child_nodes(tree):
        guard = ast.unparse(node.test) if isinstance(node, ast.If) else ""
        if guard.startswith(("sys.platform == ", "hasattr(")):
            yield from (each for other in node.orelse for each in (other, *without_guard(other)))
        else:
            yield node
            yield from without_guard(node)


def lacks(code):
    """What a module asks for that Windows lacks: names where they are not guarded, modules where it is imported."""
    tree = ast.parse(code)
    for node in without_guard(tree):
        if isinstance(node, ast.Attribute) and node.attr in MISSING.get(ast.unparse(node.value), []):
            yield ast.unparse(node)
    for node in tree.body:
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        yield from set(MODULES) & {*names, node.module if isinstance(node, ast.ImportFrom) else ""}


def test_what_windows_lacks_is_found():
    guarded = "if sys.platform == 'linux':\n    signal.SIGKILL\nelse:\n    signal.SIGHUP\ngetattr(os, 'fork', None)\n"
    assert list(lacks(f"import fcntl, os\n{guarded}if x:\n    os.fork()\n")) == ["signal.SIGHUP", "os.fork", "fcntl"]


@pytest.mark.parametrize("file", sorted((ROOT / "cvae").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_needs_what_windows_lacks(file):
    assert list(lacks(file.read_text(encoding="utf-8"))) == []
