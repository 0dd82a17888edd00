"""Devices, their memory, and their random numbers."""

import ctypes
import os
import platform
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from cvae.runtime import devices
from cvae.runtime.devices import available, float32, free_memory, keep_freed_memory, main_memory, tell_torch_of_no_gpu
from cvae.runtime.noise import fixed_noise


def machine(monkeypatch, cuda, mps):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "there"),
    [
        (False, False, ["auto", "cpu"]),
        (True, False, ["auto", "cpu", "gpu", "cuda"]),
        (False, True, ["auto", "cpu", "mps"]),
    ],
)
def test_the_devices_of_a_machine(monkeypatch, cuda, mps, there):
    machine(monkeypatch, cuda, mps)
    for name in ("auto", "cpu", "gpu", "cuda", "mps", "tpu"):
        if name in there:
            assert available("key", name) == name
        else:
            said = f"^key={name}: must be a device of this machine: one of {', '.join(there)}$"
            with pytest.raises(ValueError, match=said):
                available("key", name)


@pytest.mark.parametrize(("libc", "told"), [("glibc", [(-1, 2**31 - 1), (-3, 2**30)]), ("", []), ("musl", [])])
def test_glibc_alone_is_told_to_keep_what_is_freed(monkeypatch, libc, told):
    calls, loaded = [], []
    library = SimpleNamespace(mallopt=lambda parameter, value: calls.append((parameter, value)) or 1)
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded.append(name) or library)
    keep_freed_memory()
    assert calls == told and loaded == ([None] if told else [])


@pytest.mark.parametrize(("there", "told"), [(False, ""), (True, "1")])
def test_torch_is_told_where_there_is_no_gpu(monkeypatch, there, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    tell_torch_of_no_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == told


def test_noise_on_an_apple_gpu_is_fixed_and_put_back(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "state")
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: calls.append(seed))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: calls.append(state))
    before = torch.get_rng_state()
    with pytest.raises(KeyError), fixed_noise(5, SimpleNamespace(type="mps")):
        assert calls == [5] and torch.initial_seed() == 5
        raise KeyError
    assert calls == [5, "state"] and torch.equal(torch.get_rng_state(), before)


def test_noise_on_a_gpu_is_that_of_the_device_alone(monkeypatch):
    calls, device = [], SimpleNamespace(type="cuda", index=1)

    @contextmanager
    def noted(name, what):
        calls.append((name, what))
        yield
        calls.append(f"end of {name}")

    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: noted("fork", devices))
    monkeypatch.setattr(torch.cuda, "device", lambda chosen: noted("device", chosen))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: calls.append(seed))
    with fixed_noise(5, device):
        calls.append("inside")
    assert calls == [("fork", [device]), ("device", device), 5, "end of device", "inside", "end of fork"]


def test_noise_on_the_cpu_leaves_gpus_alone(monkeypatch):
    forked = []
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forked.append(devices) or fork(devices))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: pytest.fail("CUDA"))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: pytest.fail("MPS"))
    with fixed_noise(5, torch.device("cpu")):
        assert torch.initial_seed() == 5
    assert forked == [[]]


def test_free_memory_is_that_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (11 + device.index, 80))
    assert [free_memory(torch.device(name)) for name in ("cpu", "mps", "cuda:2")] == [0, 0, 13]


def test_the_main_memory_that_is_left(monkeypatch, tmp_path):
    """The least of what there is, what is free, and what a container may have."""
    import os

    files = {name: tmp_path / name for name in ("meminfo", "new", "old")}
    monkeypatch.setattr("cvae.runtime.devices.MEMINFO", files["meminfo"])
    monkeypatch.setattr("cvae.runtime.devices.LIMITS", (files["new"], files["old"]))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.get)
    assert main_memory() == 4_096_000
    files["meminfo"].write_text("MemTotal:       4000 kB\nMemAvailable:       3000 kB\nSwapFree: 1 kB\n")
    assert main_memory() == 3_072_000
    files["new"].write_text("max\n")
    assert main_memory() == 3_072_000
    files["new"].write_text("2000000\n")
    files["old"].write_text("9223372036854771712\n")
    assert main_memory() == 2_000_000
    files["old"].write_text("1000\n")
    assert main_memory() == 1000


def test_the_main_memory_of_this_machine():
    assert 2**20 < main_memory() < 2**50


def test_inside_float32_nothing_is_rounded_and_outside_all_is_as_before():
    x, before = torch.randn(5, 40), (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(KeyError), float32(torch.device("cpu")):
            assert (x @ x.T).dtype == torch.float32
            assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
            raise KeyError
        assert (x @ x.T).dtype == torch.bfloat16
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before == (True, "highest")


def test_the_main_memory_that_limits_leave(monkeypatch, tmp_path):
    """`ulimit -v` counts all addresses, `ulimit -d` what is written to; both in pages of /proc/self/statm."""
    import resource

    monkeypatch.setattr(devices, "STATM", tmp_path / "statm")
    (tmp_path / "statm").write_text("1000 500 200 1 0 300 0\n")
    limits = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], 0))
    page = resource.getpagesize()
    assert devices.left_of_limits() == []
    limits[resource.RLIMIT_DATA] = 310 * page
    assert devices.left_of_limits() == [10 * page] and main_memory() == 10 * page
    limits[resource.RLIMIT_AS] = 999 * page
    assert main_memory() == 0
