"""Devices and their memory."""

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cvae.checks import one_of

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")  # Lightning's names
DEVICES = ("cpu", "cuda", "mps")  # torch's names
MEMINFO = Path("/proc/meminfo")  # of Linux
STATM = Path("/proc/self/statm")  # of Linux
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


def available(key: str, name: str, names: tuple[str, ...] = ACCELERATORS) -> str:
    """Return `name`, or raise ConfigError unless it is one of the `names` and this machine has such a device."""
    cuda = torch.cuda.is_available()
    there = {"auto": True, "cpu": True, "gpu": cuda, "cuda": cuda, "mps": torch.backends.mps.is_available()}
    return one_of(key, name, [device for device in names if there[device]], "a device of this machine: ")


def free_memory(device: torch.device) -> int:
    """The bytes that are free on a GPU; 0 for other devices, which have no memory of their own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def main_memory() -> int:
    """The bytes of main memory that this process may still take; all there are where the system does not say more."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if MEMINFO.exists() and (line := re.search(r"^MemAvailable: *(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)):
        found.append(1024 * int(line[1]))
    texts = [file.read_text().strip() for file in LIMITS if file.exists()]
    return max(0, min(found + [int(text) for text in texts if text.isdecimal()] + left_of_limits()))


def left_of_limits() -> list[int]:
    """The bytes that `ulimit -v` and `ulimit -d` leave to this process, where they are set."""
    if not STATM.exists():
        return []
    import resource  # where there is /proc, there is this

    pages = STATM.read_text().split()
    used = {resource.RLIMIT_AS: pages[0], resource.RLIMIT_DATA: pages[5]}  # all addresses; data and stack
    limits = {kind: resource.getrlimit(kind)[0] for kind in used}
    return [
        limit - int(used[kind]) * resource.getpagesize()
        for kind, limit in limits.items()
        if limit != resource.RLIM_INFINITY
    ]


def tell_torch_of_no_gpu() -> None:
    """Say in CUDA_VISIBLE_DEVICES that there is no GPU, if torch finds none.

    Otherwise its optimizers look for one at each step: a torch built for CUDA tries to load the driver's library, which
    takes 0.5 ms of the tutorial's step of 9 ms on 2 cores.
    """
    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse large blocks that a step frees, as CUDA's allocator does, not to give them back.

    Otherwise the kernel maps and zeroes the same megabytes anew at each step, about a quarter of the CPU time of the
    tutorial's step. Elsewhere (macOS, Windows, musl) nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, in bytes
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Inside, layers compute in float32, as reported figures do: without autocast, and on a GPU without TF32.

    A GPU's convolutions would otherwise round what they read to the 10 bits of TF32, torch's default.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
