"""The plain loop in several processes on one machine: `bare`, and one sum of all gradients a step."""

import os
import subprocess
import sys
import tempfile

import torch
import torch.distributed as dist

from benchmarks.ours import Bare, bare
from benchmarks.turns import Turns
from cvae.runtime.devices import keep_freed_memory, tell_torch_of_no_gpu

RANK, STORE = "BENCHMARKS_RANK", "BENCHMARKS_STORE"


def step(ours: Bare, index: torch.Tensor, parameters: list[torch.Tensor], count: int) -> None:
    ours.optimizer.zero_grad()
    ours.loss(index).backward()
    if count > 1:
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= count
        parts = flat.split([p.numel() for p in parameters])
        torch._foreach_copy_(
            [p.grad for p in parameters], [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
        )
    ours.optimizer.step()


def main(processes: str, images: str, *overrides: str) -> None:
    count, rank = int(processes), int(os.environ.get(RANK, 0))
    keep_freed_memory()
    tell_torch_of_no_gpu()
    if count > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = os.environ.setdefault(STORE, os.path.join(tempfile.mkdtemp(), "store"))
        for other in range(1, count if not rank else 1):
            command = [sys.executable, "-m", "benchmarks.peers.bare_processes", processes, images, *overrides]
            subprocess.Popen(command, env=os.environ | {RANK: str(other)}, stdin=subprocess.DEVNULL)
        dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=count)
    ours = bare(images, list(overrides))
    parameters = [p for group in ours.optimizer.param_groups for p in group["params"]]
    share = len(ours.x) // count
    turns = None if rank else Turns(-(-share // ours.batch_size))
    while True:
        if turns:  # the others wait for the first one's gradients
            turns.wait()
        for index in torch.randperm(len(ours.x))[:share].split(ours.batch_size):
            step(ours, index, parameters, count)


if __name__ == "__main__":
    main(*sys.argv[1:])
