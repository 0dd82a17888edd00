"""The sum over processes through memory that they share; threads stand for the processes."""

import errno
import os
import platform
import random
import sys
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from cvae.errors import UserError
from cvae.training import gradients, shared_memory
from cvae.training.shared_memory import SharedSum, shared_sum

pytestmark = pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="Linux on x86-64")


class Group:
    """A group of torch's for threads, by what `shared_sum` uses of it."""

    def __init__(self, world, monkeypatch):
        self.world, self.barrier, self.own, self.said = (
            world,
            threading.Barrier(world, timeout=60),
            threading.local(),
            {},
        )
        monkeypatch.setattr(dist, "get_world_size", lambda: world)
        monkeypatch.setattr(dist, "get_rank", lambda: self.own.rank)
        monkeypatch.setattr(dist, "broadcast_object_list", self.broadcast)
        monkeypatch.setattr(dist, "all_gather_object", self.gather)

    def gather(self, found, value):
        self.said[self.own.rank] = value
        self.barrier.wait()
        found[:] = [self.said[rank] for rank in range(self.world)]
        self.barrier.wait()

    def broadcast(self, values):
        found = [None] * self.world
        self.gather(found, values[0])
        values[0] = found[0]

    def run(self, work):
        """work(rank) in a thread of each rank. Returns what each has given, or raises an error of one."""
        results = {}

        def thread(rank):
            self.own.rank = rank
            try:
                results[rank] = work(rank)
            except Exception as error:
                results[rank] = error

        threads = [threading.Thread(target=thread, args=[rank]) for rank in range(self.world)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        for result in results.values():
            if isinstance(result, Exception):
                raise result
        return [results[rank] for rank in range(self.world)]


def sums_of(world, monkeypatch, look=lambda: None, **keys):
    return Group(world, monkeypatch).run(lambda rank: shared_sum(look, **keys))


def left_behind():
    return {name for name in os.listdir("/dev/shm") if name.startswith(f"cvae-{os.getpid()}-")}


@pytest.mark.parametrize("world", [2, 3, 5])
def test_each_gets_the_sum_by_rank_whatever_its_speed(world, monkeypatch):
    monkeypatch.setattr(shared_memory, "CHUNK", 8)
    sums = sums_of(world, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(world, size, generator=generator) for size in (1, 8, 9, 3, 100, 17) * 5]
    waits = random.Random(0)
    pauses = [[waits.choice([0, 0, 0.001, 0.004]) for _ in given] for _ in range(world)]

    def work(rank):
        found = []
        for values, pause in zip(given, pauses[rank], strict=True):
            time.sleep(pause)
            flat = values[rank].clone()
            sums[rank](flat)
            found.append(flat)
        return found

    for found in Group(world, monkeypatch).run(work):
        for values, flat in zip(given, found, strict=True):
            expected = values[0].clone()
            for row in values[1:]:
                expected += row
            assert torch.equal(flat, expected)


def test_nobody_goes_on_before_all_have_come_and_what_the_others_may_still_read_stays(monkeypatch):
    first, second = sums_of(2, monkeypatch)
    one, two = torch.ones(3), torch.full((3,), 10.0)
    thread = threading.Thread(target=first, args=[one])
    thread.start()
    thread.join(0.05)
    assert thread.is_alive() and one.tolist() == [1, 1, 1]
    second(two)
    thread.join(60)
    assert one.tolist() == two.tolist() == [11, 11, 11]
    thread = threading.Thread(target=first, args=[torch.full((3,), 7.0)])
    thread.start()
    thread.join(0.05)
    assert second.rows[1, :, :3].tolist() == [[1, 1, 1], [10, 10, 10]]  # of the turn before
    assert second.rows[0, 0, :3].tolist() == [7, 7, 7]
    second(torch.zeros(3))
    thread.join(60)


def test_who_waits_looks_after_the_others(monkeypatch):
    monkeypatch.setattr(shared_memory, "LOOK", 0.01)
    looks = []

    def look():
        looks.append(time.monotonic())
        if len(looks) == 3:
            raise UserError("process 1 was killed")

    first, _ = sums_of(2, monkeypatch, look)
    with pytest.raises(UserError, match="process 1 was killed"):
        first(torch.ones(3))
    assert looks[2] - looks[0] >= 0.02


def test_who_waits_too_long_says_for_whom(monkeypatch):
    sums = sums_of(3, monkeypatch, timeout=0.05)
    sums[1].counts[1] = 1  # it has come
    with pytest.raises(UserError, match=r"process 2 \(the first is 0\) has not come to a step in 0 seconds"):
        sums[0](torch.ones(3))


def test_the_memory_has_no_name_once_all_have_it(monkeypatch):
    before = left_behind()
    assert all(isinstance(found, SharedSum) for found in sums_of(3, monkeypatch)) and left_behind() == before


def no_room(file, offset, size):
    raise OSError(errno.ENOSPC, "No space left on device")


def of_another_machine(name, size):
    raise FileNotFoundError(name)


@pytest.mark.parametrize(
    ("owner", "name", "other"),
    [
        (os, "posix_fallocate", no_room),
        (shared_memory, "_opened", of_another_machine),
        (platform, "machine", lambda: "aarch64"),
        (sys, "platform", "darwin"),
    ],
)
def test_without_such_memory_all_take_another_way(owner, name, other, monkeypatch):
    before = left_behind()
    monkeypatch.setattr(owner, name, other)
    assert sums_of(2, monkeypatch) == [None, None] and left_behind() == before


def strategy_on(device):
    launcher = SimpleNamespace(require_all=lambda: None)
    return SimpleNamespace(root_device=torch.device(device), launcher=launcher, _timeout=timedelta(seconds=90))


def test_gpus_and_processes_without_such_memory_use_torchs_sum(monkeypatch):
    asked = []
    monkeypatch.setattr(gradients, "several_processes", lambda: True)
    monkeypatch.setattr(gradients, "shared_sum", lambda *given: asked.append(given))
    cpu = strategy_on("cpu")
    assert gradients.sum_over_processes(strategy_on("cuda")) is dist.all_reduce and not asked
    assert gradients.sum_over_processes(cpu) is dist.all_reduce and asked == [(cpu.launcher.require_all, 90.0)]
    monkeypatch.setattr(gradients, "shared_sum", lambda *given: "shared")
    assert gradients.sum_over_processes(cpu) == "shared"


def test_one_process_has_no_sum():
    assert gradients.sum_over_processes(strategy_on("cpu")) is None
