"""python -m cvae.cli.child_process RUN PID [resume]: one more process of a run, started by its first, PID."""

import ctypes
import logging
import os
import signal
import sys
import threading
import time

from cvae.cli.messages import message_of, of_the_user, traces_wanted
from cvae.errors import Stopped
from cvae.runs.directory import Run
from cvae.runtime.console import ConsoleHandler

log = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds in which the first process may end this one: its own error is the one to be read
LONG = 8.0  # the same, for an error that another process may be the cause of


def main(folder: str, first: str, *resume: str) -> None:
    """Train with the saved config of a run, or go on with it. Errors are said on the terminal and in its train.log."""
    end_with(int(first))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not before `train` handles it, with the others
    if hasattr(signal, "SIGHUP"):  # of a closed terminal the first process tells the others; Windows has no such signal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = Run(folder, trust=True)  # the first process has written its config
    file = logging.FileHandler(run.log_file, encoding="utf-8", delay=True, errors="backslashreplace")
    number = os.environ["LOCAL_RANK"]
    file.setFormatter(logging.Formatter(f"[%(asctime)s][%(levelname)s] process {number}: %(message)s"))
    logging.basicConfig(level=logging.WARNING, format=f"process {number}: %(message)s", handlers=[ConsoleHandler()])
    logging.getLogger().addHandler(file)
    try:
        from cvae.training.train import train

        train(run.config(), bool(resume))
    except Stopped as stop:
        if not stop.after_step:  # the others may wait for this one alone, until its exit code says why
            os._exit(128 + stop.signum)
    except Exception as error:
        time.sleep(PATIENCE if of_the_user(error) else LONG)
        log.error(
            "Error: %s", message_of(error), exc_info=None if of_the_user(error) and not traces_wanted() else error
        )
        logging.shutdown()
        os._exit(1)  # at once: the others fail when this one's connections close, and then ask for its exit code


def end_with(first: int) -> None:
    """End this process when the first one has ended: it may wait for it in code that knows no exceptions."""
    if sys.platform == "linux":  # the kernel ends it, also where it was stopped by SIGSTOP
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    threading.Thread(target=watch, args=[first], daemon=True).start()


def watch(first: int) -> None:
    while os.getppid() == first:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
