"""Start the processes of a run on several devices, and end them together."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytorch_lightning as L
import torch
import torch.distributed as dist
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.strategies.launchers.launcher import _Launcher

from cvae.errors import Stopped, UserError
from cvae.runs.directory import Run, first_process, how_it_ended
from cvae.training.meeting import MINUTE, Lifeline, Meeting, interface_to, loopback_interface, require_addresses
from cvae.training.signals import Bell

log = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at the other processes
GRACE = 1.0  # seconds that this process has to end by itself, before the others are killed
PATIENCE = 5.0  # seconds that an error may take to travel from one process to another
END = 30.0  # seconds that the others have to end, once their work is done
CHILD = "CVAE_CHILD_PROCESS"  # in the environment of a process that another one has started


@contextmanager
def together(trainer: L.Trainer, run: Run, resume: bool = False) -> Iterator[Callable[[], None]]:
    """The processes of a run find each other, and start and end together.

    Where Lightning would start others on this machine, they are started in our way, with the config that the run has
    saved: Lightning repeats the command line, which may be that of a whole sweep or name its folder after the time.
    Whatever was changed in this process is put back, for the next run of a sweep.

    Yields a function that all processes call when they have nothing more to do together. The first may then go on alone
    for as long as it likes: no other waits for it.

    resume: whether those that are started go on with the run

    Raises:
        UserError: another process has died, or cannot be reached.
    """
    if not isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):  # one process, or started by Lightning
        yield lambda: None
        return
    environment, threads, ours = dict(os.environ), torch.get_num_threads(), None
    try:
        ours = trainer.strategy._launcher = Processes(run, trainer.strategy, resume)
        yield ours.part
        ours.end()
    except BaseException as error:
        if ours:
            ours.end(error)
        raise
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)


class Processes(_Launcher):
    """Starts the other processes of this machine before the first of Lightning's loops, and watches them.

    A process that somebody else has started, as torchrun or SLURM, only meets the others. So does one that was started
    here: it is watched, and ended, by the one that has started it.

    Args:
        run: where the config is
        strategy: Lightning's, which knows how many processes there are
        resume: whether those that are started go on with the run

    Raises:
        UserError: those of other machines cannot be reached.
    """

    is_interactive_compatible = False

    def __init__(self, run: Run, strategy: Any, resume: bool = False) -> None:
        self.run, self.strategy, self.resume = run, strategy, resume
        self.environment = strategy.launcher.cluster_environment
        self.count, self.nodes = strategy.launcher.num_processes, strategy.launcher.num_nodes
        self.world, self.rank = self.count * self.nodes, strategy.global_rank
        self.child, self.starts = CHILD in os.environ, not self.environment.creates_processes_externally
        self.others: list[subprocess.Popen] = []
        self.over, self.joined, self.cause, self.stopped = threading.Event(), False, "", 0
        self.bell: Bell | None = None
        self.lifeline: Lifeline | None = None
        if self.starts and self.nodes > 1:
            require_addresses(self.nodes)
        name = loopback_interface() if self.nodes == 1 else interface_to(self.environment.main_address)
        if name:  # else gloo listens where this machine's name leads to, which may be seen by too many or by nobody
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        self.meeting = Meeting(self.environment, self.rank, self.world, self.nodes)
        if self.child:
            return
        # Those that no other process of this run has started: nobody else sees how they end.
        self.leaders = range(0, self.world, self.count if self.starts else 1)
        if len(self.leaders) > 1:
            self.meeting.all_come("here", self.leaders, lambda: None, MINUTE)
            self.lifeline = Lifeline(self.meeting, self.leaders)
        if threading.current_thread() is threading.main_thread():
            self.bell = Bell()
        self.watching = threading.Thread(target=self.watch, daemon=True)
        self.watching.start()

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        try:
            if not self.joined:
                self.joined = True
                self.begin()
            return function(*args, **kwargs)
        except Exception as error:
            if (cause := self.cause_of(error)) is error:
                raise
            raise cause from error

    def begin(self) -> None:
        """Start the other processes, and wait until all have met."""
        if self.starts:
            if self.lifeline:  # the first machine has saved the config by then
                self.meeting.all_come("ready", self.leaders, self.require_all)
            self.start()
        self.join()

    def start(self) -> None:
        node, cores = self.environment.node_rank(), os.cpu_count() or 1
        os.environ |= {
            "MASTER_ADDR": self.environment.main_address, "MASTER_PORT": str(self.environment.main_port),
            "WORLD_SIZE": str(self.world), "NODE_RANK": str(node), "LOCAL_RANK": "0",
        }  # fmt: skip
        if "OMP_NUM_THREADS" not in os.environ:  # the cores are shared
            os.environ["OMP_NUM_THREADS"] = str(max(1, cores // self.count))
            torch.set_num_threads(max(1, cores // self.count))
        command = [sys.executable, "-P", "-m", "cvae.cli.child_process", str(self.run), str(os.getpid())]
        command += ["resume"] if self.resume else []
        for number in range(1, self.count):
            own = {"LOCAL_RANK": str(number), "PYTHONPATH": os.pathsep.join(sys.path), CHILD: "1"}
            self.others.append(subprocess.Popen(command, env=os.environ | own))

    def join(self) -> None:
        """Join torch's process group as soon as all are there.

        It runs in a separate thread, which can be abandoned if it waits for a process that has died.
        """
        self.meeting.all_come("joins", range(self.world), self.require_all)
        device, errors = self.strategy.root_device, list[Exception]()
        usual = dist.Backend.default_device_backend_map.get(device.type, "gloo")
        backend = self.strategy.process_group_backend or usual
        arguments = {
            "store": dist.PrefixStore("group", self.meeting.store), "rank": self.rank, "world_size": self.world,
            "timeout": self.strategy._timeout, "device_id": None if device.type == "cpu" else device,
        }  # fmt: skip

        def init() -> None:
            try:
                dist.init_process_group(backend, **arguments)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=init, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(LOOK)
            self.require_all()
        if errors:
            raise errors[0]

    def require_all(self) -> None:
        """Raise UserError if another process has died."""
        if lost := self.lost():
            raise UserError(lost)

    def lost(self, patience: float = 0) -> str:
        """What happened to a process that died, in words; empty if none dies within `patience` seconds."""
        for _ in range(1 + int(patience / LOOK)):
            if not self.cause and self.lifeline:
                self.cause = self.lifeline.lost(after_error=patience > 0)
            for number, other in enumerate(self.others, 1):
                if (code := other.poll()) and not self.cause:
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                    self.cause = f"process {self.rank + number} (the first is 0) {how}, so the run ends"
            if self.cause or not (self.others or self.lifeline):
                break
            if patience:
                time.sleep(LOOK)
        return self.cause

    def cause_of(self, error: BaseException) -> BaseException:
        """The cause of an error in this process, which may be another process's error or a signal."""
        if not isinstance(error, Exception) or isinstance(error, UserError):
            return error
        if self.stopped:
            return Stopped(self.stopped)
        if self.child:  # the others may wait for this one, and see no error until it has said its own
            with suppress(dist.DistError):
                self.meeting.store.set("error", "")
        lost = self.lost(PATIENCE)
        return UserError(lost) if lost else error

    def watch(self) -> None:
        """End the others where one is lost, or where this process is told to end at once and does not.

        For this process may wait for them in code that knows neither exceptions nor signals. That code fails when they
        are gone; if it does not even then, this process ends here.
        """
        while not self.over.is_set():
            if self.bell:
                self.stopped = self.stopped or self.bell.end_at_once(LOOK)
            else:
                self.over.wait(LOOK)
            if (self.lost() or self.stopped) and not self.over.wait(GRACE):
                if self.lifeline and self.cause:  # others see errors that come of it, and wait to hear the cause
                    self.lifeline.end(self.cause)
                self.kill()
                if not self.over.wait(2 * PATIENCE):
                    self.give_up()

    def give_up(self) -> None:
        """End this process, from another thread than the main one."""
        state, reason = how_it_ended(Stopped(self.stopped) if self.stopped else UserError(self.cause))
        log.error("Error: %s", reason)
        if first_process():
            self.run.save_status(**self.run.status() | {"state": state, "reason": reason})
        os._exit(128 + self.stopped if self.stopped else 1)

    def kill(self, signum: Any = None) -> None:
        for other in self.others:
            other.kill()  # does nothing, where the process has ended

    def part(self) -> None:
        """Leave the group, once all have come to this. The processes that were started end by themselves."""
        self.meeting.all_come("done", range(self.world), self.require_all)
        self.leave()
        self.meeting.store.set(f"gone/{self.rank}", "")

    def leave(self) -> None:
        """Leave the group, and stop watching it."""
        self.over.set()
        if self.lifeline:
            self.lifeline.end()
        if dist.is_initialized():
            dist.destroy_process_group()

    def end(self, error: BaseException | None = None) -> None:
        """Let the others come to their end, or end them where there is an error."""
        self.over.set()
        if error:
            if self.lifeline:
                self.lifeline.end(self.reason_for_others(error))
            self.kill()
        for other in self.others:
            try:
                other.wait(END)
            except subprocess.TimeoutExpired:
                log.warning("Process %d did not end by itself", other.pid)
                other.kill()
                other.wait()
        if not (self.child and isinstance(error, Exception)):  # it says its error first: the others would fail at once
            self.leave()
        if not error and not self.rank:  # who holds the store is the last to go
            with suppress(UserError):
                self.meeting.all_come("gone", range(self.world), lambda: None, PATIENCE)
        if self.bell:
            self.bell.stop()
            self.watching.join()
            self.bell.close()

    def reason_for_others(self, error: BaseException) -> str:
        """Why the other processes, which do not see this error, must end; empty if they end by themselves."""
        if isinstance(error, Stopped) and error.after_step:
            return ""
        state, reason = how_it_ended(error)
        return (
            self.cause
            or f"process {self.rank} (the first is 0): {reason if state == 'failed' else f'{state} {reason}'}"
        )
