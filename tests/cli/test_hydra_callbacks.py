"""What is around the runs that Hydra starts: which folder each gets, what happens to those that fail."""

import logging
import re
from contextlib import suppress

import pytest
from conftest import ROOT, get_object
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from cvae.cli import hydra_callbacks
from cvae.cli.hydra_callbacks import Failures, NameBySwept, NewRunDirectory, save_config, unfinished
from cvae.errors import UserError
from cvae.runs.directory import Run
from cvae.runtime import console


@pytest.fixture
def environment(monkeypatch):
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS", "RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "")  # so that it is put back at the end
        monkeypatch.delenv(name)
    return monkeypatch


class Hydra:
    """Hydra's config, which the folder's name may refer to."""

    def __init__(self, monkeypatch):
        self.given = []
        monkeypatch.setattr(hydra_callbacks.HydraConfig, "instance", lambda: self)

    def set_config(self, cfg):
        self.given.append(cfg)


def job(folder, run_dir="${hydra:runtime.output_dir}"):
    hydra = {
        "run": {"dir": str(folder)},
        "sweep": {"dir": str(folder)},
        "overrides": {"hydra": []},
        "sweeper": {},
    }
    return OmegaConf.create({"run_dir": run_dir, "hydra": hydra})


@pytest.mark.parametrize(
    ("start", "key"), [("on_run_start", "hydra.run.dir"), ("on_multirun_start", "hydra.sweep.dir")]
)
def test_a_new_folder_is_made_and_one_of_an_earlier_run_refused(tmp_path, environment, start, key):
    environment.delenv("LOCAL_RANK", raising=False)
    hydra, folder = Hydra(environment), tmp_path / "deep" / "run"
    called = getattr(NewRunDirectory(), start)
    cfg = job(folder)
    called(cfg, job_name="more")
    assert folder.is_dir() and len(hydra.given) == 1 and hydra.given[0] is cfg
    assert Run(folder).locked()
    called(job(folder))  # it is there, and empty
    (folder / "file").write_text("")
    (folder / "0").mkdir()
    called(job(folder))  # as a run that was refused leaves it
    (folder / "0" / "metrics.json").write_text("")  # a member of a sweep
    said = f"Error: {key}={folder}: must be a new folder; it holds an earlier run (finished)"
    with pytest.raises(SystemExit, match=f"^{re.escape(said)}$"):
        called(job(folder))
    (folder / "0" / "metrics.json").unlink()
    (folder / "images").mkdir()
    with pytest.raises(SystemExit, match="holds an earlier run"):
        called(job(folder))
    said = f"^Error: run_dir=mine: must be left as it is; set {key} to choose the folder$"
    with pytest.raises(SystemExit, match=said):
        called(job(folder, "mine"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=f"^Error: {key}=.*file/run: must be a folder that can be written: .*"):
        called(job(tmp_path / "file" / "run"))


def test_the_other_processes_of_a_run_use_the_folder_of_the_first(tmp_path, environment):
    """They write no config, and cannot know a folder that is named after the time."""
    Hydra(environment)
    (tmp_path / "images").mkdir()
    environment.setenv("NODE_RANK", "1")
    NewRunDirectory().on_run_start(cfg := job(tmp_path))
    save_config(Run(tmp_path), cfg)
    assert list(tmp_path.iterdir()) == [tmp_path / "images"]
    said = "^Error: hydra.run.dir: must be named, the same for all processes of the run$"
    with pytest.raises(SystemExit, match=said):
        NewRunDirectory().on_run_start(job(f"{tmp_path}/${{now:%S}}"))
    assert list(tmp_path.iterdir()) == [tmp_path / "images"]
    assert not Run(tmp_path).locked()
    environment.setenv("NODE_RANK", "0")
    with pytest.raises(SystemExit):
        NewRunDirectory().on_run_start(job(tmp_path))


@pytest.mark.parametrize(("start", "kind"), [("on_run_start", "run"), ("on_multirun_start", "sweep")])
def test_of_two_starts_in_the_same_second_one_gets_another_name(tmp_path, environment, start, kind):
    OmegaConf.register_new_resolver("now", lambda pattern: f"noon{pattern}", replace=True)
    Hydra(environment)
    for name in ("noon%S", "noon%S_2", "noon%S_3"):
        cfg = job(f"{tmp_path}/it's/${{now:%S}}")
        getattr(NewRunDirectory(), start)(cfg)
        folder = tmp_path / "it's" / name
        assert cfg.hydra[kind].dir == str(folder) and Run(folder).locked()
        # Hydra composes the config of each member anew, from these words.
        words = [rf"hydra.sweep.dir='{tmp_path}/it\'s/{name}'"] if kind == "sweep" else []
        assert cfg.hydra.overrides.hydra == words
    folders = sorted((tmp_path / "it's").iterdir())
    assert [(folder.name, [file.name for file in folder.iterdir()]) for folder in folders] == [
        ("noon%S", [".lock"]), ("noon%S_2", [".lock"]), ("noon%S_3", [".lock"]),
    ]  # fmt: skip


def test_a_folder_that_another_run_has_claimed(tmp_path, environment):
    """It may have written nothing yet."""
    Hydra(environment)
    environment.setattr("cvae.runs.directory.lock", lambda file: file != tmp_path / ".lock")
    said = f"Error: hydra.run.dir={tmp_path}: must be a new folder; {tmp_path} is being written by another run"
    with pytest.raises(SystemExit, match=f"^{said}$"):
        NewRunDirectory().on_run_start(job(tmp_path))


@pytest.mark.parametrize("sweeper", [{}, {"direction": "minimize"}])
def test_a_search_looks_for_the_highest_bound(tmp_path, environment, sweeper):
    """Optuna's sweeper has a direction, Hydra's own has none."""
    Hydra(environment)
    cfg = job(tmp_path)
    cfg.hydra.sweeper = sweeper
    NewRunDirectory().on_multirun_start(cfg)
    assert cfg.hydra.sweeper == ({"direction": "maximize"} if sweeper else {})


def test_what_a_run_was_started_with_is_written_until_it_has_begun(tmp_path, environment):
    environment.setattr(hydra_callbacks.HydraConfig.instance(), "cfg", None)
    run = Run(tmp_path)
    for seed, words in ((1, ["seed=1"]), (2, ["seed=2"]), (3, ["seed=3"])):
        hydra = OmegaConf.create({"hydra": {"overrides": {"task": words}, "runtime": {"choices": {"prior": "vamp"}}}})
        hydra_callbacks.HydraConfig.instance().cfg = hydra
        save_config(run, OmegaConf.create({"seed": seed, "run_dir": "here"}))
        if seed == 2:  # the first was refused, say
            run.images.mkdir()
    assert run.overrides() == ["seed=2"] and run.config() == {"seed": 2, "run_dir": str(tmp_path)}
    assert OmegaConf.load(run.hydra_file).hydra.runtime.choices == {"prior": "vamp"} and not list(
        tmp_path.rglob("*.part")
    )


@pytest.mark.parametrize("writes", range(4))
def test_a_process_that_is_killed_while_it_writes_leaves_no_half_of_a_config(tmp_path, environment, writes):
    """After so many files; the config comes last, and with it the folder is a run."""

    def kill(descriptor, left=[writes]):  # noqa: B006
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    hydra = OmegaConf.create({"hydra": {"overrides": {"task": ["seed=1"]}}})
    environment.setattr(hydra_callbacks.HydraConfig.instance(), "cfg", hydra)
    environment.setattr("cvae.runs.storage.os.fsync", kill)  # when all is written, and has no name yet
    run = Run(tmp_path)
    with suppress(KeyboardInterrupt):
        save_config(run, OmegaConf.create({"seed": 1}))
    there = [file.exists() for file in (run.overrides_file, run.hydra_file, run.config_file)]
    assert there == [writes > 0, writes > 1, writes > 2]
    environment.setattr("cvae.runs.storage.os.fsync", lambda descriptor: None)
    save_config(run, OmegaConf.create({"seed": 2}))  # as the next start does
    assert run.config() == {"seed": 2, "run_dir": str(tmp_path)} and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["a\nb", "a${b}", "a\x1b]0;b\x07", "a\udcff", "a\u202eb"])
@pytest.mark.parametrize(("start", "kind"), [("on_run_start", "run"), ("on_multirun_start", "sweep")])
def test_a_name_that_no_command_could_open_is_refused(tmp_path, environment, start, kind, name):
    Hydra(environment)
    cfg = job(tmp_path)
    cfg.hydra[kind].dir = f"{tmp_path}/{name}".replace("${", "\\${")
    said = f"Error: hydra.{kind}.dir={f'{tmp_path}/{name}'!r}: must be a name, as those of the folders above it, that"
    with pytest.raises(SystemExit, match=f"^{re.escape(said)} can be printed and has no "):
        getattr(NewRunDirectory(), start)(cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "said"), [(0, True), (0.1, False), (100, False)])
def test_a_search_says_that_it_chooses_by_the_test_images(tmp_path, environment, caplog, size, said):
    Hydra(environment)
    cfg = job(tmp_path)
    cfg.hydra.sweeper, cfg.data = {"direction": "minimize"}, {"validation_size": size}
    NewRunDirectory().on_multirun_start(cfg)
    assert ("The search chooses by the test images" in caplog.text) == said


def test_the_run_directory_of_a_config_is_new_by_hydras_callback():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [], return_hydra_config=True)
    assert get_object(cfg.hydra.callbacks.new_run_directory._target_) is NewRunDirectory
    assert get_object(cfg.hydra.callbacks.failures._target_) is Failures
    raw = OmegaConf.to_container(cfg)
    assert raw["run_dir"] == "${hydra:runtime.output_dir}"
    place = "outputs/${hydra:runtime.choices.experiment}/${now:%Y-%m-%d_%H-%M-%S}"
    assert raw["hydra"]["run"]["dir"].startswith(place) and raw["hydra"]["sweep"]["subdir"].startswith(
        "${hydra:job.num}"
    )
    file = raw["hydra"]["job_logging"]["handlers"]["file"]
    assert file["filename"] == "${hydra.runtime.output_dir}/${hydra.job.name}.log"
    for log in (cfg.hydra.job_logging, cfg.hydra.hydra_logging):
        assert get_object(log.handlers.console["class"]) is console.ConsoleHandler
        assert log.root.level == "INFO" and "console" in log.root.handlers and log.disable_existing_loggers is False
    assert cfg.hydra.job_logging.root.handlers == ["console", "file"]
    assert isinstance(cfg, DictConfig)


def ended(value, status=JobStatus.FAILED):
    job = JobReturn()
    job.status, job.return_value = status, value
    return job


def place(folder):
    return OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})


@pytest.mark.parametrize("error", [UserError("too small"), OSError("too small"), KeyError("too small")])
def test_an_error_is_said_at_once_and_the_sweep_goes_on(environment, caplog, tmp_path, error):
    """A stack trace comes with what is no error of the user, or to who asks for it."""
    failures, job, cfg = Failures(), ended(error), place(tmp_path)
    failures.on_run_end(config=cfg)
    failures.on_job_end(config=cfg, job_return=job)
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.message.startswith("Error: ") and "too small" in record.message
    unexpected = isinstance(error, KeyError)
    assert bool(record.exc_info) == unexpected and (not unexpected or record.exc_info[1] is error)
    assert job.status == JobStatus.COMPLETED and job.return_value is None
    with pytest.raises(SystemExit) as end:  # the plain run
        failures.on_run_end(config=cfg, job_return=job)
    assert end.value.code == 1
    environment.setenv("HYDRA_FULL_ERROR", "1")
    failures.on_job_end(config=cfg, job_return=ended(error))
    assert caplog.records[-1].exc_info[1] is error


def test_after_a_full_disk_one_can_go_on(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    folder = tmp_path / "my run"
    (folder / "checkpoints").mkdir(parents=True)
    Failures().on_job_end(config=place(folder), job_return=ended(OSError(28, "full", "a.png")))
    assert caplog.messages == [
        "Error: [Errno 28] full: 'a.png'",
        f"Once this is fixed, resume with: python train.py resume='{folder}'",
    ]
    Failures().on_job_end(config=place(folder), job_return=ended(UserError("NaN")))
    assert caplog.messages[2:] == ["Error: NaN"]


def test_a_run_that_goes_well_is_left_alone(caplog):
    failures, job = Failures(), ended(-1.5, JobStatus.COMPLETED)
    failures.on_job_end(config=place(""), job_return=job)
    failures.on_run_end(config=place(""), job_return=job)
    assert job.return_value == -1.5 and not caplog.records


def member(folder, state, words, reason=""):
    run = Run(folder)
    run.overrides_file.parent.mkdir(parents=True)
    run.overrides_file.write_text(OmegaConf.to_yaml(OmegaConf.create(words)))
    if state:
        run.save_status(state, reason)


def test_the_list_at_the_end_of_a_sweep(tmp_path, caplog):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    Failures().on_multirun_end(config)
    member(tmp_path / "0", "finished", ["seed=3", "a=0"])
    (tmp_path / "more").mkdir()
    Failures().on_multirun_end(config, config_name="config")
    assert not caplog.records and unfinished(tmp_path) == []
    member(tmp_path / "10", "failed", ["seed=3", "a=1", "b=2"], "a=1: must be\n  two")
    member(tmp_path / "9", "running", ["seed=3", "a=2"])
    member(tmp_path / "b=2" / "1", None, ["seed=3"])
    with pytest.raises(SystemExit) as end:
        Failures().on_multirun_end(config)
    (record,) = caplog.records
    assert end.value.code == 1 and record.levelno == logging.ERROR and record.message.splitlines() == [
        f"3 of the 4 runs in {tmp_path} did not finish:",
        "  9 (a=2) interrupted: killed",
        "  10 (a=1 b=2) failed: a=1: must be two",
        "  b=2/1 () interrupted",
    ]  # fmt: skip


def test_a_sweep_in_which_all_fail(tmp_path):
    for name in "01":
        member(tmp_path / name, "failed", ["seed=3"], "no")
    assert unfinished(tmp_path)[0].startswith("2 of the 2 runs")


def test_members_of_a_sweep_are_named_by_what_is_swept():
    typed = ["data=synthetic", "model.latent_dim=2,3", "+trainer.x=1", "seed=choice(1,2)", "objective/beta=linear"]
    config = OmegaConf.create({"hydra": {"overrides": {"task": typed, "hydra": ["a"]}}})
    OmegaConf.set_readonly(config.hydra, True)
    NameBySwept().on_multirun_start(config)
    fixed = "'data','trainer.x','objective/beta'"
    assert config.hydra.overrides.hydra == ["a", f"hydra.job.config.override_dirname.exclude_keys=[{fixed}]"]
