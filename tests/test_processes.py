"""What takes several processes or several runs of train.py: slow, run by .ci/run."""

import json
import time
from pathlib import Path

import pytest
import torch
from command_line import command, train_py
from omegaconf import OmegaConf

import cvae
from cvae.build import make
from cvae.data import ImageDataset
from cvae.runs.directory import Run

pytestmark = pytest.mark.slow

SMALL = [
    "data=synthetic",
    "data.source.train_size=40",
    "model.filters=4",
    "trainer.max_epochs=1",
    "evaluation.samples=2",
]


def test_two_processes_are_one_run_and_count_each_image_once(tmp_path):
    """33 test images over 2 processes: a sampler that evens out the shares would count one of them twice."""
    done = train_py(
        *SMALL,
        *TWO,
        "data.source.test_size=33",
        "objective.kl=closed_form",
        "hydra.run.dir=run",
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Epoch 1: test ELBO") == 1  # the first process speaks for both
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [file.name for file in (tmp_path / "run").glob("*.log")] == ["train.log"]
    assert Run(tmp_path / "run").state() == "finished"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 1  # 40 images, 20 a process, in one batch of up to 32

    vae = cvae.load(tmp_path / "run")
    data = make(OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml"), "data")
    data.setup()
    assert isinstance(data.test, ImageDataset) and len(data.test) == 33
    q = vae.encode(data.as_seen(data.test.__getitems__(list(range(33))))[0])
    rate = torch.distributions.kl_divergence(q, vae.p_z()).mean().item()
    assert metrics["test/rate"] == pytest.approx(rate, rel=1e-5)


TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def test_two_processes_begin_with_the_weights_of_another_run(tmp_path):
    first = train_py(*SMALL, "trainer=cpu", "hydra.run.dir='first, seed=0'", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    words = [*SMALL, *TWO, "init=first, seed=0", "optimizer.lr=1e-30", "seed=1", "hydra.run.dir=run"]
    done = train_py(*words, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("init: 14 of 14 tensors") == 1, done.stderr
    before, after = (cvae.load(tmp_path / name).state_dict() for name in ("first, seed=0", "run"))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_sweep_of_two_processes_each(tmp_path):
    done = train_py("-m", *SMALL, *TWO, "model.latent_dim=2,0,3", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("Error: model.latent_dim=0: must be") == 1
    for name in ("0_latent_dim=2", "2_latent_dim=3"):
        run = Run(tmp_path / "sweep" / name)
        assert run.state() == "finished" and run.log_file.read_text().count("Epoch 1: test ELBO") == 1
        assert run.manifold().exists() == ("=2" in name) and [file.name for file in run.path.glob("*.log")] == [
            "train.log"
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@pytest.mark.parametrize(
    ("victim", "how"), [("other", "kill"), ("first", "kill"), ("other", "error"), ("first", "error")]
)
def test_a_process_that_dies_takes_the_others_with_it(tmp_path, victim, how):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "trouble.py").write_text(TROUBLE)
    own = ["--config-dir", "own", "+callbacks.trouble._target_=trouble.Trouble", f"+callbacks.trouble.how={how}"]
    words = [*own, f"+callbacks.trouble.rank={int(victim == 'other')}", "trainer.max_epochs=9", "hydra.run.dir=run"]
    done = train_py(*words, *SMALL[:3], *TWO, "~callbacks.pictures", cwd=tmp_path)
    assert done.returncode == (-9 if (victim, how) == ("first", "kill") else 1)
    others = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    for _ in range(600):
        alive = [pid for pid in others if Path(f"/proc/{pid}").exists()]
        time.sleep(0.1 if alive else 0)
    assert not alive
    run = Run(tmp_path / "run")
    if done.returncode == -9:
        assert run.status()["reason"] == "killed" and "Traceback" not in done.stderr
    elif victim == "first":
        assert run.status()["reason"] == "trouble of process 0" and done.stderr.count("Error: ") == 1
    elif how == "kill":
        assert "Traceback" not in done.stderr and done.stderr.count("Error: ") == 1
        assert run.status()["reason"] == "process 1 (the first is 0) was killed by SIGKILL, so the run ends"
    else:
        said = ["process 1: Error: trouble of process 1", "process 1 (the first is 0) ended with exit code 1"]
        assert all(text in done.stderr and text in run.log_file.read_text() for text in said)
        assert "Traceback" not in done.stderr and run.state() == "failed"
    assert (run.checkpoints / "last.ckpt").exists()


TROUBLE = """
import os
from pytorch_lightning import Callback
from cvae.errors import UserError

class Trouble(Callback):
    def __init__(self, rank, how):
        self.rank, self.how = rank, how

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 0:
            with open("pids", "a") as file:
                file.write(f"{os.getpid()} ")
        if trainer.current_epoch == 2 and trainer.global_rank == self.rank:
            if self.how == "kill":
                os.kill(os.getpid(), 9)
            raise UserError(f"trouble of process {self.rank}")
"""


def test_a_sweep_runs_each(tmp_path):
    done = train_py("-m", *SMALL, "trainer=cpu", "model.latent_dim=2,8", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number, latent_dim in enumerate((2, 8)):
        run = tmp_path / "sweep" / f"{number}_latent_dim={latent_dim}"
        assert cvae.load(run).p_z().event_shape == (latent_dim,)
        assert (run / "metrics.json").exists() and (run / "latent_manifold.png").exists() == (latent_dim == 2)


def test_evaluate_and_sample_a_run(tmp_path):
    done = train_py(*SMALL, "trainer=cpu", "conditional=true", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("-m", "cvae", "evaluate", "run", "--samples", "20", cwd=tmp_path)
    assert done.returncode == 0 and "-log p(x)" in done.stdout, done.stderr
    figures = json.loads((tmp_path / "run" / "evaluation" / "last_samples=20_images=128_seed=0.json").read_text())
    assert figures["nll"]["value"] < -figures["elbo"]["value"] and figures["settings"]["samples"] == 20
    done = command("-m", "cvae", "sample", "run", "--num", "20", "--out", "few.png", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "few.png").read_bytes().startswith(b"\x89PNG"), done.stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_goes_on_where_a_run_fails(tmp_path, launcher):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", *SMALL, "trainer=cpu", "model.latent_dim=0,2,0.5", "hydra.sweep.dir=sweep"]
    done = train_py(*words, f"hydra/launcher={launcher}", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout
    for name, value in (("0_latent_dim=0", 0), ("2_latent_dim=0.5", 0.5)):
        said = f"Error: model.latent_dim={value}: must be a positive integer"
        assert done.stderr.count(said) == 1 and said in (tmp_path / "sweep" / name / "train.log").read_text()
    assert Run(tmp_path / "sweep" / "1_latent_dim=2").state() == "finished"
    assert done.stderr.splitlines()[-3:] == [
        "2 of the 3 runs in sweep did not finish:",
        "  0_latent_dim=0 (model.latent_dim=0) failed: model.latent_dim=0: must be a positive integer",
        "  2_latent_dim=0.5 (model.latent_dim=0.5) failed: model.latent_dim=0.5: must be a positive integer",
    ]
