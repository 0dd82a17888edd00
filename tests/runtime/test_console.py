"""What is printed goes where it can go, and ends no process, in processes of their own."""

import logging
import os
import subprocess
import sys

import pytest
from command_line import command, train_py
from conftest import ROOT
from tiny import TINY

from cvae.runs.directory import Run
from cvae.runtime import console

BEGIN = "import sys; from cvae.runtime.console import *; keep_writing();"


def python(code, stdout=subprocess.PIPE, before="", **environment):
    """What is left of `code`, begun by a shell that does `before`."""
    words = ["sh", "-c", f'{before} exec "$@"', "sh", sys.executable, "-c", BEGIN + code]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=600, env=env)


@pytest.fixture
def broken():
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_closed_pipe_ends_nothing(broken):
    code = "[print('line' * 9999) or console.print('line') or sys.stdout.flush() for _ in range(3)]; "
    done = python(code + "sys.stderr.write('here')", broken)
    assert (done.returncode, done.stderr) == (0, "here")
    done = python("print('a little, which waits for the end')", broken)
    assert (done.returncode, done.stderr) == (0, "")


def test_letters_that_the_terminal_lacks_are_escaped():
    done = python(r"print('±'); console.print('é\udcff'); errors.print('−')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xb1\n\\xe9\\udcff\n", "\\u2212\n")
    assert python("print('±')", PYTHONIOENCODING="utf-8").stdout == "±\n"


def test_a_file_does_not_get_what_is_printed_where_there_is_no_terminal(tmp_path):
    code = f"file = open({str(tmp_path / 'file')!r}, 'w'); print('no'); errors.print('no'); file.write('yes')"
    done = python(code, before="exec >&- 2>&-;")
    assert done.returncode == 0 and (tmp_path / "file").read_text() == "yes"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is full")
def test_a_full_disk_is_told_but_not_to_a_training():
    with open("/dev/full", "w") as full:
        assert python("print('line', flush=True)", full).returncode != 0
        line = "ConsoleHandler().handle(logging.makeLogRecord({'msg': 'line', 'levelno': 20}))"
        done = python(f"import logging; logging.raiseExceptions = False; {line}; sys.stderr.write('here')", full)
        assert done.stderr.startswith("here"), done.stderr


def test_the_streams_of_others_stay(capsys):
    before = sys.stdout
    console.keep_writing.__wrapped__()
    assert sys.stdout is before
    console.ConsoleHandler().handle(logging.makeLogRecord({"msg": "line", "levelno": logging.INFO}))
    assert capsys.readouterr().out == "line\n"


ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_a_run_and_commands_at_a_terminal_of_ascii(tmp_path):
    done = train_py(*TINY, "hydra.run.dir=run", "evaluation.samples=2", cwd=tmp_path, **ASCII)
    assert done.returncode == 0 and "\\xb1 std. error" in done.stdout and "Traceback" not in done.stderr
    assert Run(tmp_path / "run").state() == "finished"
    for words in (["compare", "."], ["evaluate", "run", "--samples", "2", "--device", "cpu"], ["sample", "run"]):
        done = command("-m", "cvae", *words, cwd=tmp_path, PYTHONPATH=str(ROOT), **ASCII)
        assert done.returncode == 0 and done.stdout and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads(tmp_path, broken):
    words = [sys.executable, ROOT / "train.py", *TINY, "hydra.run.dir=run", "evaluation.samples=2"]
    done = subprocess.run(words, stdout=broken, stderr=broken, cwd=tmp_path, timeout=600)
    run = Run(tmp_path / "run")
    assert done.returncode == 0 and run.state() == "finished"
    lines = run.log_file.read_text()
    assert "parameters; images" in lines and "Epoch 1: test ELBO" in lines and "The run is in" in lines
