"""Schedules at the steps that matter, and on the command line."""

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir

from cvae.build import make
from cvae.errors import ConfigError
from cvae.schedules import Cyclical, Linear, at, number_or_schedule
from cvae.training.rates import schedule

CONF = str(ROOT / "conf")

VALUES = [
    # schedule, {step: value}
    (Linear(0, 1, 100), {0: 0.0, 1: 0.01, 50: 0.5, 99: 0.99, 100: 1.0, 10**6: 1.0}),
    (Linear(4, 1, 10), {0: 4.0, 5: 2.5, 10: 1.0, 11: 1.0}),
    (Cyclical(0, 1, 100), {0: 0.0, 25: 0.5, 50: 1.0, 99: 1.0, 100: 0.0, 125: 0.5, 199: 1.0, 1025: 0.5}),
    (Cyclical(0.5, 2, 10, rise=1), {0: 0.5, 5: 1.25, 9: 1.85, 10: 0.5}),
]


@pytest.mark.parametrize("schedule, values", VALUES)
def test_values(schedule, values):
    for step, value in values.items():
        assert schedule(step) == pytest.approx(value)
        # A step that lives on the device gives a number that does.
        torch.testing.assert_close(schedule(torch.tensor(step)), torch.tensor(value))


WRONG = [
    (lambda: Linear(0, 1, 0), "steps"),
    (lambda: Linear(0, 1, 1.5), "steps"),
    (lambda: Linear(-1, 1, 10), "start"),
    (lambda: Linear(0, float("inf"), 10), "end"),
    (lambda: Cyclical(0, 1, 0), "period"),
    (lambda: Cyclical(0, "1", 10), "end"),
    (lambda: Cyclical(0, 1, 10, rise=0), "rise"),
    (lambda: Cyclical(0, 1, 10, rise=1.1), "rise"),
    (lambda: number_or_schedule("beta", "linear"), "beta"),
    (lambda: number_or_schedule("beta", True), "beta"),
    (lambda: number_or_schedule("beta", -0.1), "beta"),
]


@pytest.mark.parametrize("make_it, key", WRONG)
def test_wrong_values_name_their_key(make_it, key):
    with pytest.raises(ConfigError) as error:
        make_it()
    assert error.value.key == key


def test_messages():
    told = {
        "rise=1.5: must be a number above 0 and at most 1": lambda: Cyclical(0, 1, 10, rise=1.5),
        "beta=up: must be a finite number of at least 0, or a schedule (as in objective/beta=linear)": (
            lambda: number_or_schedule("beta", "up")
        ),
    }
    for message, make_it in told.items():
        with pytest.raises(ConfigError) as error:
            make_it()
        assert str(error.value) == message


COMMAND_LINES = [
    # overrides, step, beta
    (["+objective=elbo"], 7, 1),
    (["+objective=elbo", "objective.beta=4"], 7, 4),
    (["+objective=elbo", "objective/beta=linear"], 2500, 0.25),
    (["+objective=elbo", "objective/beta=linear", "objective.beta.steps=100", "objective.beta.end=4"], 50, 2),
    (["+objective=elbo", "objective/beta=cyclical", "objective.beta.period=100"], 125, 0.5),
    (["+objective=elbo", "objective.beta={_target_: cvae.schedules.Linear, start: 0, end: 1, steps: 10}"], 5, 0.5),
    (["+objective=elbo", "objective.beta=[0.3]"], 5, 0.3),
    (["+objective=beta_tcvae", "objective/beta=linear", "objective.beta.end=6"], 5000, 3),
]


@pytest.mark.parametrize("overrides, step, beta", COMMAND_LINES)
def test_on_the_command_line(overrides, step, beta):
    with initialize_config_dir(CONF, version_base="1.3"):
        objective = make(compose(None, overrides), "objective")
    (value,) = getattr(objective, "betas", None) or [objective.beta]
    assert at(value, step) == pytest.approx(beta)


def test_in_the_whole_config():
    with initialize_config_dir(CONF, version_base="1.3"):
        objective = make(compose("config", ["objective/beta=linear", "objective.beta.steps=100"]), "objective")
    assert objective.betas[0](50) == 0.5


@pytest.mark.filterwarnings("error")
def test_the_constant_learning_rate_is_the_optimizers_in_every_epoch():
    """Also beyond the epochs in which torch's ConstantLR applies its factor (five), and without a warning."""
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("config", ["scheduler=constant"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = schedule(cfg)[0](optimizer)
    for _ in range(8):
        assert optimizer.param_groups[0]["lr"] == 0.3
        optimizer.step(), scheduler.step()
