"""Runs of a sweep at the same time: a GPU each, of as many as a stub says that there are."""

import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cvae.runs import storage
from cvae.training.engine import for_lightning
from cvae.training.gpus import claimed

CLAIM = "import sys; from pathlib import Path; from cvae.training.gpus import claimed; "
CLAIM += "print(claimed(Path(sys.argv[1]), 2), flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def no_claims(monkeypatch):
    monkeypatch.setattr(storage, "HELD", {})


@pytest.mark.slow
def test_runs_at_once_share_the_gpus_evenly(tmp_path):
    """Five processes and two GPUs; a process keeps its own, and the GPU of one that has ended is the next one's."""
    with ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}

        def start():
            command = [sys.executable, "-c", CLAIM, str(tmp_path / "gpus")]
            process = stack.enter_context(subprocess.Popen(command, **pipes))
            stack.callback(process.kill)
            return process, int(process.stdout.readline())

        first, *others = [start() for _ in range(4)]
        assert [number for _, number in (first, *others)] == [0, 1, 0, 1]
        first[0].kill(), first[0].wait()
        assert start()[1] == 0 and claimed(tmp_path / "gpus", 2) == 0
        assert claimed(tmp_path / "gpus", 2) == 0  # the next run of this process
        for process, _ in others:
            process.kill()


def devices(folder, mode, *words, monkeypatch, count):
    """trainer.devices as Lightning gets it, and as it is saved with the run."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*words, f"hydra.sweep.dir={folder}"], return_hydra_config=True)
    cfg.hydra.mode = mode
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(cfg)
    return for_lightning(cfg).trainer.devices, cfg.trainer.devices


@pytest.mark.parametrize(
    ("words", "count", "given"),
    [
        ([], 3, [1]),
        (["trainer=gpu"], 3, [1]),
        ([], 1, 1),
        ([], 0, 1),
        (["trainer=cpu"], 3, 1),
        (["trainer.devices=2"], 3, 2),
        (["trainer.devices=[2]"], 3, [2]),
        (["trainer=ddp"], 3, "auto"),
    ],
)
def test_a_run_of_a_sweep_has_a_gpu_of_its_own(tmp_path, monkeypatch, words, count, given):
    taken = tmp_path / ".gpus"
    monkeypatch.setattr("cvae.training.gpus.lock", lambda file: file.parent == taken and not file.name.endswith("_0_0"))
    found, saved = devices(tmp_path, RunMode.MULTIRUN, *words, monkeypatch=monkeypatch, count=count)
    assert found == given and (saved == 1 if given == [1] else saved == given)  # another machine may have one GPU


def test_a_run_alone_has_the_first(tmp_path, monkeypatch):
    assert devices(tmp_path, RunMode.RUN, monkeypatch=monkeypatch, count=3) == (1, 1)
    assert not (tmp_path / ".gpus").exists()
