"""Signals that end a run: it finishes its step and saves; a second one ends it at once."""

import logging
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from cvae.errors import Stopped
from cvae.training.engine import Trainer

log = logging.getLogger(__name__)

# Neither is there on Windows.
CLOSED = getattr(signal, "SIGHUP", None)  # the terminal of this process is closed
REQUEUE = getattr(signal, "SIGUSR1", None)  # SLURM is about to end the job


class Signals:
    """What the signals of this process do: SIGINT (Ctrl-C), SIGTERM, SIGHUP (a closed terminal), under SLURM SIGUSR1.

    They raise Stopped where they arrive, except while `waits` is true. Then the first one is noted, for a loop that
    asks `to_stop` after each step. SIGHUP does nothing where it was ignored at the start, as by nohup; several are one:
    the system and the shell both tell of a closed terminal.
    """

    def __init__(self) -> None:
        self.waits, self.received, self.asked = False, 0, 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals inside, and outside as before."""
        self.waits, self.received, self.asked = False, 0, 0
        if threading.current_thread() is not threading.main_thread():  # Python handles signals in that one alone
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in self.kinds()}
        self.install()
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def kinds(self) -> list[signal.Signals]:
        kinds = [signal.SIGINT, signal.SIGTERM]
        if CLOSED and signal.getsignal(CLOSED) != signal.SIG_IGN:
            kinds.append(CLOSED)
        if REQUEUE and "SLURM_JOB_ID" in os.environ:
            kinds.append(REQUEUE)
        return kinds

    def install(self) -> None:
        for signum in self.kinds():
            signal.signal(signum, self.handle)

    def wait_for_steps(self) -> None:
        """From now on the loop asks `to_stop` after each step."""
        self.waits = True
        if threading.current_thread() is threading.main_thread():
            self.install()  # Lightning's own handler of SIGTERM, from the beginning of fit, ends it with nothing saved

    def handle(self, signum: int, frame: object) -> None:
        if signum == self.received == CLOSED:
            return
        first, self.received = not self.received, signum
        if not (self.waits and first):
            raise Stopped(signum)
        log.info("%s: the run stops after this step; a second signal ends it at once", signal.Signals(signum).name)

    def to_stop(self, trainer: Trainer, now: bool = False) -> int:
        """The signal after which all processes stop, 0 for none. Every process must ask after each batch.

        Of several processes each asks the others, which waits for the device, so only every log_every_n_steps or `now`.
        """
        if trainer.world_size == 1:
            return self.received
        asked, self.asked = self.asked, trainer.global_step // trainer.log_every_n_steps
        if not now and self.asked == asked:
            return 0
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        dist.all_reduce(received, dist.ReduceOp.MAX)
        return int(received)


signals = Signals()  # a process has one set of handlers


class Bell:
    """Hears signals for another thread, also while the main one waits in code that lets no handler run.

    Only the main thread can make and close it.
    """

    def __init__(self) -> None:
        self.ear, self.ring = socket.socketpair()
        self.ring.setblocking(False)
        self.before = signal.set_wakeup_fd(self.ring.fileno(), warn_on_full_buffer=False)
        self.heard: list[int] = []

    def end_at_once(self, seconds: float) -> int:
        """The signal that ends this process at once, or 0 if none arrives within the given seconds."""
        waits = signals.waits
        if select.select([self.ear], [], [], seconds)[0]:
            for number in self.ear.recv(64):  # of a closed terminal the system may tell twice
                if number in signals.kinds() and (number != CLOSED or number not in self.heard):
                    self.heard.append(number)
        return self.heard[-1] if len(self.heard) > waits else 0

    def stop(self) -> None:
        """Stop listening, and release whoever waits."""
        signal.set_wakeup_fd(self.before)
        self.ring.send(bytes(1))

    def close(self) -> None:
        self.ear.close()
        self.ring.close()


def requeue() -> bool:
    """Ask SLURM to start this job again later; returns whether it will."""
    command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        log.warning("%s: %s", " ".join(command), error)
        return False
    if done.returncode:
        log.warning("%s: %s", " ".join(command), done.stderr.strip())
    return done.returncode == 0
