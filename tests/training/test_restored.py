"""What a checkpoint must be like before a training takes it, by value."""

import warnings
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning import callbacks as lightnings
from test_added import calls

from cvae.errors import UserError
from cvae.training import restored
from cvae.training.restored import (
    complete,
    give_back,
    going_on,
    require_like,
    require_optimizer,
    require_state,
    require_sums,
    scheduled_anew,
    take_up,
    texts,
)


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


def restores(file, begun, *modules, kind=ValueError):
    """An error while a checkpoint is taken, raised by the last of these modules, in a chain of calls."""
    space = {"going_on": going_on, "file": file, "begun": lambda: begun, "__name__": "cvae.training.train"}
    space["call"] = calls(*modules, kind=kind)
    exec("def restore():\n with going_on(file, begun): call()", space)
    space["restore"]()


def test_an_error_before_a_checkpoint_is_taken_is_the_checkpoints(tmp_path):
    file, modules = tmp_path / "last.ckpt", ("pytorch_lightning.trainer", "cvae.training.module", "torch.optim", "copy")
    with pytest.raises(UserError) as found:
        restores(file, False, *modules)
    assert str(found.value) == f"{file} does not hold the state of this training: ValueError: too"
    assert isinstance(found.value.__cause__, ValueError)
    for checkpoint, begun in ((None, False), (None, True), (file, True)):
        with pytest.raises(ValueError, match="large"):
            restores(checkpoint, begun, *modules)
    for kind in (UserError, OSError):
        with pytest.raises(kind, match="^too\n  large$"):
            restores(file, False, *modules, kind=kind)


@pytest.mark.parametrize("more", [(), ("torch.optim",), ("cvae.training.module", "pytorch_lightning.trainer")])
def test_an_error_of_what_the_user_added_is_not_the_checkpoints(tmp_path, more):
    with pytest.raises(ValueError, match="large") as found:
        restores(tmp_path / "last.ckpt", False, "pytorch_lightning.trainer", "my_callbacks", *more)
    assert type(found.value) is ValueError


class Mine(L.Callback):
    """A user's own, whose state is its own affair."""

    def state_dict(self):
        return {"wait_count": 0}


STOP = lightnings.EarlyStopping("test/elbo")


def saved(**changed):
    """What `require_state` reads of a checkpoint."""
    return {
        "optimizer_states": [{}], "lr_schedulers": [{}], "cvae": {"data": "abc"}, "loops": {"fit_loop": {"epoch": 3}},
        "callbacks": {},
    } | changed  # fmt: skip


def stands():
    """What it looks at of a trainer."""
    loop = SimpleNamespace(state_dict=lambda: {"epoch": 0})
    return SimpleNamespace(datamodule=SimpleNamespace(fingerprint="abc"), fit_loop=loop, callbacks=[Mine(), STOP])


@pytest.mark.parametrize(
    "changed",
    [
        {}, {"cvae": {}}, {"cvae": {"data": None}}, {"loops": {"fit_loop": {"epoch": 0}}},
        {"callbacks": {Mine().state_key: {"wait_count": "x"}, STOP.state_key: {"wait_count": 4}}},
        {"callbacks": {"gone": {"best_model_path": "run/checkpoints/best.ckpt", "a.b": 1}}},
    ],
)  # fmt: skip
def test_a_state_of_this_training(changed):
    require_state(stands(), saved(**changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"optimizer_states": [{}, {}]}, "has not the states of one optimizer and one schedule"),
        ({"optimizer_states": []}, "has not the states of one"), ({"lr_schedulers": []}, "has not the states of one"),
        ({"lr_schedulers": [{}, {}]}, "has not the states of one"), ({"cvae": {"data": "abd"}}, "with other images$"),
        ({"loops": {"fit_loop": {"epoch": -1}}}, "loops.fit_loop.epoch is not what"),
        ({"loops": {}}, "loops.fit_loop is not what"),
        ({"callbacks": {STOP.state_key: {"wait_count": "x"}}}, "callbacks.EarlyStopping.wait_count is not what"),
        ({"callbacks": {"gone": [{"path": "run/../mine"}]}}, "name 'run/../mine', which leads out of the run$"),
        ({"callbacks": {"gone": {"s3://mine": 0.5}}}, "name 's3://mine', which leads out of the run$"),
    ],
)  # fmt: skip
def test_a_state_of_another_training(changed, said):
    with pytest.raises(UserError, match=f"^the checkpoint.*{said}"):
        require_state(stands(), saved(**changed))


@pytest.mark.parametrize("old", [False, True])
def test_what_a_module_gets_back(monkeypatch, old):
    """Of its own process; a checkpoint of earlier versions has neither averages, nor guard, nor an end."""
    required, loaded = [], []
    monkeypatch.setattr(restored, "require_state", lambda *given: required.append(given))
    monkeypatch.setattr(restored, "as_counted_here", lambda content, minibatches: (content, minibatches))
    own = {"processes": ["of 0", "of 1"], "figures": {"a": 1.0}, "points": {"a": 3}, "max_epochs": 5}
    own |= {} if old else {"averages": {"w": 2}, "gradients": {"g": 1}, "should_stop": True}
    trainer, checkpoint = SimpleNamespace(datamodule=SimpleNamespace(minibatches=10)), {"cvae": own}
    module = SimpleNamespace(trainer=trainer, global_rank=1, guard=SimpleNamespace(load_state=loaded.append))
    give_back(checkpoint, module)
    assert required == [(trainer, checkpoint)] and trainer.datamodule.minibatches == (checkpoint, 10)
    assert (module.figures, module.points, module.sums, module.planned) == ({"a": 1.0}, {"a": 3}, "of 1", 5)
    assert module.figures is not own["figures"] and module.points is not own["points"]
    assert (module.averaged, loaded, module.stopping) == (({}, [{}], False) if old else ({"w": 2}, [{"g": 1}], True))


@pytest.mark.parametrize(("planned", "by_step", "stops", "counted"), [
    (4, True, True, None), (4, False, False, None), (3, True, True, 7), (3, False, False, 2),
])  # fmt: skip
def test_where_a_training_begins(monkeypatch, planned, by_step, stops, counted):
    """One of another length than planned does not end where that one was ended, and has a schedule of its length."""
    asked, loaded = [], []
    monkeypatch.setattr(restored, "require_optimizer", lambda *given: asked.append(given))
    monkeypatch.setattr(restored, "scheduled_anew", lambda *given: given)
    schedule, sums = SimpleNamespace(scheduler="old"), {
        name: {"names": ["a"], "sums": [torch.zeros(1)]} for name in ("window", "epoch")
    }  # fmt: skip
    trainer = SimpleNamespace(
        lr_scheduler_configs=[schedule], max_epochs=4, global_step=7, current_epoch=2, should_stop=False
    )
    module = SimpleNamespace(
        trainer=trainer, sums=sums, names=("a",), planned=planned, stopping=stops, by_step=by_step, device="cpu",
        make_optimizer="optimizers", make_scheduler="schedulers",
    )  # fmt: skip
    for name in sums:
        totals = SimpleNamespace(load_state_dict=lambda *given, name=name: loaded.append((name, *given)))
        setattr(module, name, totals)
    take_up(module, "optimizer")
    assert asked == [("optimizer", "old", "optimizers", "schedulers")]
    assert loaded == [(name, sums[name], "cpu") for name in ("window", "epoch")]
    assert trainer.should_stop is (stops and planned == 4)
    assert schedule.scheduler == ("old" if counted is None else ("optimizer", "schedulers", counted))
    module.sums, module.names = sums, ("b",)
    with pytest.raises(UserError, match="other figures in window"):
        take_up(module, "optimizer")


@pytest.mark.parametrize("first", [True, False])
def test_what_a_checkpoint_gets(monkeypatch, first):
    """The first process alone knows where the curves are. The weights are those that the steps change."""
    monkeypatch.setattr(restored, "positions", lambda loggers: [loggers])
    monkeypatch.setattr(restored, "of_all_processes", lambda own: [own])
    monkeypatch.setattr(restored, "out_of_time", lambda trainer: trainer.out)
    data = SimpleNamespace(minibatches=10, fingerprint="abc")
    trainer = SimpleNamespace(datamodule=data, max_epochs=5, should_stop=True, out=first, is_global_zero=first)
    parts = {name: SimpleNamespace(state_dict=lambda name=name: name) for name in ("window", "epoch")}
    averages = SimpleNamespace(of_checkpoint=lambda: ({"w": 1}, {"w": 2})) if first else None
    module = SimpleNamespace(
        trainer=trainer, figures={"a": 1.0}, points={"a": 3}, guard=SimpleNamespace(state=lambda: "g"), loggers="logs",
        averages=averages, require_finite_weights=lambda: trainer.__setattr__("asked", True), **parts,
    )  # fmt: skip
    checkpoint = {"state_dict": {"vae.w": 1, "other": 3}}
    complete(checkpoint, module)
    own = checkpoint["cvae"]
    expected = {
        "processes": [{"window": "window", "epoch": "epoch"}], "figures": {"a": 1.0}, "points": {"a": 3},
        "minibatches": 10, "max_epochs": 5, "gradients": "g", "should_stop": not first, "data": "abc",
        "logs": ["logs"] if first else [],
    } | ({"averages": {"w": 1}} if first else {})  # fmt: skip
    assert own == expected | {"format": restored.FORMAT, "version": restored.VERSION} and trainer.asked
    assert checkpoint["state_dict"] == {"vae.w": 2 if first else 1, "other": 3}
