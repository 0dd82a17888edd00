"""What the command line says, in this process: suggestions, quoting, where errors go, which folders are refused."""

import logging
import os
import re

import pytest
from conftest import config, get_object
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae import cli, console
from cvae.cli import NewRunDirectory, leaves, message_of, no_such_key, not_readable, readable_errors
from cvae.errors import ConfigError, UserError
from cvae.run import Run

CFG = OmegaConf.create(
    {
        "model": {"filters": 3, "latent_dim": 2, "beta": {"_target_": "x", "start": 1}},
        "optimizer": {"lr": 1, "decay": None}, "scheduler": {"lr": 2}, "a": {"lr": 0}, "b": {"lr": 0},
        "place": "${model}", "none": None, "hydra": {"run": {"lr": 5}}, "inner": {"hydra": {"deep": 1}},
    }
)  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS", "RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "")  # so that it is put back at the end
        monkeypatch.delenv(name)
    return monkeypatch


def test_leaves_are_the_users_keys_with_a_value():
    assert leaves(CFG) == [
        "model.filters", "model.latent_dim", "model.beta._target_", "model.beta.start", "optimizer.lr",
        "optimizer.decay", "scheduler.lr", "a.lr", "b.lr", "place", "none", "inner.hydra.deep",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "parent", "message"),
    [
        (
            "model.filterz", CFG.model,
            "there is no key model.filterz. Did you mean model.filters? model has: filters, latent_dim, beta.",
        ),
        (
            "modle", CFG,
            "there is no key modle. Did you mean model? "
            "The config has: model, optimizer, scheduler, a, b, place, none, inner.",
        ),
        (
            "lr", CFG,
            "there is no key lr. Did you mean optimizer.lr or scheduler.lr or a.lr? "
            "The config has: model, optimizer, scheduler, a, b, place, none, inner.",
        ),
        (
            "model.start", CFG.model,
            "there is no key model.start. Did you mean model.beta.start? model has: filters, latent_dim, beta.",
        ),
        (
            "optimizer.zzz", CFG.optimizer,
            "there is no key optimizer.zzz. optimizer has: lr, decay. A new key takes a plus: +optimizer.zzz=VALUE",
        ),
        (
            "model.zzz", CFG.model,
            "there is no key model.zzz. model has: filters, latent_dim, beta.",
        ),
    ],
)  # fmt: skip
def test_a_key_that_does_not_exist(key, parent, message):
    assert no_such_key(key, parent) == message


def test_how_to_quote():
    assert not_readable("space") == (
        "space is not KEY=VALUE. A value with spaces needs quotes around both: 'KEY=\"VALUE WITH SPACES\"'"
    )
    assert not_readable("a.b=it's=so") == (
        "a.b=it's=so cannot be read. A value with signs needs quotes within quotes: 'a.b=\"it's=so\"'"
    )


def composed(*words):
    with pytest.raises(Exception) as error:
        config(*words)
    return error.value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.filterz=3"], "there is no key model.filterz. Did you mean model.filters?"),
        (["optimzer.lr=3"], "there is no key optimzer. Did you mean optimizer?"),
        (["space"], "space is not KEY=VALUE."),
        (["model.filters=[3"], "model.filters=[3 cannot be read."),
        (["logger=null"], "GROUP=null is no choice: name a file of conf/GROUP; ~callbacks.NAME and ~logger.NAME leave"),
        (["prior=none"], "In 'config': Could not find 'prior/none'"),
    ],
)
def test_hydras_errors_in_words(words, message):
    assert message_of(composed(*words)).startswith(message)


def test_other_errors_are_their_own_words():
    assert message_of(ConfigError("a", 1, "two")) == "a=1: must be two"
    error = HydraException("outer")
    error.__cause__ = ValueError("inner")
    assert message_of(error) == "outer"
    with pytest.raises(OmegaConfBaseException) as found:
        OmegaConf.create({"a": {"b": "${nowhere}"}}).a.b  # noqa: B018
    assert message_of(found.value).startswith("Interpolation key 'nowhere' not found")


@pytest.mark.parametrize(
    "error",
    [UserError("bad"), ConfigError("a", 1, "two"), OSError("full"), OmegaConfBaseException("o"), HydraException("h")],
)
def test_an_error_of_the_user_ends_with_one_message(environment, capsys, error):
    root = logging.getLogger()
    environment.setattr(root, "handlers", [])
    with pytest.raises(SystemExit) as end, readable_errors():
        assert os.environ["HYDRA_FULL_ERROR"] == os.environ["CVAE_READABLE_ERRORS"] == "1"
        raise error
    printed = capsys.readouterr()
    assert end.value.code == 1 and (printed.out, printed.err) == ("", f"Error: {error}\n")


def test_once_a_run_has_begun_its_log_gets_the_message(environment, capsys, caplog):
    with pytest.raises(SystemExit), readable_errors():
        raise UserError("bad")
    (record,) = caplog.records
    assert (record.message, record.levelname, record.name) == ("Error: bad", "ERROR", "cvae.cli")
    assert capsys.readouterr().err == ""


def test_an_error_of_ours_keeps_its_trace(environment):
    with pytest.raises(KeyError), readable_errors():
        raise KeyError("a")
    with pytest.raises(SystemExit), readable_errors():
        raise ValueError(f"{cli.NULL_CHOICE}, got None")


def test_who_asks_for_a_trace_gets_one(environment):
    environment.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError), readable_errors():
        raise UserError("bad")
    assert "CVAE_READABLE_ERRORS" not in os.environ
    environment.setenv("CVAE_READABLE_ERRORS", "1")  # in a process that one of ours has started
    with pytest.raises(SystemExit), readable_errors():
        raise UserError("bad")
    environment.setenv("HYDRA_FULL_ERROR", "0")
    environment.delenv("CVAE_READABLE_ERRORS")
    with pytest.raises(SystemExit), readable_errors():
        raise UserError("bad")


def test_without_an_error_nothing_is_said(environment, capsys):
    with readable_errors():
        print("fine")
    assert capsys.readouterr() == ("fine\n", "")


class Hydra:
    """Hydra's config, which the folder's name may refer to."""

    def __init__(self, monkeypatch):
        self.given = []
        monkeypatch.setattr(cli.HydraConfig, "instance", lambda: self)

    def set_config(self, cfg):
        self.given.append(cfg)


def job(folder, run_dir="${hydra:runtime.output_dir}"):
    hydra = {"run": {"dir": str(folder)}, "sweep": {"dir": str(folder)}, "overrides": {"hydra": []}}
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
    Hydra(environment)
    (tmp_path / "images").mkdir()
    environment.setenv("LOCAL_RANK", "1")
    NewRunDirectory().on_run_start(job(tmp_path))
    assert not Run(tmp_path).locked()
    environment.setenv("LOCAL_RANK", "0")
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
    environment.setattr("cvae.run.lock", lambda file: file != tmp_path / ".lock")
    said = f"Error: hydra.run.dir={tmp_path}: must be a new folder; {tmp_path} is being written by another run"
    with pytest.raises(SystemExit, match=f"^{said}$"):
        NewRunDirectory().on_run_start(job(tmp_path))


def test_the_run_directory_of_a_config_is_new_by_hydras_callback():

    from conftest import ROOT
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [], return_hydra_config=True)
    assert get_object(cfg.hydra.callbacks.new_run_directory._target_) is NewRunDirectory
    raw = OmegaConf.to_container(cfg)
    assert raw["run_dir"] == "${hydra:runtime.output_dir}"
    assert raw["hydra"]["run"]["dir"] == "outputs/${hydra:runtime.choices.experiment}/${now:%Y-%m-%d_%H-%M-%S}"
    assert raw["hydra"]["sweep"]["subdir"] == "${hydra:job.num}"
    file = raw["hydra"]["job_logging"]["handlers"]["file"]
    assert file["filename"] == "${hydra.runtime.output_dir}/${hydra.job.name}.log"
    for log in (cfg.hydra.job_logging, cfg.hydra.hydra_logging):
        assert get_object(log.handlers.console["class"]) is console.ConsoleHandler
        assert log.root.level == "INFO" and "console" in log.root.handlers and log.disable_existing_loggers is False
    assert cfg.hydra.job_logging.root.handlers == ["console", "file"]
    assert isinstance(cfg, DictConfig)


def test_log_lines_go_above_the_bar_and_errors_to_stderr(capsys, monkeypatch):
    from rich.console import Console

    assert console.errors.stderr and not console.console.stderr
    monkeypatch.setattr(console, "console", Console(width=20))
    monkeypatch.setattr(console, "errors", Console(stderr=True, width=20))
    log = logging.Logger("of its own")
    log.addHandler(handler := console.ConsoleHandler())
    handler.setFormatter(logging.Formatter("<%(message)s>"))
    text = "[bold]a line[/bold] that is longer than twenty columns [3]"
    log.info(text)
    log.warning("warned")
    log.error("wrong")
    log.critical("worse")
    assert capsys.readouterr() == (f"<{text}>\n<warned>\n", "<wrong>\n<worse>\n")


def test_highlighting_is_off_for_log_lines(monkeypatch):
    import io

    from rich.console import Console

    terminal = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    monkeypatch.setattr(console, "console", terminal)
    console.ConsoleHandler().emit(logging.makeLogRecord({"msg": "12 'a' True", "levelno": logging.INFO}))
    assert terminal.file.getvalue() == "12 'a' True\n"


def test_ctrl_c_is_no_traceback(environment, capsys):
    with pytest.raises(SystemExit) as end, readable_errors():
        raise KeyboardInterrupt
    assert end.value.code == 130 and capsys.readouterr().err == "Interrupted.\n"


def test_a_yaml_file_that_cannot_be_read(environment, tmp_path):
    from yaml import YAMLError

    (tmp_path / "a.yaml").write_text("a: [1")
    with pytest.raises(YAMLError) as error:
        OmegaConf.load(tmp_path / "a.yaml")
    said = message_of(error.value)
    assert said.startswith("a YAML file cannot be read: ") and "a.yaml" in said and "\n" not in said


def test_a_choice_within_a_choice_that_has_none():
    with pytest.raises(HydraException) as error:
        config("objective=iwae", "objective/beta=linear")
    said = "objective/beta is no choice here: objective as it is chosen has no beta to choose"
    assert message_of(error.value) == said


def test_a_missing_value_is_not_a_missing_key():
    cfg = OmegaConf.create({"model": {"filters": "???"}})
    with pytest.raises(OmegaConfBaseException) as error:
        cfg.model.filters  # noqa: B018
    assert "Did you mean" not in message_of(error.value)
