"""Sweeps: several runs at a time, a search by Optuna, and a sweep that goes on after it was stopped."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml
from command_line import command, train_py
from conftest import ROOT, config
from hold import held
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny import TINY

from cvae.cli.hydra_callbacks import NewRunDirectory
from cvae.cli.resume import words_of_sweep
from cvae.errors import UserError
from cvae.runs.directory import Run

WORDS = [word for word in TINY if not word.startswith(("optimizer.lr", "model.latent_dim"))]
WORDS += ["trainer.max_epochs=1", "~callbacks.pictures", "~callbacks.progress"]


def test_the_words_that_go_on_with_a_sweep(tmp_path):
    words = ["-m", "seed=1,2", f"resume={tmp_path}", "trainer=cpu"]
    own = [f"hydra.sweep.dir='{tmp_path}'"]
    assert words_of_sweep(words) == [
        "-m", "seed=1,2", "trainer=cpu", *own, "+hydra.callbacks.new_run_directory.resume=true",
    ]  # fmt: skip
    for others in (["-m", "seed=1,2"], [f"resume={tmp_path}"], []):
        assert words_of_sweep(others) == others
    assert words_of_sweep(["--multirun", f"resume={tmp_path}"])[1] == own[0]
    with pytest.raises(UserError, match="nowhere is no sweep to resume"):
        words_of_sweep(["-m", "resume=nowhere"])


def multirun(*words):
    """The config of a sweep, as a callback gets it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", list(words), return_hydra_config=True)
    OmegaConf.set_readonly(cfg.hydra, True)
    return cfg


def test_only_a_sweep_that_goes_on_takes_a_folder_with_runs(tmp_path):
    (tmp_path / "0" / "checkpoints").mkdir(parents=True)
    words = [f"hydra.sweep.dir={tmp_path}"]
    NewRunDirectory(resume=True).on_multirun_start(multirun(*words))
    with pytest.raises(SystemExit, match="holds an earlier run"):
        NewRunDirectory().on_multirun_start(multirun(*words))


def test_what_a_finished_run_returned(tmp_path):
    run = Run(tmp_path)
    assert run.result() is None
    run.save_metrics({"test/bound": -3.0})
    run.save_status("finished")
    assert run.result() == -3.0
    run.save_metrics({"test/bound": -3.0, "validation/bound": -2.0})
    assert run.result() == -2.0
    run.save_status("failed")
    assert run.result() is None


def test_the_search_space_of_conf():
    pytest.importorskip("optuna")
    found = multirun("search=lr_latent_dim").hydra.sweeper
    assert found.params == {
        "optimizer.lr": "tag(log, interval(1e-4, 1e-2))", "model.latent_dim": "choice(2, 4, 8, 16, 32)",
    }  # fmt: skip
    assert (found.n_trials, found.n_jobs, found.max_failure_rate, found.sampler.seed) == (20, 1, 1.0, 0)
    assert multirun("search=lr_latent_dim").data.validation_size == 0.1 and config().data.validation_size == 0
    assert multirun("search=lr_latent_dim", "data.validation_size=7").data.validation_size == 7
    assert "search" not in config()


def test_a_bound_is_maximized(tmp_path):
    pytest.importorskip("optuna")
    cfg = multirun("hydra/sweeper=optuna", f"hydra.sweep.dir={tmp_path}")
    NewRunDirectory().on_multirun_start(cfg)
    assert cfg.hydra.sweeper.direction == "maximize"


@pytest.mark.slow
def test_six_runs_two_at_a_time_of_which_one_fails_then_compared_and_resumed(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", *WORDS, "model.latent_dim=2,3,4,5,6,0", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = train_py(*words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 1 and "1 of the 6 runs in sweep did not finish" in done.stderr + done.stdout
    compared = command("-m", "cvae", "compare", "sweep", "--csv", cwd=tmp_path, PYTHONPATH=str(ROOT))
    lines = list(csv.DictReader(compared.stdout.splitlines()))
    assert [line["model.latent_dim"] for line in lines] == ["2", "3", "4", "5", "6", "0"]
    assert [line["state"] for line in lines] == ["finished"] * 5 + ["failed"]
    assert all(float(line["ELBO"]) < 0 for line in lines[:5])

    runs = [Run(tmp_path / "sweep" / f"{number}_latent_dim={dim}") for number, dim in enumerate((2, 3, 4, 5, 6))]
    before = [run.metrics.stat().st_mtime_ns for run in runs]
    config_before = runs[0].config_file.read_bytes()
    runs[1].metrics.unlink(), runs[1].save_status("interrupted")
    done = train_py(*words, "resume=sweep", cwd=tmp_path)
    assert done.returncode == 1 and "1 of the 6 runs in sweep did not finish" in done.stderr + done.stdout
    assert [run.state() for run in runs] == ["finished"] * 5 and runs[1].metrics.exists()
    after = [run.metrics.stat().st_mtime_ns for run in runs]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True, True, True]
    assert runs[0].config_file.read_bytes() == config_before


@pytest.mark.slow
def test_a_search_by_optuna_with_a_database(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    study = ["hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=a", "hydra.sweeper.n_trials=3"]
    done = train_py("-m", *WORDS, "search=lr_latent_dim", *study, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    metrics = [json.loads(file.read_text()) for file in tmp_path.glob("sweep/*/metrics.json")]
    assert len(metrics) == 3 and best["best_value"] == max(figures["validation/bound"] for figures in metrics)
    assert set(best["best_params"]) == {"optimizer.lr", "model.latent_dim"} and (tmp_path / "study.db").exists()


def killed_after_its_first_epoch(folder, words, member, cwd, whole):
    """What a sweep said, or None, of which the process of a member, or the `whole` of it, was killed."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *words, f"hydra.sweep.dir={folder}"], cwd=cwd, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    run = next_run(cwd / folder, member, process)
    if whole:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(run.status()["pid"], signal.SIGKILL)
    (cwd / "go").touch()
    return process.communicate(timeout=600)[1], process.returncode


def next_run(sweep, member, process):
    """The run of a member, once it has a checkpoint."""
    until = time.monotonic() + 600
    while time.monotonic() < until and process.poll() is None:
        if found := list(sweep.glob(f"{member}_*/checkpoints/last.ckpt")):
            return Run(found[0].parents[1])
        time.sleep(0.05)
    raise AssertionError(f"{sweep} has no member {member}")


LONG = [*(word for word in WORDS if not word.startswith("trainer.max_epochs")), "trainer.max_epochs=4"]


@pytest.mark.slow
def test_a_process_of_joblib_that_is_killed(tmp_path):
    """One line, which says how to go on; and so it does."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", *held(tmp_path, "0_"), *LONG, "seed=1,2,3,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    said, code = killed_after_its_first_epoch("sweep", words, 0, tmp_path, whole=False)
    assert code == 1 and "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: a process of the sweep was killed")
    go_on = shlex.split(line.partition("Resume with: python train.py ")[2])
    assert go_on == [*words, "resume=sweep"]
    done = train_py(*go_on, cwd=tmp_path)
    runs = [Run(folder) for folder in sorted((tmp_path / "sweep").glob("*_seed=*"))]
    assert done.returncode == 0 and [run.state() for run in runs] == ["finished"] * 4
    assert "Goes on from" in runs[0].log_file.read_text()


@pytest.mark.slow
def test_a_search_with_a_database_that_is_killed_goes_on(tmp_path):
    """As many runs as it was to have, each once; the one that was running goes on, and no values come twice."""
    optuna = pytest.importorskip("optuna")
    words = ["-m", *held(tmp_path, "1_"), *LONG, "search=lr_latent_dim", "hydra.sweeper.storage=sqlite:///study.db"]
    words += ["hydra.sweeper.n_trials=4"]
    killed_after_its_first_epoch("sweep", words, 1, tmp_path, whole=True)
    begun = sorted(path.name for path in (tmp_path / "sweep").glob("?_*"))
    done = train_py(*words, "resume=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in (tmp_path / "sweep").glob("?_*"))
    assert runs[:2] == begun and [name[0] for name in runs] == ["0", "1", "2", "3"]
    assert len({name.partition("_")[2] for name in runs}) == 4
    assert "Goes on from" in (tmp_path / "sweep" / begun[1] / "train.log").read_text()
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")
    trials = optuna.load_study(study.study_name, f"sqlite:///{tmp_path}/study.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    results = [Run(tmp_path / "sweep" / name).result() for name in runs]
    assert [trial.value for trial in trials] == results


@pytest.mark.slow
def test_a_sweep_through_submitit_on_this_machine(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = train_py("-m", *WORDS, "seed=1", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "sweep" / "0").state() == "finished"


# What submitit calls: sbatch starts the tasks of an array, srun runs a task's command, sacct knows nothing.
SLURM = {
    "sbatch": """
        cp "$1" "$JOBS/script"
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
        for task in $(seq 0 "$last"); do
            export SLURM_ARRAY_JOB_ID=70 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$((71 + task)) SLURM_JOB_NAME=train
            export SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
            SLURM_JOB_NODELIST=node1 setsid bash "$JOBS/script" >/dev/null 2>&1 &
        done
        echo Submitted batch job 70
    """,
    "srun": """
        while [[ $1 == --* ]]; do
            [[ $1 == --unbuffered ]] && shift || shift 2  # --output FILE, --error FILE
        done
        "$@" >>"$JOBS/$SLURM_ARRAY_TASK_ID" 2>&1
    """,
    "sacct": "echo 'JobID|State|NodeList'",
}


@pytest.mark.slow
def test_a_sweep_through_slurm(tmp_path):
    """Of three runs, one of which fails. Each is a job of its own, and knows its number."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "bin").mkdir()
    for name, script in SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}")
        (tmp_path / "bin" / name).chmod(0o755)
    words = ["-m", *WORDS, "model.latent_dim=2,0,3", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=sweep"]
    words += ["hydra.launcher.partition=long", "hydra.launcher.timeout_min=7"]
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "JOBS": str(tmp_path)}
    done = train_py(*words, cwd=tmp_path, PYTHONPATH=str(ROOT), **path)
    assert done.returncode == 1 and "1 of the 3 runs in sweep did not finish" in done.stderr + done.stdout
    script = (tmp_path / "script").read_text()
    assert all(f"#SBATCH --{flag}\n" in script for flag in ("array=0-2%3", "partition=long", "time=7"))
    for task, (name, state) in enumerate([("2", "finished"), ("0", "failed"), ("3", "finished")]):
        run = Run(tmp_path / "sweep" / f"{task}_latent_dim={name}")
        assert run.state() == state and run.status()["slurm_job"] == str(71 + task)
        said = (tmp_path / str(task)).read_text()
        assert ("Error: model.latent_dim=0: must be" in said) == (state == "failed") and "Traceback" not in said
