"""The names in a run directory, which are a contract, and what is wrong with one."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from cvae.errors import UserError
from cvae.run import Run


def test_names(tmp_path):
    run = Run(tmp_path)
    names = {
        run.config_file: ".hydra/config.yaml", run.checkpoints: "checkpoints", run.tensorboard: "tensorboard",
        run.metrics: "metrics.json", run.gif: "cvae.gif", run.scatter: "latent_scatter.png", run.samples: "samples.png",
        run.image("original"): "images/original.png", run.image("sample", 3): "images/sample_0003.png",
        run.manifold(): "latent_manifold.png", run.manifold(0): "latent_manifold_0.png", run.evaluations: "evaluation",
    }  # fmt: skip
    for path, name in names.items():
        assert path == tmp_path / name
    assert str(run) == str(tmp_path)


@pytest.mark.parametrize("name", ["images", "checkpoints", "metrics.json"])
def test_a_run_began_where_it_left_something(tmp_path, name):
    (tmp_path / ".hydra").mkdir()
    assert not Run(tmp_path).began()
    (tmp_path / name).write_text("") if "." in name else (tmp_path / name).mkdir()
    assert Run(tmp_path).began()


def test_checkpoints_by_name(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(UserError, match=r"has no checkpoint best.ckpt; it has: none"):
        run.checkpoint("best")
    (run.checkpoints / "folder.ckpt").mkdir(parents=True)
    with pytest.raises(UserError, match="has no checkpoint folder.ckpt"):
        run.checkpoint("folder")
    (run.checkpoints / "folder.ckpt").rmdir()
    for name in ("last", "best"):
        (run.checkpoints / f"{name}.ckpt").write_text("")
    assert run.checkpoint("best") == run.checkpoint("best.ckpt") == tmp_path / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match=r"has no checkpoint other.ckpt; it has: best.ckpt, last.ckpt"):
        run.checkpoint("other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a run directory: it has no .hydra/config.yaml"),
        ("a: [1", "config.yaml is not valid YAML: .*line"),
        ("a: ${", "config.yaml is not valid YAML"),
        ("- 1", "config.yaml is not the config of a run: it has no keys"),
        (b"\xff\xfe\xff", "config.yaml is not valid YAML"),
    ],
)
def test_what_is_no_config(tmp_path, text, message):
    run = Run(tmp_path)
    if text is not None:
        run.config_file.parent.mkdir()
        run.config_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        run.config()


def test_the_config_knows_where_the_run_is_now(tmp_path):
    run = Run(tmp_path)
    run.save_config(OmegaConf.create({"run_dir": "${hydra:runtime.output_dir}", "seed": 3}))
    assert "${hydra:" in run.config_file.read_text()
    assert run.config() == {"run_dir": str(tmp_path), "seed": 3}


def test_metrics(tmp_path):
    Run(tmp_path).save_metrics({"test/elbo": -1.5})
    assert (tmp_path / "metrics.json").read_text() == '{\n  "test/elbo": -1.5\n}'


def test_each_set_of_settings_has_an_evaluation_of_its_own(tmp_path):
    """The same settings replace their file, others with the same name get the next number."""
    run, settings = Run(tmp_path), {"checkpoint": "best.ckpt", "samples": 5, "images": 7, "seed": 1, "memory": 1}
    name = "best_samples=5_images=7_seed=1"
    for number, (memory, nll) in enumerate([(1, 3), (2, 4), (3, 5), (2, 6)]):
        file = run.save_evaluation({"nll": nll, "settings": settings | {"memory": memory}})
        assert (
            file
            == tmp_path / "evaluation" / [f"{name}.json", f"{name}_2.json", f"{name}_3.json", f"{name}_2.json"][number]
        )
    found = {path.name: json.loads(path.read_text())["nll"] for path in run.evaluations.iterdir()}
    assert found == {f"{name}.json": 3, f"{name}_2.json": 6, f"{name}_3.json": 5}
    assert (
        (run.evaluations / f"{name}.json").read_text().startswith('{\n  "nll": 3,\n  "settings": {\n    "checkpoint"')
    )
    (run.evaluations / f"{name}.json").write_text("{}")  # of something else
    assert run.save_evaluation({"settings": settings | {"memory": 9}}).name == f"{name}_4.json"


def test_a_run_directory_needs_no_torch():
    """So that a table of hundreds of runs takes no seconds."""
    code = "import sys, cvae.run; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
