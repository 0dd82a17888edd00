"""Learning rates by value: each schedule of conf/ in its closed form, by epoch and by step, behind a warm-up."""

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, config
from same_run import last
from test_bit_for_bit import LONGER, killed, run
from tiny import QUIET, tiny

from cvae.errors import ConfigError, UserError
from cvae.training.module import VAEModule
from cvae.training.options import check
from cvae.training.rates import Rates, length, of_length, schedule, steps_of_epochs
from cvae.training.train import train

STEPS, EPOCHS = 18, 3  # of the runs here
WORDS = {
    "constant": [],
    "cosine": ["scheduler.eta_min=0.01"],
    "exponential": ["scheduler.gamma=0.8"],
    "step": ["scheduler.step_size=2", "scheduler.gamma=0.5"],
    "one_cycle": [],
}


def one_cycle(n, total, high):
    low, top = high / 25, 0.3 * total - 1  # it rises to the place `top`, and falls from there to total - 1
    if n <= top:
        return low + (high - low) * (1 - math.cos(math.pi * n / top)) / 2
    end, part = low / 1e4, (n - top) / (total - 1 - top)
    return end + (high - end) * (1 + math.cos(math.pi * part)) / 2


CLOSED = {  # (epochs or steps before, how many there are, optimizer.lr) -> learning rate
    "constant": lambda n, total, rate: rate,
    "cosine": lambda n, total, rate: 0.01 + (rate - 0.01) * (1 + math.cos(math.pi * n / total)) / 2,
    "exponential": lambda n, total, rate: rate * 0.8**n,
    "step": lambda n, total, rate: rate * 0.5 ** (n // 2),
    "one_cycle": one_cycle,
}


def expected(name, steps, interval="step", warmup=0, epochs=EPOCHS, rate=0.04):
    """The learning rate of each step of a training."""
    places = range(steps) if interval == "step" else [step * epochs // steps for step in range(steps)]
    total = steps if interval == "step" else epochs
    factors = [min(1, (step + 1) / warmup) if warmup else 1 for step in range(steps)]
    return [factor * CLOSED[name](n, total, rate) for factor, n in zip(factors, places, strict=True)]


def test_every_schedule_has_a_closed_form():
    assert set(CLOSED) == {file.stem for file in (ROOT / "conf" / "scheduler").iterdir()}


@pytest.fixture
def seen(monkeypatch):
    """{step: the learning rate that it was taken with}"""
    rates, optimize = {}, VAEModule.optimize

    def watched(self, *given):
        for group in self.optimizers(use_pl_optimizer=False).param_groups:
            rates.setdefault(self.global_step, set()).add(group["lr"])
        return optimize(self, *given)

    monkeypatch.setattr(VAEModule, "optimize", watched)
    return rates


def require(seen, rates, **tolerance):
    assert list(seen) == list(range(len(rates))) and all(len(found) == 1 for found in seen.values())
    assert [found for (found,) in seen.values()] == pytest.approx(rates, **tolerance or {"rel": 1e-9})


def words(name, *more):
    return [f"scheduler={name}", *WORDS[name], "optimizer.lr=0.04", *more]


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", CLOSED)
def test_the_rate_of_each_step_of_a_training(name, interval, seen, tmp_path):
    many = words(name, f"scheduler.interval={interval}", "scheduler.warmup_steps=8")
    train(tiny(tmp_path, *QUIET[:2], *LONGER, *many, "logger=csv"))
    rates = expected(name, STEPS, interval, 8)
    require(seen, rates)
    (curves,) = tmp_path.glob("**/metrics.csv")
    drawn = {int(row["step"]): float(row["train/lr"]) for row in csv.DictReader(curves.open()) if row["train/lr"]}
    assert set(range(0, 9, 2)) <= set(drawn)  # a point every log_every_n_steps=2 where the rate moves
    assert (10 in drawn) is (interval == "step")
    assert {step: rate for step, rate in drawn.items() if step < STEPS} == pytest.approx(
        {step: rates[step] for step in drawn if step < STEPS}
    )


@pytest.mark.parametrize(("name", "more", "steps"), [
    ("cosine", ["+trainer.accumulate_grad_batches=4"], 6),  # two steps an epoch
    ("one_cycle", ["trainer.max_steps=14"], 14),
    ("one_cycle", ["+trainer.limit_train_batches=3"], 9),
    ("cosine", ["+trainer.limit_train_batches=0.45"], 6),  # of six minibatches two
    ("cosine", ["objective=factor_vae", "objective.hidden=4"], STEPS),  # two groups
    ("step", ["trainer.max_time=01:00:00:00"], STEPS),
    ("one_cycle", ["scheduler.total_steps=18"], STEPS),
])  # fmt: skip
def test_by_step_over_the_whole_training(name, more, steps, seen, tmp_path):
    train(tiny(tmp_path, *QUIET, *LONGER, *words(name, "scheduler.interval=step", "scheduler.warmup_steps=3", *more)))
    require(seen, expected(name, steps, "step", 3))


def test_the_epochs_of_a_training_that_ends_by_its_steps(seen, tmp_path):
    """14 steps are within three epochs of 6, whatever max_epochs says."""
    train(tiny(tmp_path, *QUIET, *LONGER, *words("cosine"), "trainer.max_epochs=50", "trainer.max_steps=14"))
    require(seen, expected("cosine", STEPS, "epoch")[:14])


@pytest.mark.parametrize("at", [0, 3, 5, 6, 7, 12, 17])
def test_stopped_before_any_step_and_resumed(at, seen, tmp_path, monkeypatch):
    """last.ckpt is of every second step."""
    monkeypatch.setattr("cvae.training.engine.MINIBATCHES", 2)
    many = ["~callbacks.pictures", "~logger.tensorboard", *words("one_cycle", "scheduler.warmup_steps=9")]
    killed(tmp_path, *many, at=at)
    run(tmp_path, *many, resume=True)
    require(dict(sorted(seen.items())), expected("one_cycle", STEPS, "step", 9), rel=1e-12)


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_longer_run_goes_on_by_its_new_length(interval, seen, tmp_path):
    many = ["~callbacks.pictures", "~logger.tensorboard", *words("cosine", f"scheduler.interval={interval}")]
    run(tmp_path, *many, "trainer.max_epochs=2")
    run(tmp_path, *many, "trainer.max_epochs=4", resume=True)
    rates = expected("cosine", 12, interval, epochs=2) + expected("cosine", 24, interval, epochs=4)[12:]
    require(seen, rates)
    (state,) = last(tmp_path)["lr_schedulers"]
    assert state["T_max"] == state["last_epoch"] == {"epoch": 4, "step": 24}[interval]


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", CLOSED)
def test_a_critic_has_the_same_share_of_every_rate(name, interval):
    """Whatever the schedule, which sees neither that nor the warm-up: its own recursion reads the optimizer's rates."""
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(3)], lr=0.04)
    scheduler = of_length(schedule(config(*words(name)))[0], optimizer, lambda: 12 if interval == "step" else 4)
    rates, found = Rates(scheduler, interval == "step", 5, 0.05), []
    rates.write(0)
    for step in range(12):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        rates.after_step(step + 1)
        if step % 3 == 2:
            rates.after_epoch(step + 1)
    for number, share in enumerate((1, 1, 0.05)):
        own = [share * rate for rate in expected(name, 12, interval, 5, epochs=4)]
        assert [group[number] for group in found] == pytest.approx(own)
    assert [rates.change(step) for step in (0, 5, 6)] == [True, True, interval == "step"]


@pytest.mark.parametrize(("name", "interval"), [("cosine", "epoch"), ("one_cycle", "step")])
def test_the_critics_share_in_a_training_that_is_resumed_and_longer(name, interval, seen, tmp_path):
    aae = ["objective=aae", "objective.hidden=4", "objective.critic_lr=0.2", f"scheduler.interval={interval}"]
    many = ["~callbacks.pictures", "~logger.tensorboard", *words(name, *aae)]
    run(tmp_path, *many, "trainer.max_epochs=2")
    run(tmp_path, *many, "trainer.max_epochs=4", resume=True)
    rates = expected(name, 12, interval, epochs=2) + expected(name, 24, interval, epochs=4)[12:]
    assert [max(found) for found in seen.values()] == pytest.approx(rates)
    assert [min(found) for found in seen.values()] == pytest.approx([0.2 * rate for rate in rates])


@pytest.mark.parametrize(("more", "kind", "said"), [
    (["scheduler.warmup_steps=-1"], ConfigError, "scheduler.warmup_steps=-1: must be an integer of at least 0"),
    (["scheduler.interval=batch"], ConfigError, "scheduler.interval=batch: must be one of epoch, step"),
    (["scheduler.cycle_momentum=true"], UserError, "scheduler: torch.optim.lr_scheduler.OneCycleLR changes betas"),
    (["scheduler.pct_start=1"], ConfigError, "scheduler.pct_start=1: must be a number above 0 and below 1"),
    (["scheduler.total_steps=17"], ConfigError, "scheduler.total_steps=17: must be null, or at least 18, the length"),
    (["scheduler.pct_start=0.05555555555555555"], UserError, "scheduler: torch.optim.lr_scheduler.OneCycleLR does not"),
])  # fmt: skip
def test_what_does_not_go_with_a_run(more, kind, said, tmp_path, monkeypatch):
    """Said before the first step."""
    monkeypatch.setattr(VAEModule, "training_step", lambda *_: pytest.fail("a step"))
    with pytest.raises(kind) as error:
        train(tiny(tmp_path, *QUIET, *LONGER, *words("one_cycle"), *more))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_saved_configs_of_before_have_neither_key():
    cfg = config("~scheduler.interval", "~scheduler.warmup_steps")
    check(cfg)
    assert schedule(cfg)[1] == {"by_step": False, "warmup_steps": 0}


def test_how_many_steps_a_training_has_is_not_guessed_before_the_images_are_there(tmp_path):
    """Of one_cycle's 18 steps two are a tenth; 18 epochs of a single step would be none."""
    train(tiny(tmp_path, *QUIET, *LONGER, *words("one_cycle", "scheduler.pct_start=0.1")))
    for interval in ("step", "epoch"):
        few = words("one_cycle", "scheduler.total_steps=4", "trainer.max_steps=4", "trainer.max_epochs=50")
        train(tiny(tmp_path / interval, *QUIET, *few, f"scheduler.interval={interval}"))
        assert last(tmp_path / interval)["global_step"] == 4


@pytest.mark.parametrize(("epochs", "most", "steps"), [
    (4, -1, [7, 4, 2, 2]), (4, 12, [7, 4, 1]), (4, 11, [7, 4]), (2, 100, [7, 4]), (None, 12, []), (4, 3, [3]),
])  # fmt: skip
def test_steps_of_epochs_that_accumulate_more_and_more(epochs, most, steps):
    """Seven minibatches an epoch: one, two, then four a step. The last step of an epoch has what is left."""
    data = SimpleNamespace(minibatches_of_an_epoch=lambda: 7)
    trainer = SimpleNamespace(limit_train_batches=1.0, datamodule=data, max_steps=most, max_epochs=epochs)
    accumulation = lambda epoch: min(2**epoch, 4)
    assert steps_of_epochs(trainer, accumulation) == steps
    assert length(trainer, accumulation, True) == sum(steps) and length(trainer, accumulation, False) == len(steps)
