"""The processes of a run on several devices: started together, ended together."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as L
import torch
import torch.distributed as dist
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.strategies.launchers.launcher import _Launcher

from cvae.errors import UserError
from cvae.runs.directory import Run

log = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at the other processes
PATIENCE = 5.0  # seconds that an error may take to travel from one process to another


@contextmanager
def together(trainer: L.Trainer, run: Run, resume: bool = False) -> Iterator[None]:
    """Where Lightning would start the other processes of a run, start them in our way; at the end of it they end too.

    Lightning repeats the command line, which may be that of a whole sweep or name its folder after the time. Ours read
    the config that the run has saved. Whatever was changed in this process is put back, for the next run of a sweep.

    resume: whether they go on with the run

    Raises:
        UserError: another process has died.
    """
    lightnings = trainer.strategy.launcher
    starts = isinstance(lightnings, _SubprocessScriptLauncher)
    if not starts or lightnings.cluster_environment.creates_processes_externally:
        yield  # one process, or this one, torchrun or SLURM has started the others
        return
    environment, threads = dict(os.environ), torch.get_num_threads()
    ours = trainer.strategy._launcher = Processes(run, lightnings, resume)
    try:
        yield
        if dist.is_initialized():  # the others wait for it when they end
            dist.destroy_process_group()
        ours.wait()
    except Exception as error:
        if not isinstance(error, UserError) and (lost := ours.lost(PATIENCE)):
            raise UserError(lost) from error
        raise
    finally:
        ours.end()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)


class Processes(_Launcher):
    """Starts the other processes of this machine before the first of Lightning's loops, and watches them."""

    is_interactive_compatible = False

    def __init__(self, run: Run, lightnings: _SubprocessScriptLauncher, resume: bool = False) -> None:
        self.run, self.resume, self.environment = run, resume, lightnings.cluster_environment
        self.count, self.nodes = lightnings.num_processes, lightnings.num_nodes
        self.others: list[subprocess.Popen] = []
        self.over = threading.Event()

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        if not self.others and self.count > 1:
            self.start()
        return function(*args, **kwargs)

    def start(self) -> None:
        node, cores = self.environment.node_rank(), os.cpu_count() or 1
        os.environ |= {
            "MASTER_ADDR": self.environment.main_address, "MASTER_PORT": str(self.environment.main_port),
            "WORLD_SIZE": str(self.count * self.nodes), "NODE_RANK": str(node), "LOCAL_RANK": "0",
        }  # fmt: skip
        if "OMP_NUM_THREADS" not in os.environ:  # the cores are shared
            os.environ["OMP_NUM_THREADS"] = str(max(1, cores // self.count))
            torch.set_num_threads(max(1, cores // self.count))
        command = [sys.executable, "-P", "-m", "cvae.cli.child_process", str(self.run), str(os.getpid())]
        command += ["resume"] if self.resume else []
        for number in range(1, self.count):
            own = {"LOCAL_RANK": str(number), "PYTHONPATH": os.pathsep.join(sys.path)}
            self.others.append(subprocess.Popen(command, env=os.environ | own))
        threading.Thread(target=self.watch, daemon=True).start()

    def lost(self, patience: float = 0) -> str:
        """What has happened to a process that died, within `patience` seconds; empty if none has."""
        for _ in range(1 + int(patience / LOOK)):
            for number, other in enumerate(self.others, 1):
                if code := other.poll():
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                    return f"process {number} (the first is 0) {how}, so the run ends"
            if patience:
                time.sleep(LOOK)
        return ""

    def watch(self) -> None:
        """End this process where a lost one does not: it may wait for the lost one in code that knows no exceptions."""
        while not self.over.wait(LOOK):
            if (lost := self.lost()) and not self.over.wait(2 * PATIENCE):
                log.error("Error: %s", lost)
                self.run.save_status(**self.run.status() | {"state": "failed", "reason": lost})
                self.kill(signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

    def wait(self) -> None:
        """Let the other processes come to their end, which is that of this one."""
        for other in self.others:
            try:
                other.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                log.warning("Process %d did not end by itself", other.pid)

    def kill(self, signum: int) -> None:
        for other in self.others:
            other.send_signal(signum)  # none, where the process has ended

    def end(self) -> None:
        """End those that still live."""
        self.over.set()
        self.kill(signal.SIGKILL)
        for other in self.others:
            other.wait()
