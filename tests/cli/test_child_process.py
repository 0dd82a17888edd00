"""One more process of a run: what it trains, what it says, how it ends."""

import logging
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from cvae.cli import child_process
from cvae.errors import Stopped, UserError
from cvae.runs.directory import Run
from cvae.training import train as training


class Ended(BaseException):
    """In place of the end of this process."""


def ended(code):
    raise Ended(code)


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """Call main with something in place of the training; the terminal's handlers are put back."""
    run, root = Run(tmp_path), logging.getLogger()
    run.save_config(OmegaConf.create({"run_dir": "${hydra:runtime.output_dir}", "own": {"_target_": "mine.Part"}}))
    monkeypatch.setenv("LOCAL_RANK", "7")
    monkeypatch.setattr(child_process.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(child_process, "end_with", lambda first: None)
    monkeypatch.setattr(os, "_exit", ended)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before, level = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGHUP)}, root.level

    def call(trained, *more):
        with monkeypatch.context() as for_now:
            for_now.setattr(training, "train", trained)
            for_now.setattr(root, "handlers", [])  # without those of pytest
            try:
                child_process.main(str(tmp_path), "1", *more)
            finally:
                root.handlers[-1].close()

    yield call, run
    root.setLevel(level)
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_it_trains_by_the_saved_config(joined, capsys):
    """A user's own parts too: the first process has made them. It says only what is a warning."""
    call, run = joined
    seen = []

    def trained(cfg, resume):
        seen.append((cfg, {signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGHUP)}, resume))
        logging.getLogger("cvae").info("quiet"), logging.getLogger("cvae").warning("odd")

    call(trained)
    ((cfg, handlers, resume),) = seen
    assert resume is False
    assert cfg == {"run_dir": str(run), "own": {"_target_": "mine.Part"}} and handlers == {signal.SIG_IGN}
    assert not cfg._get_flag("foreign")
    assert capsys.readouterr().out == "process 7: odd\n"
    assert run.log_file.read_text().endswith("[WARNING] process 7: odd\n") and "quiet" not in run.log_file.read_text()


@pytest.mark.parametrize("error", [UserError("too small"), KeyError("too small")])
def test_an_error_is_in_the_log_of_the_run(joined, capsys, error):
    call, run = joined
    waited = []
    child_process.time.sleep = waited.append

    def trained(cfg, resume):
        raise error

    with pytest.raises(Ended) as end:
        call(trained)
    patience = child_process.PATIENCE if isinstance(error, UserError) else child_process.LONG
    assert end.value.args == (1,) and waited == [patience]
    said = capsys.readouterr().err
    assert (
        said.startswith("process 7: Error: ")
        and "too small" in said
        and "process 7: Error: " in run.log_file.read_text()
    )
    assert ("Traceback" in said) == isinstance(error, KeyError)


def test_it_goes_on_with_a_run_and_ends_quietly_where_all_are_stopped(joined, capsys):
    call, run = joined
    seen = []

    def trained(cfg, resume):
        seen.append(resume)
        raise Stopped(signal.SIGTERM, after_step=True)

    call(trained, "resume")
    assert seen == [True] and capsys.readouterr() == ("", "") and not run.log_file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_it_ends_with_the_first_process(stopped):
    """Also where SIGSTOP has stopped it: then the kernel ends it, on Linux."""
    if stopped and sys.platform != "linux":
        pytest.skip("only Linux ends a process that is stopped")
    other = "import os, sys, time; from cvae.cli.child_process import end_with; end_with(int(sys.argv[1])); "
    other += "print(os.getpid(), flush=True); time.sleep(60)"
    code = "import os, signal, subprocess, sys; command = [sys.executable, '-c', sys.argv[1], str(os.getpid())]; "
    code += "other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True); "
    code += "print(other.stdout.readline(), flush=True); "
    code += "other.send_signal(signal.SIGSTOP)" if stopped else ""
    done = subprocess.run([sys.executable, "-c", code, other], stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=300)
    for _ in range(1000):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        child_process.time.sleep(0.1)
    os.kill(int(done.stdout), signal.SIGKILL)
    pytest.fail("it lives on")


@pytest.mark.parametrize(("after_step", "code"), [(False, 128 + signal.SIGTERM), (True, None)])
def test_a_signal_to_this_process_alone_is_in_its_exit_code(joined, after_step, code):
    """By code 0 the first process would take it for one whose work is done, and wait for its gradients."""
    call, _ = joined

    def stopped(cfg, resume):
        raise Stopped(signal.SIGTERM, after_step=after_step)

    if code is None:  # all of them have saved after the same step
        call(stopped)
        return
    with pytest.raises(Ended) as error:
        call(stopped)
    assert error.value.args == (code,)
