"""What the command line says, in this process: suggestions, quoting, where errors go."""

import logging
import os
import sys
from concurrent.futures import BrokenExecutor

import pytest
from conftest import config
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.cli import messages
from cvae.cli.messages import leaves, message_of, no_such_key, not_readable, of_the_user, quoted, readable_errors
from cvae.errors import ConfigError, UserError
from cvae.runtime import console

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


def test_a_key_of_swept_choices_says_how_it_is_swept(monkeypatch):
    keys = OmegaConf.create({"model": {"filters": 1}}).model
    for words, said in ((["model=a,b"], True), (["model=a"], False), (["other=a,b"], False)):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        assert ("In a sweep over model, write model.zzz=choice(VALUE)" in no_such_key("model.zzz", keys)) == said


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
        (["prior=nothing"], "In 'config': Could not find 'prior/nothing'"),
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
    assert (record.message, record.levelname, record.name) == ("Error: bad", "ERROR", "cvae.cli.messages")
    assert capsys.readouterr().err == ""


def test_an_error_of_ours_keeps_its_trace(environment):
    with pytest.raises(KeyError), readable_errors():
        raise KeyError("a")
    with pytest.raises(SystemExit), readable_errors():
        raise ValueError(f"{messages.NULL_CHOICE}, got None")


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


def test_an_error_without_a_file_is_one_of_the_run_directory(environment):
    assert message_of(OSError(28, "No space")) == "[Errno 28] No space"
    hydra = OmegaConf.create({"run": {"dir": "outputs/mine"}})
    environment.setattr(messages.HydraConfig, "initialized", lambda: True)
    environment.setattr(messages.HydraConfig, "get", lambda: hydra)
    assert message_of(OSError(28, "No space")) == "[Errno 28] No space, in outputs/mine"
    assert message_of(OSError(28, "No space", "a/b")) == "[Errno 28] No space: 'a/b'"


def test_without_an_error_nothing_is_said(environment, capsys):
    with readable_errors():
        print("fine")
    assert capsys.readouterr() == ("fine\n", "")


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


@pytest.mark.parametrize(
    "text", ["a", "it's", "a\\", "a\\'b", "a\\\\'", "x=1,y ", "a b ", "$(x)", "ü", "a\\b", "[1]{2}"]
)
def test_a_text_of_any_signs_is_a_value(text):
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text


class UncompletedJobError(RuntimeError):
    """As submitit calls it."""


@pytest.mark.parametrize("error", [BrokenExecutor("A worker process …"), UncompletedJobError("Job …")])
def test_a_process_of_a_sweep_that_was_killed_is_no_fault_of_the_program(monkeypatch, error):
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"sweep": {"dir": "my sweep"}}))
    words = ["-m", "seed=1,2", "model.hidden=[4]", "hydra.sweep.dir=my sweep"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words, "+hydra.callbacks.new_run_directory.resume=true"])
    assert of_the_user(error) and not of_the_user(RuntimeError())
    said = "Resume with: python train.py -m seed=1,2 'model.hidden=[4]' 'resume=my sweep'"
    assert message_of(error).startswith("a process of the sweep was killed") and message_of(error).endswith(said)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 2.93 GiB for an array"), ": 2.93 GiB more were asked for"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes."),
         ": 12 bytes more were asked for"),
    ],
)  # fmt: skip
def test_memory_that_does_not_suffice(error, asked):
    assert of_the_user(error)
    assert message_of(error).startswith(f"there is not enough memory{asked}. A smaller data.batch_size or")
    assert not of_the_user(RuntimeError("another"))
