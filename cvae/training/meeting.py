"""The processes of a run find each other, and learn how the others ended, through torch's key-value store."""

import math
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from pytorch_lightning.plugins.environments import ClusterEnvironment

from cvae.errors import UserError, printable

LOOPBACK = "127.0.0.1"
MINUTE = 50.0  # seconds in which a process must have reached the others, and have said so if it has not
LOOK = 0.1  # seconds between two looks whether all have come
BEAT = 0.25  # seconds between two signs of life
SILENT = 30.0  # seconds without one after which a process is lost
SHORT = 2.0  # the same, where an error says that somebody is lost

VARIABLES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # what each of several machines has to be told


def require_addresses(nodes: int) -> None:
    """Raise UserError unless the environment gives this machine its number and the address of the first one."""
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise UserError(
            f"trainer.num_nodes={nodes}: {', '.join(missing)} must be set in each machine's environment: NODE_RANK "
            "is its number, from 0 on, MASTER_ADDR the address of the first one, MASTER_PORT a free port of that"
        )
    node, port = os.environ["NODE_RANK"], os.environ["MASTER_PORT"]
    if not node.isdecimal() or int(node) >= nodes:
        raise UserError(f"NODE_RANK={node}: must be the number of this machine, 0 to {nodes - 1}")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"MASTER_PORT={port}: must be a number from 1 to {2**16 - 1}")


def loopback_interface() -> str | None:
    """The name of the network interface that leads to this machine alone; None if it has another name."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)


def interface_to(address: str) -> str | None:
    """The name of the network interface by which this machine reaches an address; None if unknown."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):
            probe.connect((address, 9))  # sends nothing
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                with suppress(OSError):  # an interface without an address
                    found = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
                    if socket.inet_ntoa(found[20:24]) == own:
                        return name
    return None


class Meeting:
    """The store of a run. The first process holds it; each may write a key that all read.

    A store has no password. That of processes on one machine can be reached from that machine alone.

    Args:
        environment: what Lightning knows of the processes
        rank: the number of this process in the whole run
        world: how many processes the run has
        nodes: on how many machines

    Raises:
        UserError: the first process cannot be reached within a minute, or cannot listen at its port.
    """

    def __init__(self, environment: ClusterEnvironment, rank: int, world: int, nodes: int) -> None:
        self.rank, self.world = rank, world
        agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store
        alone = nodes == 1 and not agents
        self.address, self.port = LOOPBACK if alone else environment.main_address, environment.main_port
        self.server = None if rank or agents else self._listen(alone)
        if not self.server:
            self._require_reachable()
        turn = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps its store when it starts all anew
        self.prefix = f"cvae/{turn}"
        self.store = self.client(timedelta(minutes=30))

    @property
    def place(self) -> str:
        return f"{self.address}:{self.port}"

    def _listen(self, alone: bool) -> dist.TCPStore:
        """The store's server. Of several machines the first listens at all its addresses.

        Its own name may lead it to an address which the others do not see.
        """
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a run that has just ended
        try:
            listening.bind((LOOPBACK if alone else "", self.port))
            listening.listen(socket.SOMAXCONN)
        except OSError as error:
            listening.close()
            raise UserError(
                f"MASTER_PORT={self.port}: the first process cannot listen at this port: {error.strerror}. "
                "Set another one in the environment"
            ) from error
        more: dict[str, Any] = {"wait_for_workers": False, "master_listen_fd": listening.detach()}
        return dist.TCPStore(LOOPBACK, self.port, self.world, True, **more)

    def _require_reachable(self) -> None:
        end = time.monotonic() + MINUTE
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=5).close()
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise UserError(
                        f"process {self.rank} could not reach the first one at {self.place} (MASTER_ADDR:MASTER_PORT) "
                        f"for {MINUTE:.0f} seconds: {error.strerror or error}"
                    ) from error
                time.sleep(0.5)

    def client(self, timeout: timedelta) -> dist.PrefixStore:
        """A separate connection, so that a thread which waits for an answer blocks no other."""
        address = LOOPBACK if self.server else self.address
        return dist.PrefixStore(self.prefix, dist.TCPStore(address, self.port, self.world, timeout=timeout))

    def all_come(self, where: str, ranks: Iterable[int], look: Callable[[], Any], seconds: float = math.inf) -> None:
        """Wait until each of the processes `ranks`, of which this is one, has come here.

        look: called in between; it may raise an error, which ends the waiting

        Raises:
            UserError: somebody has not come within so many seconds.
        """
        self.store.set(f"{where}/{self.rank}", "")
        missing, end = list(ranks), time.monotonic() + seconds
        while missing := [rank for rank in missing if not self.store.check([f"{where}/{rank}"])]:
            look()
            if time.monotonic() > end:
                who = " and ".join(map(str, missing))
                raise UserError(
                    f"of {self.world} processes (the first is 0) {who} did not come to {self.place} in {seconds:.0f} "
                    "seconds: the command has to be started on all machines within a minute"
                )
            time.sleep(LOOK)


class Lifeline:
    """Signs of life between processes that cannot watch each other directly, such as those on different machines.

    The first process hears those of all others and they hear its own, so that the store has little to do.

    Args:
        meeting: where they are given
        ranks: the processes that give them, of which this is one
    """

    def __init__(self, meeting: Meeting, ranks: Iterable[int]) -> None:
        self.rank, self.place = meeting.rank, meeting.place
        self.store = meeting.client(timedelta(seconds=SILENT))
        self.heard = {rank: time.monotonic() for rank in ranks if rank != self.rank and 0 in (rank, self.rank)}
        self.beats: dict[int, bytes] = {}
        self.cause, self.reason, self.over = "", "", threading.Event()
        self.error = False  # whether any process had one, whoever caused it
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def lost(self, after_error: bool = False) -> str:
        """What happened to a lost process, in words; empty if all are alive or ended properly."""
        if self.cause:
            return self.cause
        limit, now = SHORT if after_error or self.error else SILENT, time.monotonic()
        silent = [rank for rank, last in self.heard.copy().items() if now - last > limit]
        return f"process {silent[0]} (the first is 0) gives no sign of life, so the run ends" if silent else ""

    def end(self, reason: str = "") -> None:
        """No more signs of life. reason: of an end that must be that of the others, too; empty if all is well

        Waits for SHORT at most: where the network is cut, the store never answers.
        """
        if self.over.is_set():
            return
        self.reason = printable(reason)  # the store takes no text with bytes of a name that is not UTF-8
        self.over.set()
        self.thread.join(SHORT)

    def _beat(self) -> None:
        try:
            while not self.cause and not self.over.wait(BEAT):
                self._look()
        except dist.DistError:
            self.cause = f"the first process, at {self.place}, cannot be reached any more, so the run ends"
            return
        self.over.wait()
        with suppress(dist.DistError):  # the first one may have gone before
            self.store.set(f"ended/{self.rank}", "")
            if self.reason and not self.store.check(["lost"]):
                self.store.set("lost", self.reason)

    def _look(self) -> None:
        self.store.set(f"beat/{self.rank}", str(time.monotonic()))
        if self.store.check(["lost"]):
            self.cause = self.store.get("lost").decode(errors="replace")
        self.error = self.error or self.store.check(["error"])
        for rank in list(self.heard):
            if self.store.check([f"ended/{rank}"]):
                del self.heard[rank]
            elif self.store.check([f"beat/{rank}"]):
                beat = self.store.get(f"beat/{rank}")
                if beat != self.beats.get(rank):
                    self.beats[rank], self.heard[rank] = beat, time.monotonic()
