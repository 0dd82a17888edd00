"""cvae.train, open_run and find_runs: as from the command line, and this process is left as it was."""

import base64
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from conftest import config
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import cvae
from cvae.__main__ import main
from cvae.api import Runs, TrainedRun
from cvae.cli.compose import for_own_images
from cvae.errors import ConfigError, DataError, Stopped, UserError
from cvae.runtime import console as terminal
from cvae.training.train import train as train_by_config

SMALL = ("trainer=cpu", "trainer.max_epochs=1", "evaluation.samples=0", "callbacks.pictures.manifold_steps=2")
DIGITS = ("data=synthetic", "data.source.train_size=40", "data.source.test_size=12", "model.filters=4")
ARRAY = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_trains_as_the_command_line_does(tmp_path):
    run = cvae.train(*DIGITS, *SMALL, "seed=3")
    cfg = config(*DIGITS, *SMALL, "seed=3", f"run_dir={tmp_path / 'other'}")
    bound = train_by_config(cfg)
    assert run.metrics == json.loads((run.path / "metrics.json").read_text()) and run.metrics["test/bound"] == bound
    assert run.path.parent == tmp_path / "outputs" / "tf_tutorial" and "seed=3" in run.path.name
    assert run.state == "finished" and (run.path / ".hydra" / "overrides.yaml").is_file()
    assert "Test ELBO" in (run.path / "train.log").read_text()
    other = cvae.load(tmp_path / "other")
    assert all(map(torch.equal, run.vae.parameters(), other.parameters())) and not run.vae.training
    assert len(run.data.train) == 40 and run.config.seed == 3
    assert f"{run.metrics['test/elbo']:.2f} nats" in repr(run)


def test_this_process_is_left_as_it_was(tmp_path):
    root, own = logging.getLogger(), logging.NullHandler()
    root.addHandler(own)
    level, handlers = root.level, root.handlers[:]
    hydra, before = object(), HydraConfig.instance().cfg
    GlobalHydra.instance().hydra = hydra  # one that is in use, as by hydra.initialize in a notebook
    try:
        with pytest.raises(UserError):
            cvae.train("model.latent_dim=-1")
        assert (root.level, root.handlers) == (level, handlers)
        assert GlobalHydra.instance().hydra is hydra and HydraConfig.instance().cfg is before
    finally:
        GlobalHydra.instance().hydra = None
        root.removeHandler(own)


def test_an_array_is_saved_in_the_run_and_found_there_wherever_it_is(tmp_path):
    labels = np.arange(30) % 3
    run = cvae.train(*SMALL, "model.width=8", data=ARRAY, labels=labels)
    assert run.path.parent.name == "own_images" and run.config.data.binarization == "none"
    with np.load(run.path / "data.npz") as arrays:
        assert (arrays["x"] == ARRAY).all() and (arrays["y"] == labels).all()
    moved = shutil.move(run.path, tmp_path / "moved")
    main(["encode", str(moved), "--split", "test", "--out", "latents.npz"])  # as a stranger's run
    with np.load("latents.npz") as found:
        assert len(found["latents"]) == 2  # of 30, by the hash of their numbers
    again = cvae.train(f"resume={moved}", "trainer.max_epochs=2")
    assert again.metrics["epochs"] == 2 and again.path == tmp_path / "moved"
    levels = torch.cat([again.data.train.images.x, again.data.test.images.x])
    assert sorted(map(torch.Tensor.sum, levels)) == sorted(map(torch.Tensor.sum, torch.from_numpy(ARRAY)))


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["modle=conv"], {}, r"^there is no key modle\. Did you mean model\?"),
        (["model=transformer"], {}, "Available options in 'model'"),
        (["model.latent_dim=-1"], {}, "^model.latent_dim=-1: must be a positive integer$"),
        (["-m", "seed=1,2"], {}, "^-m: cvae.train makes one run; a sweep is a loop around it$"),
        (["run_dir=x"], {}, "^run_dir=x: must be left as it is"),
        (["resume=nowhere"], {}, "^nowhere is not a run directory"),
        (["data=mnist"], {"data": ARRAY}, "^data=mnist: data= is an array here"),
        (["data.root=x"], {"data": ARRAY}, "^data.root=x: data= is an array here"),
        ([], {"labels": [1]}, "^labels=an array: must be given with data alone$"),
        ([], {"config_dir": "nowhere"}, "^config_dir=nowhere: there is no such folder$"),
        (SMALL, {"data": ARRAY[:, 0, 0]}, r"x is \(30, 3\); it must be \(N, H, W\) or \(N, H, W, C\), N above 0"),
        (SMALL, {"data": ARRAY.astype(float)}, "floats must be in .0, 1.: divide grey levels by 255"),
    ],
)
def test_what_is_wrong_is_raised_in_a_line(words, more, said):
    with pytest.raises(UserError, match=said) as error:
        cvae.train(*words, **more)
    assert "\n" not in str(error.value) or "Available" in str(error.value)


def test_the_kind_of_an_error_is_kept():
    with pytest.raises(ConfigError):
        cvae.train("model.latent_dim=-1")
    with pytest.raises(DataError):
        cvae.train("data=npz", "data.root=nowhere.npz")


def test_parts_of_ones_own(tmp_path):
    own = tmp_path / "mine" / "prior"
    own.mkdir(parents=True)
    (own / "wide.yaml").write_text("_target_: api_parts.Wide")
    (tmp_path / "mine" / "api_parts.py").write_text(
        "from cvae.priors import StandardNormal\nclass Wide(StandardNormal): pass\n"
    )
    run = cvae.train("prior=wide", *DIGITS, *SMALL, config_dir="mine")
    assert type(run.vae.prior).__name__ == "Wide"  # what was trained here is trusted
    with pytest.raises(UserError, match="api_parts.Wide"):
        cvae.open_run(run.path).vae  # noqa: B018


def test_an_interrupted_training_says_how_to_go_on(monkeypatch):
    def stopped(cfg):
        raise Stopped(2, " after step 7", after_step=True)

    monkeypatch.setattr("cvae.training.train.train", stopped)
    with pytest.raises(KeyboardInterrupt, match="^Stopped by SIGINT after step 7$"):
        cvae.train()


def test_figures_are_of_the_checkpoint_and_settings_that_are_asked_for(monkeypatch):
    run = cvae.train(*DIGITS, *SMALL)
    asked = []

    def into_run(vae, data, files, settings, checkpoint, step, weights):
        asked.append((data is run.data, files.path == run.path, settings.samples, settings.images, checkpoint, step))
        assert weights == "raw"
        return {}

    monkeypatch.setattr("cvae.commands.evaluate.into_run", into_run)
    run.evaluate(samples=7, images=5)
    run.evaluate(checkpoint="best")
    assert asked == [(True, True, 7, 5, "last.ckpt", 2), (True, True, 5000, None, "best.ckpt", 2)]
    with pytest.raises(ConfigError, match="samples=0"):
        run.evaluate(samples=0)


def test_a_notebook_shows_figures_and_pictures_of_a_run(tmp_path):
    (tmp_path / "a<b" / ".hydra").mkdir(parents=True)
    folder = tmp_path / "a<b"
    (folder / "metrics.json").write_text(json.dumps({"test/elbo": -1.234, "train/elbo": -2.5}))
    (folder / "latent_scatter.png").write_bytes(b"scatter")
    (folder / "cvae.gif").write_bytes(b"frames")
    shown = TrainedRun(folder)._repr_html_()
    assert "a&lt;b" in shown and "finished" in shown and "<td>test/elbo</td><td>-1.23</td>" in shown
    assert "-2.5" not in shown
    for kind, content in (("png", b"scatter"), ("gif", b"frames")):
        assert f"data:image/{kind};base64,{base64.b64encode(content).decode()}" in shown
    assert list(TrainedRun(folder).images) == ["cvae", "latent_scatter"]


def test_many_runs(tmp_path):
    runs = [cvae.train(*DIGITS, *SMALL, f"model.latent_dim={dim}", f"hydra.run.dir=all/{dim}") for dim in (2, 3)]
    found = cvae.find_runs("all")
    assert isinstance(found, Runs) and [run.path.name for run in found] == ["2", "3"]
    table = found.table(sort="latent_dim")
    for run in runs:
        assert f"{run.metrics['test/elbo']:.2f}" in table
    assert table._repr_markdown_() == str(table) and "\n| " in table
    with pytest.raises(UserError, match="^--sort nothing: must be a column"):
        found.table(sort="nothing")
    with pytest.raises(UserError, match="^nowhere: there is no run"):
        cvae.find_runs("nowhere")


def test_what_the_package_says_that_it_has():
    assert dir(cvae) == cvae.__all__ and all(callable(getattr(cvae, name)) for name in cvae.__all__ if name[0] != "_")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        cvae.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["data=npz"], True), (["data=image_folder", "seed=1"], True), (["data=npz", "experiment=cifar10"], False),
        (["data=mnist"], False), ([], False), (["data=npz,mnist"], False), (["data.root=npz"], False),
    ],
)  # fmt: skip
def test_own_images_have_an_experiment_of_their_own(words, chosen):
    assert for_own_images(words) == words + ["experiment=own_images"] * chosen


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("/a/train.py", "python train.py resume='my run'"),
        ("cvae train", "cvae train resume='my run'"),
        ("python -m cvae train", "python -m cvae train resume='my run'"),
        ("/a/ipykernel_launcher.py", 'cvae.train("resume=my run")'),
    ],
)
def test_how_to_resume_is_said_as_the_run_was_started(monkeypatch, program, said):
    monkeypatch.setattr("sys.argv", [program])
    assert terminal.how_to_resume("my run") == said


def test_the_bar_of_a_notebook_is_text_that_is_replaced(monkeypatch):
    import sys
    from types import SimpleNamespace

    from rich.console import Console
    from rich.progress import TextColumn

    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=lambda *_, **__: handle))
    monkeypatch.setattr(terminal, "console", Console(width=60, force_jupyter=True))
    now = [0.0]
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with terminal.progress_bar(TextColumn("{task.completed} of {task.total}")) as bar:
        task = bar.add_task("", total=3)
        bar.advance(task)  # too soon for another picture
        now[0] = 0.6
        bar.advance(task)
        bar.advance(task)
    assert shown == ["", "0 of 3", "2 of 3", "3 of 3"]
