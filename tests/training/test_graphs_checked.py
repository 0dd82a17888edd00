"""A recording that does something else than its step is found out, and numbers that would be frozen in it."""

import importlib

import pytest
import torch
from conftest import config
from recorded import OPTIMIZERS, Recorder, graphed, recorder, without_gpu  # noqa: F401, fixtures
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from cvae.build import make
from cvae.training import graphs
from cvae.training.graphs import WARM_UP, Graphed, capturable
from cvae.training.step_state import Operators, difference


class Baked(Recorder):
    """A step with a Python number in it: a replay has the inputs of the recording."""

    def __call__(self, step, inputs, stream=None):
        return super().__call__(step, [part.clone() for part in inputs])


class SameNoise(Recorder):
    """A replay draws what was drawn when it was recorded."""

    def __call__(self, step, inputs, stream=None):
        self.noise = torch.get_rng_state()
        return super().__call__(step, inputs)

    def repeat(self, step, inputs):
        torch.set_rng_state(self.noise)
        return step(*inputs)


class Skips(Recorder):
    """A replay leaves one tensor as it is."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def repeat(self, step, inputs):
        before = self.tensor().detach().clone()
        result = step(*inputs)
        self.tensor().detach().copy_(before)
        return result


class Raises(Recorder):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def repeat(self, step, inputs):
        if self.replays == self.number:
            torch.rand(1)
            raise RuntimeError("an illegal memory access was encountered")
        return step(*inputs)


class Toy:
    """A step with all that can go wrong: noise, the step's number, weights, a buffer, an optimizer with a state."""

    def __init__(self):
        self.module = nn.Module()
        self.module.weight, self.module.bias = nn.Parameter(torch.ones(50)), nn.Parameter(torch.zeros(1))
        self.module.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=0.01, fused=True)
        self.take = Graphed(self.step, self.optimizer, torch.device("cpu"), self.module)
        self.uneven = 0.0  # what another order of a sum would add

    def step(self, x, number):
        self.optimizer.zero_grad()
        noise = torch.randn(50)
        loss = ((self.module.weight * x + self.module.bias - noise) ** 2).mean() * (1 + number)
        loss.backward()
        self.module.weight.grad += self.uneven * torch.rand(50, generator=UNSEEDED)
        self.optimizer.step()
        self.module.steps += 1
        return loss.detach()

    def run(self, steps=10, plain=False):
        """All that they leave, and what they returned."""
        results = []
        for number in range(steps):
            torch.manual_seed(number)
            x = torch.linspace(0, 1, 50) + number
            results.append(self.step(x, torch.tensor(number)) if plain else self.take(x, number))
        state = [value for kept in self.optimizer.state.values() for value in kept.values()]
        return [*self.module.state_dict().values(), *state, torch.stack([result.double() for result in results])]


UNSEEDED = torch.Generator()
HOSTILE = {  # -> the recorder, and what the log line names
    "a number is baked in": (lambda toy: Baked(), "the step does, "),
    "the noise is baked in": (lambda toy: SameNoise(), "the step does, "),
    "a weight is left out": (lambda toy: Skips(lambda: toy.module.bias), "bias is off by 100%"),
    "a buffer is left out": (lambda toy: Skips(lambda: toy.module.steps), "steps is off by 100%"),
    "a moment is left out": (
        lambda toy: Skips(lambda: toy.optimizer.state[toy.module.weight]["exp_avg"]),
        "optimizer's weight.exp_avg is off by 100%",
    ),
    "the first replay fails": (lambda toy: Raises(1), "illegal memory access"),
    "a later replay fails": (lambda toy: Raises(4), "illegal memory access"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recording_that_does_something_else_is_found_out_and_the_run_goes_on_right(name, monkeypatch, caplog):
    toy = Toy()
    recorder = without_gpu(monkeypatch, HOSTILE[name][0](toy))
    found, expected = toy.run(), Toy().run(plain=True)
    torch.testing.assert_close(found, expected)
    assert not toy.take.recorded and recorder.recorded == 1 and recorder.replays <= 5
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Training goes on without CUDA graphs: ") and HOSTILE[name][1] in line


def test_a_recording_that_does_the_same_stays(recorder, caplog):
    toy = Toy()
    torch.testing.assert_close(toy.run(), Toy().run(plain=True))
    assert toy.take.recorded and recorder.replays == 10 - WARM_UP and not caplog.records


def test_steps_that_differ_by_themselves_are_no_reason(recorder, caplog):
    """Kernels may add up in another order each time."""
    toy = Toy()
    toy.uneven = 0.5
    toy.run()
    assert toy.take.recorded and not caplog.records


def test_a_step_that_puts_another_tensor_in_the_place_of_one_is_not_recorded(recorder, monkeypatch, caplog):
    """While it is recorded nothing is computed: that tensor would have no values."""
    toy, seen = Toy(), []
    plain = toy.take.step

    def step(x, number):
        result = plain(x, number)
        seen.append(toy.module.steps)
        toy.module.steps = toy.module.steps.clone()
        return result

    def record(take, inputs, stream):
        take(*inputs)
        return lambda: None, inputs[0]

    toy.take.step = step
    monkeypatch.setattr(graphs, "record", record)
    toy.run(WARM_UP + 1)
    assert not toy.take.recorded and "another object in the place of steps" in caplog.text
    assert len(seen) == WARM_UP + 2 and seen[-1] is seen[-2]


def test_torch_compile_has_compiled_before_operators_are_noted(recorder):
    """Where they are noted it does not, and while a step is recorded it must not."""
    noting = []
    take, _ = graphed(lambda x: noting.append(len(_get_current_dispatch_mode_stack())) or x + 1)
    for _ in range(WARM_UP + 1):
        take(torch.ones(1))
    assert noting[0] == noting[WARM_UP - 1] == 0 and max(noting) == 1


def test_a_number_of_pythons_that_changes_from_step_to_step_is_not_recorded(recorder, caplog):
    calls = []
    take, _ = graphed(lambda x: calls.append(0) or x * float(len(calls)))
    assert [take(torch.ones(1)).item() for _ in range(WARM_UP + 3)] == list(range(1, WARM_UP + 4))
    assert recorder.recorded == 0 and "aten.mul.Tensor with 2.0, the next one with 3.0" in caplog.text


NUMBERS = {"adagrad": ["optimizer.lr_decay=0.1"]}  # what an optimizer would count by


def steps_of(name, *words):
    """(the optimizer, the operators of its fifth and sixth step, told that they are recorded)"""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimizer, seen = make(config(f"optimizer={name}", *words), "optimizer")(weights), []
    capturable(optimizer, True)
    for _ in range(6):
        with Operators() as operators:
            optimizer.zero_grad()
            sum(weight.square().sum() for weight in weights).backward()
            optimizer.step()
        seen.append(operators.seen)
    return optimizer, *seen[-2:]


@pytest.fixture
def capturable_here(monkeypatch):
    """torch lets optimizers be captured on a CPU, too."""
    for name in OPTIMIZERS:
        module = importlib.import_module(f"torch.optim.{name}")
        if hasattr(module, "_get_capturable_supported_devices"):
            monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_of_every_optimizer_are_the_same(name, capturable_here):
    _, fifth, sixth = steps_of(name, *NUMBERS.get(name, []))
    assert len(fifth) > 5 and difference(fifth, sixth) == ""


def test_an_optimizer_that_counts_in_python_is_seen():
    _, fifth, sixth = steps_of("adagrad", *NUMBERS["adagrad"], "optimizer.fused=false")
    assert "addcdiv" in difference(fifth, sixth) or "_foreach" in difference(fifth, sixth)
