"""The command line itself, in a process of its own: what it prints and its exit code."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from command_line import command, train_py
from conftest import ROOT

from cvae.runs.directory import Run


def test_help_names_the_groups(tmp_path):
    done = train_py("--help", cwd=tmp_path)
    assert done.returncode == 0
    for line in (
        "data: ",
        "model: ",
        "posterior: ",
        "prior: ",
        "likelihood: ",
        "objective: ",
        "trainer: ",
        "experiment: ",
    ):
        assert line in done.stdout
    assert "model.filters=512" in done.stdout and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.filterz=3", "Error: there is no key model.filterz. Did you mean model.filters? model has: "),
        ("modle=conv", "Error: there is no key modle. Did you mean model?"),
        ("lr=0.1", "Error: there is no key lr. Did you mean optimizer.lr?"),
        ("optimizer.weight_decay=0.1", "A new key takes a plus: +optimizer.weight_decay=VALUE"),
        ("space", "Error: space is not KEY=VALUE. A value with spaces needs quotes around both: 'KEY="),
        ("data.root=/it's", """needs quotes within quotes: 'data.root="/it's"'"""),
        ("model=transformer", "Available options in 'model'"),
        ("experiment=nothing", "tf_tutorial"),
        ("trainer=abacus", "cpu"),
        ("logger=null", "Error: GROUP=null is no choice"),
        ("model.filters=[32", "Error: model.filters=[32 cannot be read"),
        ("data.root=${nowhere}", "Error: "),
        ("run_dir=elsewhere", "run_dir=elsewhere: must be left as it is; set hydra.run.dir"),
    ],
)
def test_misspelt_input_ends_with_one_message(tmp_path, override, said):
    done = train_py(override, cwd=tmp_path)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_sweep_over_choices_within_a_choice(tmp_path):
    small = ["data=synthetic", "data.source.train_size=8", "data.source.test_size=4", "model.filters=4", "trainer=cpu"]
    small += ["trainer.max_epochs=1", "evaluation.samples=0", "callbacks.pictures.manifold_steps=2"]
    done = train_py("-m", "objective/beta=linear,cyclical", *small, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    members = ("0_beta=linear", "1_beta=cyclical")
    configs = [(tmp_path / "sweep" / member / ".hydra" / "config.yaml").read_text() for member in members]
    assert ["schedules.Linear" in config for config in configs] == [True, False]
    assert ["schedules.Cyclical" in config for config in configs] == [False, True]


@pytest.mark.slow
def test_the_folder_of_a_run_ends_with_its_name(tmp_path):
    """Of what was typed, or by hand; of what is swept for a member of a sweep. It is refused before it trains."""
    run = train_py("model.latent_dim=0", "trainer=cpu", "data.root=/x", cwd=tmp_path)
    by_hand = train_py("model.latent_dim=0", "name=my run", "tags=[a,b]", cwd=tmp_path)
    sweep = train_py("-m", "model.latent_dim=0", "seed=1,2", "name=mine", cwd=tmp_path)
    assert run.returncode == by_hand.returncode == sweep.returncode == 1
    folders = {re.sub(r"[\d-]{10}_[\d-]{8}", "TIME", str(path.parent.relative_to(tmp_path / "outputs" / "tf_tutorial")))
               for path in tmp_path.rglob(".hydra")}  # fmt: skip
    assert folders >= {"TIME_latent_dim=0", "TIME_my-run", "multirun/TIME_mine/0_seed=1"}


@pytest.mark.slow
def test_the_folder_of_a_sweep_over_experiments(tmp_path):
    done = train_py("-m", "experiment=iwae,beta_vae", "model.latent_dim=0", "name=both", cwd=tmp_path)
    assert done.returncode == 1 and "2 of the 2 runs in outputs/multirun/" in done.stderr
    folders = [path.parent.relative_to(tmp_path).parts for path in sorted(tmp_path.rglob(".hydra"))]
    assert [(*place, name[19:], member) for *place, name, member in folders] == [
        ("outputs", "multirun", "_both", "0_experiment=iwae"),
        ("outputs", "multirun", "_both", "1_experiment=beta_vae"),
    ]


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [([], "outputs/tf_tutorial/*/"), pytest.param(["-m"], "outputs/tf_tutorial/multirun/*/0/", marks=pytest.mark.slow)],
)
def test_a_bad_value_ends_with_one_message_which_the_log_in_a_folder_of_its_own_has_too(tmp_path, arguments, folder):
    done = train_py(*arguments, "model.latent_dim=0", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = "Error: model.latent_dim=0: must be a positive integer"
    (log,), (_,) = tmp_path.glob(f"{folder}/train.log"), tmp_path.glob(f"{folder}/.hydra/config.yaml")
    assert said in done.stderr and said in log.read_text()


@pytest.mark.parametrize(
    ("given", "then"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_do_not_wait_long_for_each_other_unless_told_to(tmp_path, given, then):
    """Set by both commands before torch, which reads it once, is there."""
    for entry in ("import runpy; runpy.run_path(sys.argv[1])", "import cvae.__main__"):
        code = f"import os, sys; {entry}; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
        done = command("-c", code, ROOT / "train.py", cwd=tmp_path, **given)
        assert done.stdout.split() == [then, "False"], done.stderr


def test_a_stack_trace_for_who_asks(tmp_path):
    done = train_py("model.filterz=3", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_earlier_run_is_not_written_over(tmp_path):
    config = tmp_path / "run" / ".hydra" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("seed: 1")
    (tmp_path / "run" / "checkpoints").mkdir()
    for arguments in (["hydra.run.dir=run"], ["-m", "seed=1,2", "hydra.sweep.dir=run"]):
        done = train_py(*arguments, cwd=tmp_path)
        assert done.returncode == 1 and "holds an earlier run" in done.stderr
    assert config.read_text() == "seed: 1" and len(list((tmp_path / "run").iterdir())) == 2


def test_a_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = train_py("hydra.run.dir=file/run", cwd=tmp_path)
    assert done.returncode == 1 and "hydra.run.dir=file/run: must be a folder that can be written" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [["hydra.run.dir"], ["-m", "hydra.sweep.dir"]])
def test_of_runs_that_start_in_the_same_second_each_has_a_folder(tmp_path, kind):
    *multirun, key = kind
    words = [*multirun, f"{key}=runs/${{now:noon}}", "model.latent_dim=0"]  # a time that is always the same
    with ThreadPoolExecutor() as together:
        runs = list(together.map(lambda _: train_py(*words, cwd=tmp_path), range(3)))
    assert [run.returncode for run in runs] == [1, 1, 1] and all("latent_dim=0: must" in run.stderr for run in runs)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"noon", "noon_2", "noon_3"}
    for name in ("noon", "noon_2", "noon_3"):
        run = Run(tmp_path / "runs" / name / ("0" if multirun else ""))
        assert run.status()["reason"] == "model.latent_dim=0: must be a positive integer"
        assert run.state() == "failed"
