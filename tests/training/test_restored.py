"""What a checkpoint must be like before a training takes it, by value."""

import warnings

import pytest
import torch

from cvae.errors import UserError
from cvae.training.restored import require_like, require_optimizer, require_sums, scheduled_anew, texts


@pytest.mark.parametrize(
    ("found", "own"),
    [
        ({"a": 1, "more": "x"}, {"a": 2.5, "missing": 3}),
        ([1, 2.5, 3], [0]), ((1,), [0, 0]), (["x"], []), ([], [1]),
        (True, False), ("x", "y"), (-1, 5), (1, 0.5),
        (None, None), (2, None), (torch.tensor(1.0), None),
        (torch.zeros(2, 3), torch.ones(2, 3)),
    ],
)  # fmt: skip
def test_what_fits(found, own):
    require_like(found, own, "place")


@pytest.mark.parametrize(
    ("found", "own", "place"),
    [
        ([1], {"a": 1}, "place"), ({"a": {"b": "x"}}, {"a": {"b": 1}}, "place.a.b"), ({"a": 1}, [1], "place"),
        ([1, 2, "x"], [0], "place.2"), ([[1], ["x"]], [[0], ["y"]], "place.1.0"),
        (1, True, "place"), (True, 1, "place"), (1, "x", "place"), ("x", 1.0, "place"), (None, 1, "place"),
        (torch.zeros(3), torch.zeros(3, 1), "place"), (1.0, torch.tensor(1.0), "place"),
        (torch.tensor(1.0), 1.0, "place"),
        (torch.zeros(1), None, "place"), ("x", None, "place"), (True, None, "place"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_place(found, own, place):
    with pytest.raises(UserError, match=f"^the checkpoint's {place} is not what this training would save there$"):
        require_like(found, own, "place")


@pytest.mark.parametrize("found", [-1, 1.0, True, {"a": -1}])
def test_counts_are_whole_numbers_from_0(found):
    own = {"a": 3} if isinstance(found, dict) else 3
    require_like({"a": 0}, {"a": 3}, "place", counts=True)
    with pytest.raises(UserError, match="place"):
        require_like(found, own, "place", counts=True)


def test_the_reason_of_lightnings_early_stopping_may_be_text():
    place = "callbacks.EarlyStopping.stopping_reason_message"
    require_like("x", None, place)
    require_like({"stopping_reason_message": "x"}, {"stopping_reason_message": None}, "callbacks.EarlyStopping")


def test_all_texts_are_seen_keys_too():
    assert list(texts({"a": ["b", ("c", 1)], 2: {"d": {"e": "f"}}, "g": None})) == ["a", "b", "c", "d", "e", "f", "g"]


@pytest.mark.parametrize("place", ["window", "epoch"])
def test_sums_are_of_the_figures_of_a_step_or_of_none(place):
    sums = {name: {"names": ["a", "b"], "sums": [torch.zeros(2)] * 3} for name in ("window", "epoch")}
    require_sums(sums, ("a", "b"))
    require_sums(sums | {place: {"names": [], "sums": []}}, ("a", "b"))
    for wrong in ({"names": ["a"], "sums": [torch.zeros(1)]}, {"names": ["a", "b"], "sums": [torch.zeros(3)]}):
        with pytest.raises(UserError, match=f"other figures in {place} than this training"):
            require_sums(sums | {place: wrong}, ("a", "b"))


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.4)


def halved(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def test_a_schedule_that_begins_anew_is_that_of_as_many_steps():
    """From the first rate of each group, whatever the rate is now."""
    optimizer = adam([{"params": [torch.zeros(1)], "lr": rate} for rate in (0.4, 0.8)])
    halved(optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 7.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = scheduled_anew(optimizer, halved, 3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.1])
    assert scheduler.last_epoch == 3


def trained():
    """An optimizer with the states of two parameters, and its schedule."""
    parameters = [torch.zeros(shape, requires_grad=True) for shape in ((2,), (3, 2))]
    optimizer = adam([{"params": parameters}])
    scheduler = halved(optimizer)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    return optimizer, scheduler, parameters


def test_states_of_an_optimizer_have_the_shapes_of_their_parameters():
    optimizer, scheduler, (one, two) = trained()
    require_optimizer(optimizer, scheduler, adam, halved)
    optimizer.state[two], optimizer.state[one] = optimizer.state[one], optimizer.state[two]
    with pytest.raises(UserError, match="optimizer_states.exp_avg is not what"):
        require_optimizer(optimizer, scheduler, adam, halved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda optimizer, _, one: optimizer.state[one].pop("exp_avg"), "are of another optimizer"),
        (lambda optimizer, _, one: optimizer.param_groups[0].pop("eps"), "optimizer_states lack eps"),
        (lambda optimizer, _, one: optimizer.param_groups[0].update(betas=(0.9,)), "lists of another length"),
        (lambda optimizer, _, one: optimizer.param_groups[0].update(lr="x"), "param_groups.lr is not what"),
        (lambda _, scheduler, one: vars(scheduler).update(last_epoch="x"), "lr_schedulers.last_epoch is not what"),
        (lambda _, scheduler, one: vars(scheduler).update(step=3), "lr_schedulers have 'step', which is no value"),
    ],
)
def test_states_of_something_else_are_refused(change, said):
    optimizer, scheduler, (one, _) = trained()
    change(optimizer, scheduler, one)
    with pytest.raises(UserError, match=said):
        require_optimizer(optimizer, scheduler, adam, halved)
