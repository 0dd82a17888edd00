"""Fixed noise on devices that this machine may lack: which generators are set, in which order, and what is restored."""

from contextlib import contextmanager

import pytest
import torch

from cvae.runtime.noise import fixed_noise, seed_step


@pytest.fixture
def events(monkeypatch):
    """What is done to the generators of CUDA and MPS, in place of doing it."""
    done = []

    def note(name):
        def noted(*args):
            done.append((name, *args))
            return f"{name} of before"

        return noted

    def noted_context(name):
        @contextmanager
        def entered(*args):
            done.append((name, *args))
            yield
            done.append((f"end of {name}",))

        return entered

    monkeypatch.setattr(torch.random, "fork_rng", noted_context("fork"))
    monkeypatch.setattr(torch.cuda, "device", noted_context("cuda device"))
    monkeypatch.setattr(torch.cuda, "manual_seed", note("cuda seed"))
    monkeypatch.setattr(torch.mps, "manual_seed", note("mps seed"))
    monkeypatch.setattr(torch.mps, "get_rng_state", note("mps state"))
    monkeypatch.setattr(torch.mps, "set_rng_state", note("mps restored"))
    return done


CUDA, MPS, CPU = torch.device("cuda", 1), torch.device("mps"), torch.device("cpu")
EXPECTED = {
    CPU: [("fork", []), ("inside",), ("end of fork",)],
    CUDA: [
        ("fork", [CUDA]), ("cuda device", CUDA), ("cuda seed", 7), ("end of cuda device",), ("inside",),
        ("end of fork",),
    ],
    MPS: [
        ("mps state",), ("fork", []), ("mps seed", 7), ("inside",), ("mps restored", "mps state of before"),
        ("end of fork",),
    ],
}  # fmt: skip


@pytest.mark.parametrize("device", EXPECTED, ids=str)
def test_generators(device, events):
    with fixed_noise(7, device):
        events.append(("inside",))
        assert torch.default_generator.initial_seed() == 7
    assert events == EXPECTED[device]


def test_mps_is_restored_after_an_error(events):
    with pytest.raises(KeyError), fixed_noise(7, MPS):
        raise KeyError
    assert ("mps restored", "mps state of before") in events


@pytest.mark.parametrize("device", EXPECTED, ids=str)
def test_noise_of_a_step_seeds_the_device_alone_and_restores_nothing(device, events):
    seed_step(7, 1, device=device)
    seed = torch.default_generator.initial_seed()
    seed_step(7, 1, device=CPU)
    assert torch.default_generator.initial_seed() == seed
    of_cuda = [("cuda device", CUDA), ("cuda seed", seed), ("end of cuda device",)]
    assert events == {CPU: [], CUDA: of_cuda, MPS: [("mps seed", seed)]}[device]
