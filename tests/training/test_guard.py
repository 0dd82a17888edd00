"""Steps whose gradient is too large change nothing, and are counted."""

import csv
import itertools
import json
import logging

import pytest
import torch
from conftest import ROOT, config
from same_run import last, table
from test_bit_for_bit import killed, run
from test_waits import NoWaiting
from tiny import QUIET, tiny
from torch import nn

from cvae.build import make
from cvae.errors import ConfigError
from cvae.training.guard import Guard, of_optimizer
from cvae.training.module import VAEModule
from cvae.training.options import check
from cvae.training.train import train

OPTIMIZERS = sorted(file.stem for file in (ROOT / "conf" / "optimizer").iterdir())


@pytest.fixture
def large(monkeypatch):
    """Have the gradients of some steps, counted from 0, multiplied by so much."""

    def change(steps, factor=1e6):
        loss = VAEModule.loss

        def larger(self, *given):
            mean, terms = loss(self, *given)
            return mean * (factor if self.global_step in steps else 1), terms

        monkeypatch.setattr(VAEModule, "loss", larger)

    return change


@pytest.fixture
def states(monkeypatch):
    """What is there before each optimizer step, and at the end: parameters, state of the optimizer, averages."""
    seen, optimize = [], VAEModule.optimize

    def noted(self, *given):
        tensors = [*of_optimizer(self.optimizers(use_pl_optimizer=False)), *self.averages.buffers()]
        if self.begins:
            seen.append([tensor.detach().clone() for tensor in tensors])
        return optimize(self, *given)

    monkeypatch.setattr(VAEModule, "optimize", noted)
    return seen


def same(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("out", [{0, 1, 4}, {2}])
def test_a_step_with_a_large_gradient_changes_nothing(out, optimizer, large, states, tmp_path):
    """Neither the first step, before which torch's optimizers have no state, nor a later one."""
    large(out)
    words = [f"optimizer={optimizer}", "trainer.skip_above=1e4", "averaging.decay=0.5", "logger=csv"]
    train(tiny(tmp_path, *QUIET[:2], *words, "trainer.gradient_clip_val=5"))
    steps = dict(enumerate(itertools.pairwise(states)))
    assert {step for step, pair in steps.items() if same(*pair)} == out and len(steps) == 5
    assert last(tmp_path)["cvae"]["gradients"]["skipped"] == len(out)
    assert json.loads((tmp_path / "metrics.json").read_text())["train/skipped_steps"] == len(out)
    (curves,) = tmp_path.glob("**/metrics.csv")
    rows = [row for row in csv.DictReader(curves.open()) if row["train/skipped_steps"]]
    counted = {int(row["step"]): float(row["train/skipped_steps"]) for row in rows}
    assert counted == {step: len([n for n in out if n < step]) for step in (2, 3, 4, 6)}


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "cvae.training.guard"]


@pytest.mark.parametrize(("out", "epochs"), [({0, 1, 4}, [3]), ({0, 1, 4, 5}, [3, 6]), ({2}, []), ({0, 3, 4}, [])])
def test_a_limit_by_which_most_steps_are_left_out_is_said_after_each_epoch(out, epochs, large, tmp_path, caplog):
    large(out)
    with caplog.at_level(logging.WARNING, "cvae.training.guard"):
        train(tiny(tmp_path, *QUIET, "trainer.skip_above=1e4"))
    counts = [(len([step for step in out if step < steps]), steps) for steps in epochs]
    begin = [f"trainer.skip_above=10000: {skipped} of {steps} steps were skipped; the" for skipped, steps in counts]
    assert [line.split(" last")[0] for line in warnings_of(caplog)] == begin


def test_the_warning_has_the_norm_and_comes_above_one_half(caplog, monkeypatch):
    guard = Guard(2.5)
    guard.load_state({"norm": 61.54321, "skipped": 3})
    with caplog.at_level(logging.WARNING, "cvae.training.guard"):
        assert guard.of_epoch(6) == {"train/skipped_steps": 3.0} and not warnings_of(caplog)
        assert guard.of_epoch(5) == {"train/skipped_steps": 3.0} and Guard(None).of_epoch(5) == {}
    assert warnings_of(caplog) == [
        "trainer.skip_above=2.5: 3 of 5 steps were skipped; the last gradient's norm was 61.54. Choose a higher limit"
    ]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert guard.of_epoch(5) and len(warnings_of(caplog)) == 1  # one process of a run says it


VALUES = {  # of optimizers, that decide what they keep of a parameter
    "adagrad": [["optimizer.initial_accumulator_value=0.5", "optimizer.lr_decay=0.1"], ["optimizer.fused=false"]],
    "adam": [["+optimizer.amsgrad=true", "+optimizer.weight_decay=0.1"], ["optimizer.fused=false"]],
    "adamw": [["+optimizer.maximize=true"], ["optimizer.fused=false", "+optimizer.foreach=true"]],
    "nadam": [["optimizer.momentum_decay=0.1", "optimizer.weight_decay=0.1"]],
    "rmsprop": [["optimizer.momentum=0.9", "optimizer.centered=true", "optimizer.weight_decay=0.1"]],
    "sgd": [
        ["optimizer.momentum=0", "+optimizer.dampening=0.5"], ["optimizer.nesterov=true", "optimizer.weight_decay=0.1"],
        ["optimizer.fused=false", "optimizer.weight_decay=0.1"],
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [[f"optimizer={name}", *values] for name in OPTIMIZERS for values in [[], *VALUES.get(name, [])]],
    ids=lambda words: " ".join(words).replace("optimizer.", ""),
)
def test_steps_are_those_that_would_be_taken_without_those_that_are_left_out(words):
    """Without a guard, with one that leaves none out, and with one that leaves out the first and later steps."""
    made, ends = make(config(*words), "optimizer"), []
    for above, left_out in ((None, ()), (1e6, ()), (1e6, (0, 0, 2))):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
        groups, guard = made([{"params": weights[:1]}, {"params": weights[1:]}]), Guard(above)
        guard.prepare(groups)
        for step in range(4):
            good = [torch.randn_like(weight) for weight in weights]
            bad = [torch.full_like(weight, float("nan") if step else 1e9) for weight in weights]
            for gradients in [bad] * left_out.count(step) + [good]:
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient.clone()
                guard.measure(groups)
                with guard.watching(groups, []):
                    groups.step()
        assert guard.skipped == len(left_out)
        ends.append((weights, groups.state_dict()))
    for end in ends[1:]:
        torch.testing.assert_close(ends[0], end, rtol=0, atol=0)


class Counting(torch.optim.SGD):
    """Counts in Python, and takes smaller and smaller steps."""

    count = 0

    def step(self):
        self.count += 1
        for group in self.param_groups:
            group["lr"] = 1 / self.count
        super().step()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["optimizer=sgd", "+optimizer.dampening=0.5"], "torch.optim.SGD"),
        (["optimizer=sgd", "optimizer._target_=test_guard.Counting"], "test_guard.Counting"),
    ],
)
def test_an_optimizer_whose_steps_would_not_be_exact_is_refused(words, name, tmp_path):
    check(tiny(tmp_path, *words))
    with pytest.raises(ConfigError, match=f"^trainer.skip_above=7.0: must be null with {name} and .* dampening, .*$"):
        check(tiny(tmp_path, *words, "trainer.skip_above=7.0"))


def test_the_steps_that_are_left_out_count_as_steps(large, tmp_path):
    """Schedules are functions of the step; what is no number is no gradient to follow."""
    large({1, 3}, float("nan"))
    train(tiny(tmp_path, *QUIET, "trainer.skip_above=1e4"))
    content = last(tmp_path)
    assert content["global_step"] == 6 and content["cvae"]["gradients"]["skipped"] == 2
    assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_the_norm_is_that_of_the_mean_of_accumulated_minibatches_before_clipping(tmp_path, monkeypatch):
    norms, clipped = [], []

    def measured(self, optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(sum(float((part.double() ** 2).sum()) for part in gradients) ** 0.5)
        measure(self, optimizer)
        clipped.append(float(self.norm))

    measure = Guard.measure
    monkeypatch.setattr(Guard, "measure", measured)
    words = ["data.source.train_size=32", "+trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1"]
    train(tiny(tmp_path, *QUIET[:2], *words, "logger=csv"))
    assert len(norms) == 4 and clipped == pytest.approx(norms) and min(norms) > 1  # of 8 steps every second one
    (curves,) = tmp_path.glob("**/metrics.csv")
    drawn = [row for row in csv.DictReader(curves.open()) if row["train/gradient_norm"]]
    assert [int(row["step"]) for row in drawn] == [2, 4, 6, 8]
    assert [float(row["train/gradient_norm"]) for row in drawn] == pytest.approx(norms)


@pytest.mark.parametrize("at", [1, 4, 5, 13])
def test_stopped_at_any_step_and_resumed(at, large, tmp_path, monkeypatch):
    """The count and the norm that is still to be drawn, too."""
    monkeypatch.setattr("cvae.training.engine.MINIBATCHES", 1)
    words = ["~callbacks.pictures", "logger=csv", "averaging.decay=0.7", "trainer.skip_above=1e4"]
    large({0, 3, 4, 9, 17})
    run(tmp_path / "whole", *words)
    killed(tmp_path / "stopped", *words, at=at)
    run(tmp_path / "stopped", *words, resume=True)
    one, two = (last(tmp_path / folder) for folder in ("whole", "stopped"))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=0)
    assert one["cvae"]["gradients"] == two["cvae"]["gradients"] and one["cvae"]["gradients"]["skipped"] == 5
    assert table(tmp_path / "whole") == table(tmp_path / "stopped")


@pytest.mark.parametrize("norm", [1.0, 9.0, float("nan")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_decided_without_waiting_for_the_device(optimizer, norm):
    """With the steps of the optimizer as tensors, as on a GPU, which is "meta" here."""
    made = make(config(f"optimizer={optimizer}"), "optimizer")
    weights = [nn.Parameter(torch.zeros(3, device="meta"))]
    optimizer, guard = made(weights), Guard(4.0).to("meta")
    weights[0].grad = torch.full((3,), norm, device="meta")
    with NoWaiting():
        guard.measure(optimizer)
        with guard.watching(optimizer, [torch.zeros(2, device="meta")]):
            pass


@pytest.mark.parametrize(("norm", "taken"), [(3.0, True), (4.0, True), (4.1, False), (float("inf"), False)])
def test_a_norm_at_the_limit_is_small_enough(norm, taken):
    weight, other = nn.Parameter(torch.zeros(1)), torch.zeros(2)
    optimizer, guard = torch.optim.SGD([weight], lr=1.0, momentum=0.5), Guard(4.0)
    guard.prepare(optimizer)
    weight.grad = torch.full((1,), -norm)
    guard.measure(optimizer)
    with guard.watching(optimizer, [other]):
        optimizer.step()
        other += 1
    assert (weight.item(), other.tolist()) == ((norm, [1, 1]) if taken else (0, [0, 0]))
    assert guard.counted() == {"train/skipped_steps": 0 if taken else 1} and Guard(None).counted() == {}


@pytest.mark.parametrize("limit", [4.9, 5.0])
def test_a_critic_has_a_part_in_the_norm_and_stays_as_it_was_too(limit):
    """It is the second group of the optimizer's parameters."""
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer, guard = torch.optim.SGD([{"params": [weight]} for weight in weights], lr=1.0, momentum=0.5), Guard(limit)
    guard.prepare(optimizer)
    for weight, gradient in zip(weights, (-3.0, -4.0), strict=True):
        weight.grad = torch.full((1,), gradient)
    guard.measure(optimizer)
    with guard.watching(optimizer, ()):
        optimizer.step()
    taken = limit >= 5
    assert guard.norm == 5 and [weight.item() for weight in weights] == ([3, 4] if taken else [0, 0])
    momenta = [optimizer.state[weight]["momentum_buffer"].item() for weight in weights]
    assert momenta == ([-3, -4] if taken else [0, 0])


class Views(torch.optim.Optimizer):
    """Decays by `p.data`, another view of the same numbers at each use, as many optimizers of one's own do."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(0.5)
                p.data.sub_(p.grad)
                self.state[p].setdefault("mean", torch.zeros_like(p)).add_(1)


def test_state_is_prepared_without_a_change_of_weights():
    weights = [torch.ones(3, requires_grad=True)]
    optimizer = Views(weights)
    Guard(1.0).prepare(optimizer)
    assert weights[0].tolist() == [1, 1, 1] and optimizer.state[weights[0]]["mean"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("fused", [True, False])
def test_momentum_begins_as_torchs(fused):
    """Not with the weight decay of a step that is not taken."""
    found = []
    for guarded in (True, False):
        weights = torch.ones(3, requires_grad=True)
        optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.9, weight_decay=0.5, fused=fused)
        if guarded:
            Guard(1.0).prepare(optimizer)
        for _ in range(3):
            weights.grad = torch.full((3,), 0.25)
            optimizer.step()
        found.append(weights.detach())
    assert torch.equal(*found) and optimizer.param_groups[0]["weight_decay"] == 0.5
