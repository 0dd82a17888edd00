"""Sums over the processes of one machine, through memory that they share."""

import mmap
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cvae.errors import UserError

CHUNK = 2**18  # numbers that are added at once, 1 MiB: each process writes two such rows in turn
LINE = 128  # bytes between the counts of two processes: they share no cache line
SPIN = 2e-3  # seconds of looking without a pause: the others are about as fast
LOOK = 0.5  # seconds between two looks whether the others live


class SharedSum:
    """Adds up a float32 tensor (n,) of each process, in place: each gets the same numbers to the last bit.

    For 70,000 numbers of two processes it takes 0.02 ms, where gloo takes 0.7 to 1.8: it wakes threads and sends the
    numbers through sockets.

    A process writes its numbers, then how often it has done so, and reads the others' when they have written as often.
    It writes the next numbers to another row, as the others may still read these. That needs a processor that keeps
    the order of what it writes, as x86-64 does.

    Args:
        memory: the same of all processes, `size(world)` bytes of zeros
        rank, world: the number of this process, and how many there are
        look: called every LOOK seconds while this process waits for another; it may raise an error
        timeout: seconds after which another process must have come
    """

    def __init__(
        self, memory: mmap.mmap, rank: int, world: int, look: Callable[[], None], timeout: float = 1800
    ) -> None:
        self.rank, self.look, self.timeout, self.turn = rank, look, timeout, 0
        self.counts = np.frombuffer(memory, np.int64, world * LINE // 8)[:: LINE // 8]
        numbers = torch.frombuffer(memory, dtype=torch.float32, offset=world * LINE)
        self.rows = numbers.view(2, world, CHUNK)

    @staticmethod
    def size(world: int) -> int:
        return world * (LINE + 2 * CHUNK * 4)

    def __call__(self, flat: Tensor) -> None:
        for part in flat.split(CHUNK):
            self.turn += 1
            rows = self.rows[self.turn % 2, :, : len(part)]
            rows[self.rank] = part
            self.counts[self.rank] = self.turn
            self._wait()
            torch.add(rows[0], rows[1], out=part)
            for row in rows[2:]:
                part += row

    def _wait(self) -> None:
        start = looked = time.monotonic()
        while (self.counts < self.turn).any():
            waited = time.monotonic() - start
            if waited < SPIN:
                os.sched_yield()
                continue
            if waited > self.timeout:
                late = " and ".join(map(str, np.flatnonzero(self.counts < self.turn)))
                raise UserError(f"process {late} (the first is 0) has not come to a step in {self.timeout:.0f} seconds")
            if start + waited > looked + LOOK:
                looked = start + waited
                self.look()
            time.sleep(min(waited / 10, 0.01))


def shared_sum(look: Callable[[], None], timeout: float = 1800) -> SharedSum | None:
    """The sum over the processes of torch's group; None unless all are on this machine, Linux on x86-64.

    All processes must call it. The memory goes when the last of them ends, however it ends.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    able = sys.platform == "linux" and platform.machine() == "x86_64"
    name, memory = None, None
    if able and not rank:
        with suppress(OSError):  # no such folder, or no room in it
            name, memory = _made(SharedSum.size(world))
    names = [name]
    found: list[bool] = [False] * world
    try:
        dist.broadcast_object_list(names)
        if able and rank and names[0]:
            with suppress(OSError):  # of another machine
                memory = _opened(names[0], SharedSum.size(world))
        dist.all_gather_object(found, memory is not None)
    finally:
        if name:
            os.unlink(name)
    return SharedSum(memory, rank, world, look, timeout) if memory is not None and all(found) else None


def _made(size: int) -> tuple[str, mmap.mmap]:
    """A new file in memory, and what it holds. Raises OSError where there is no room: later that would be a SIGBUS."""
    file, name = tempfile.mkstemp(prefix=f"cvae-{os.getpid()}-", dir="/dev/shm")
    try:
        os.posix_fallocate(file, 0, size)
        return name, mmap.mmap(file, size)
    except OSError:
        os.unlink(name)
        raise
    finally:
        os.close(file)


def _opened(name: str, size: int) -> mmap.mmap:
    with Path(name).open("r+b") as file:
        return mmap.mmap(file.fileno(), size)
