"""The names in a run directory, which are a contract, and what is wrong with one."""

import json
import os
import shutil
import socket
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

import cvae.runs.directory
from cvae import __version__
from cvae.errors import UserError
from cvae.runs.directory import Run, first_process


def test_names(tmp_path):
    run = Run(tmp_path)
    names = {
        run.config_file: ".hydra/config.yaml", run.overrides_file: ".hydra/overrides.yaml",
        run.hydra_file: ".hydra/hydra.yaml",
        run.checkpoints: "checkpoints", run.events("test"): "test",
        run.metrics: "metrics.json", run.gif: "cvae.gif", run.scatter: "latent_scatter.png", run.samples: "samples.png",
        run.image("original"): "images/original.png", run.image("sample", 3): "images/sample_0003.png",
        run.log_file: "train.log", run.status_file: "status.json", run.lock_file: ".lock",
        run.groups: "latent_groups.png",
        run.manifold(): "latent_manifold.png", run.manifold(0): "latent_manifold_0.png", run.evaluations: "evaluation",
    }  # fmt: skip
    for path, name in names.items():
        assert path == tmp_path / name
    assert str(run) == str(tmp_path) and run.events() == tmp_path


def test_event_files_of_all_folders(tmp_path):
    run, names = Run(tmp_path), ("events.out.tfevents.2.a", "events.out.tfevents.1.b", "other")
    for folder in (tmp_path, *(tmp_path / split for split in ("train", "validation", "test", "images"))):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).touch()
    assert [str(file.relative_to(tmp_path)) for file in run.event_files()] == [
        f"{folder}{name}" for folder in ("", "train/", "validation/", "test/") for name in (names[1], names[0])
    ]


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
        ("- 1", "config.yaml: this is not the config of a run: it has no keys"),
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
    code = "import sys, cvae.runs.directory; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_training_begins_without_the_half_of_a_checkpoint_that_a_killed_one_left(tmp_path, monkeypatch):
    """What another process may be about to save in the folders beside stays, and all while another run writes."""
    run, left = Run(tmp_path / "run"), []
    for folder in (run.checkpoints, run.evaluations):
        folder.mkdir(parents=True)
        left += [folder / ".last.ckpt.1a2b3c4d.part", folder / "last.ckpt"]
        for file in left[-2:]:
            file.write_text("")
    monkeypatch.setattr(cvae.runs.directory, "lock", lambda file: False)
    with pytest.raises(UserError):
        run.claim()
    assert all(file.exists() for file in left)
    monkeypatch.setattr(cvae.runs.directory, "lock", lambda file: True)
    run.claim()
    assert [file.exists() for file in left] == [False, True, True, True]


def test_a_claimed_folder_is_another_runs(tmp_path, monkeypatch):
    run = Run(tmp_path / "deep" / "run")
    assert not run.locked()
    run.claim()
    run.claim()  # it is ours
    assert run.locked() and [file.name for file in run.path.iterdir()] == [".lock"]
    run.release()
    assert not run.locked()
    monkeypatch.setattr(cvae.runs.directory, "lock", lambda file: file != run.lock_file)
    for start in (run.claim, run.writing().__enter__):
        with pytest.raises(UserError, match="run is being written by another run$"):
            start()
    assert not run.status_file.exists()


def test_the_state_of_a_run_that_goes_well(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    run = Run(tmp_path)
    with run.writing():
        assert run.state() == "running" and run.locked()
        during = json.loads(run.status_file.read_text())
    assert not run.locked()
    assert list(during) == ["state", "reason", "started", "host", "pid", "version"]
    assert during | {"state": "", "started": ""} == {
        "state": "", "reason": "", "started": "", "host": socket.gethostname(), "pid": os.getpid(),
        "version": __version__,
    }  # fmt: skip
    status = run.status()
    started = status.pop("started")
    assert run.state() == status.pop("state") == "finished" and started == during["started"]
    ended = datetime.fromisoformat(status.pop("ended"))
    assert datetime.fromisoformat(started) <= ended <= datetime.now().astimezone()
    assert datetime.now().astimezone() - ended < timedelta(seconds=60) and ended.microsecond == 0
    assert status == {name: during[name] for name in ("reason", "host", "pid", "version")}


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UserError("a full disk"), "failed", "a full disk"),
        (KeyError("a"), "failed", "KeyError: 'a'"),
        (KeyboardInterrupt(), "interrupted", "by a signal"),
        (SystemExit(143), "interrupted", "by a signal"),
    ],
)
def test_the_state_of_a_run_that_does_not(tmp_path, monkeypatch, error, state, reason):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    run = Run(tmp_path)
    with pytest.raises(type(error)), run.writing():
        raise error
    status = run.status()
    assert (status["state"], status["reason"], status["slurm_job"]) == (state, reason, "77") and "ended" in status
    assert run.state() == state and not run.locked()


def test_on_a_full_disk_the_status_has_room_where_it_was(tmp_path, monkeypatch):
    run, full = Run(tmp_path), OSError("no space")

    def broken(*_):
        raise full

    with pytest.raises(UserError, match="first"), run.writing():
        written = run.status_file.stat().st_ino
        run.status_file.write_text(" " * 999)  # longer than what comes
        monkeypatch.setattr(cvae.runs.directory, "save", broken)
        raise UserError("first")
    assert (run.state(), run.status()["reason"]) == ("failed", "first") and not run.locked()
    assert run.status_file.stat().st_ino == written
    run.status_file.unlink()
    with pytest.raises(OSError, match="no space"), run.writing():
        pass
    assert not run.locked() and run.state() == "interrupted"


def test_a_deleted_folder_is_not_made_again(tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match="first"), run.writing():
        shutil.rmtree(run.path)
        raise UserError("first")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed(tmp_path):
    run = Run(tmp_path)
    run.save_status("running", pid=1)
    assert run.status() == {"state": "interrupted", "reason": "killed", "pid": 1}
    run.claim()
    assert run.status() == {"state": "running", "reason": "", "pid": 1}
    run.release()


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"state": "odd"}', '{"state": []}'])
def test_a_run_without_a_status_is_finished_where_it_has_figures(tmp_path, text):
    run = Run(tmp_path)
    if text is not None:
        run.status_file.write_text(text)
    assert run.status() == {"state": "interrupted", "reason": ""}
    run.save_metrics({})
    assert run.status() == {"state": "finished", "reason": ""} and run.state() == "finished"


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_the_first_process_of_several(monkeypatch, name):
    for other in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(other, raising=False)
    assert first_process()
    monkeypatch.setenv(name, "0")
    assert first_process()
    monkeypatch.setenv(name, "1")
    assert not first_process()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, []),
        ("- a.b=1\n- c=[2,3]\n", ["a.b=1", "c=[2,3]"]),
        ("a: [1", []),
        (b"\xff\xfe\xff", []),
        ("- ${", ["${"]),
    ],
)
def test_the_words_that_a_run_was_started_with(tmp_path, text, words):
    run = Run(tmp_path)
    if text is not None:
        run.overrides_file.parent.mkdir()
        run.overrides_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run.overrides() == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- seed=${oc.env:HOME}\n- 3\n", ["seed=${oc.env:HOME}", "3"]),
        ("- &a [1]\n- *a\n", []),
        ("- !!python/object/apply:os.getcwd []\n", []),
        ("a: 1", []),
        ("3", []),
        ("[" * 2000, []),
    ],
)
def test_words_of_somebody_else_are_text(tmp_path, text, words):
    """Nothing is resolved, made or multiplied."""
    run = Run(tmp_path)
    run.overrides_file.parent.mkdir()
    run.overrides_file.write_text(text)
    assert run.overrides() == words
