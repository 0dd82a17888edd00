"""What takes several processes or several runs of train.py: slow, run by .ci/run."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from test_cli import command, train_py

import cvae
from cvae.build import make
from cvae.data import ImageDataset
from cvae.run import Run

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
    two = [
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "data.source.test_size=33",
        "objective.kl=closed_form",
    ]
    done = train_py(*SMALL, *two, "hydra.run.dir=run", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Epoch 1: test ELBO") == 1  # the first process speaks for both
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 1  # 40 images, 20 a process, in one batch of up to 32

    vae = cvae.load(tmp_path / "run")
    data = make(OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml"), "data")
    data.setup()
    assert isinstance(data.test, ImageDataset) and len(data.test) == 33
    q = vae.encode(data.as_seen(data.test.__getitems__(list(range(33))))[0])
    rate = torch.distributions.kl_divergence(q, vae.p_z()).mean().item()
    assert metrics["test/rate"] == pytest.approx(rate, rel=1e-5)


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
