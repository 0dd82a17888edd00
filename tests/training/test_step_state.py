"""All that a step changes: kept, put back and compared, by value."""

import pytest
import torch
from torch import nn

from cvae.training.step_state import StepState, difference, shares

CPU = torch.device("cpu")


@pytest.fixture
def parts():
    """A module with a buffer, its optimizer with a state, and a step that draws numbers."""
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    def step():
        optimizer.zero_grad()
        module(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()

    step()
    return StepState(module, optimizer, CPU), step


def copied(state):
    return {name: tensor.clone() for name, tensor in state.tensors().items()}


def test_everything_comes_back_in_place(parts):
    state, step = parts
    kept, before, places = state.keep(), copied(state), state.tensors()
    assert {"0.weight", "1.running_mean", "1.num_batches_tracked", "the optimizer's 0.weight.momentum_buffer"} <= set(
        before
    )
    step()
    after, drawn = copied(state), torch.rand(1)
    assert all(not torch.equal(after[name], before[name]) for name in before if name != "0.bias"), "a step changes it"
    for _ in range(2):  # what was kept is not changed by what comes later
        state.put_back(kept)
        assert all(torch.equal(value, before[name]) for name, value in state.tensors().items())
        assert all(value is places[name] for name, value in state.tensors().items())
        step()
        assert all(torch.equal(value, after[name]) for name, value in state.tensors().items())
        assert torch.equal(torch.rand(1), drawn)  # the noise, too


def test_what_is_new_since_stays_as_it_is(parts):
    state, _ = parts
    kept = state.keep()
    state.module.register_buffer("new", torch.ones(2))
    state.put_back(kept)
    assert state.module.new.tolist() == [1, 1]


def test_objects_that_were_put_in_the_place_of_others_are_named_and_go(parts):
    state, _ = parts
    before, bias, mean = state.objects(), state.module[0].bias, state.module[1].running_mean
    assert state.put_back_objects(before) == ""
    state.module[0]._parameters["bias"] = nn.Parameter(torch.zeros(2))
    state.module[1]._buffers["running_mean"] = mean.clone()
    state.module[1]._buffers["another"] = mean.clone()
    assert state.put_back_objects(before) == "0.bias"  # the first
    assert state.module[0].bias is bias and state.module[1].running_mean is mean
    assert "another" not in state.module[1]._buffers and state.put_back_objects(before) == ""
    state.module[1]._buffers["another"] = mean.clone()  # alone
    assert state.put_back_objects(before) == "1.another" and "another" not in state.module[1]._buffers


def test_the_first_difference_of_two_steps_in_words():
    one = [("add", ["float32 (2,)", "1.0"]), ("mul", ["2"])]
    assert difference(one, list(one)) == ""
    assert difference(one, one[:1]) == "where one step calls mul, the next one calls nothing"
    assert difference(one[:1], one) == "where one step calls nothing, the next one calls mul"
    assert difference(one, [one[0], ("div", ["2"])]) == "where one step calls mul, the next one calls div"
    other = [("add", ["float32 (2,)", "1.5"]), ("div", ["2"])]
    assert difference(one, other) == "one step calls add with 1.0, the next one with 1.5"


def test_how_far_a_tensor_is_off_as_a_share_of_its_way():
    before = {"a": torch.zeros(2), "b": torch.tensor([3]), "c": torch.tensor([100.0]), "gone": torch.ones(1)}
    expected = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([5]), "c": torch.tensor([100.0])}
    found = {"a": torch.tensor([3.0, 3.0]), "b": torch.tensor([4]), "c": torch.tensor([100.0 + 5e-5]), "d": before["a"]}
    assert shares(found, expected, before) == {"a": pytest.approx(0.2), "b": 0.5, "c": 0}  # c: rounding
    found["c"] = torch.tensor([100.0 + 2e-4])
    assert shares(found, expected, before)["c"] == torch.inf  # it should not have moved
    assert shares({"a": expected["a"]}, expected, before) == {"a": 0}
    assert shares({"a": expected["a"] * (1 + 2e-7)}, expected, before) == {"a": 0}  # rounding, too
