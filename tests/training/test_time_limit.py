"""trainer.max_time: where a training ends, and that it goes on from there as one that had the time from the start."""

from types import SimpleNamespace

import pytest
from conftest import config
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Timer
from same_run import last, metrics, require_equal
from test_bit_for_bit import PLAIN, run
from tiny import a_second_a_step

from cvae.training import engine
from cvae.training.checkpoints import Checkpoints
from cvae.training.signals import signals
from cvae.training.time_limit import TimeLimit, seconds, time_limit


@pytest.fixture(autouse=True)
def a_second(monkeypatch):
    a_second_a_step(monkeypatch)
    monkeypatch.setattr(engine, "MINIBATCHES", 2)


def limit(seconds):
    return f"trainer.max_time=00:00:00:{seconds:02}"


CHOICES = {  # words -> where the time is over (seconds, optimizer steps then), and the steps of all
    "plain": (["averaging.decay=0.7", "logger=[tensorboard,csv]"], [(3, 4), (4, 4), (9, 10), (12, 12)], 18),
    "accumulated": ([PLAIN, "+trainer.accumulate_grad_batches=3"], [(1, 1), (4, 2), (8, 3)], 6),
    "kept": (
        [PLAIN, "callbacks.checkpoint.keep_best=1", "callbacks.checkpoint.keep_every=2"],
        [(3, 4), (9, 10), (15, 16), (16, 16)],
        18,
    ),
    "evaluated within epochs": (  # after 3 and 6 minibatches
        ["averaging.decay=0.7", "+trainer.val_check_interval=3", "logger=[tensorboard,csv]"],
        [(2, 2), (3, 4), (6, 6), (9, 10), (13, 13)],
        18,
    ),
    "evaluated before the end of epochs": (
        [PLAIN, "+trainer.val_check_interval=4", "callbacks.checkpoint.keep_best=2"],
        [(4, 5), (9, 9), (10, 11), (12, 12), (17, 17)],
        18,
    ),
    "evaluated across epochs": (
        [PLAIN, "+trainer.val_check_interval=4", "trainer.check_val_every_n_epoch=null"],
        [(2, 2), (4, 5), (8, 9), (14, 14)],
        18,
    ),
    "patience": ([PLAIN, "callbacks.early_stopping.patience=2"], [(3, 4), (9, 10)], 18),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_run_that_is_given_more_time_ends_as_one_that_had_it(name, tmp_path, monkeypatch):
    """It was ended within epochs of 6 minibatches, and at the end of one. A step that is begun is finished."""
    if name == "accumulated":
        monkeypatch.setattr(engine, "MINIBATCHES", 1)
    words, ends, steps = CHOICES[name]
    run(tmp_path / "whole", *words, limit(99))
    for number, (limited, made) in enumerate(ends):
        run(tmp_path / "limited", *words, limit(limited), resume=number > 0)
        assert last(tmp_path / "limited")["global_step"] == metrics(tmp_path / "limited")["steps"] == made
    assert (tmp_path / "limited" / "checkpoints" / "best.ckpt").exists()
    run(tmp_path / "limited", *words, limit(99), resume=True)
    assert last(tmp_path / "whole")["global_step"] == steps
    require_equal(tmp_path / "limited", tmp_path / "whole")


def test_an_epoch_that_something_else_has_cut_is_not_gone_on_with(tmp_path):
    """Its rest would be left out. The second evaluation, after 4 minibatches, ends it, and the time is over, too."""
    stop = "monitor: selection/bound, mode: max, min_delta: 1e9, patience: 1"
    words = [PLAIN, f"+callbacks.stop={{_target_: pytorch_lightning.callbacks.EarlyStopping, {stop}}}"]
    for time in (4, 99):
        run(tmp_path, *words, "+trainer.val_check_interval=2", limit(time), resume=time > 4)
        assert last(tmp_path)["global_step"] == 4


def test_where_evaluations_come_by_the_clock_it_goes_on_within_an_epoch(tmp_path):
    for time, steps in ((4, 4), (99, 18)):
        run(tmp_path, PLAIN, "+trainer.val_check_interval='00:01:00:00'", limit(time), resume=time > 4)
        assert last(tmp_path)["global_step"] == steps


def test_where_an_evaluation_follows_each_step_the_epoch_ends_first(tmp_path):
    for time, steps in ((4, 6), (99, 18)):
        run(tmp_path, PLAIN, "+trainer.val_check_interval=1", limit(time), resume=time > 4)
        assert last(tmp_path)["global_step"] == steps


def test_a_run_that_something_else_had_ended_is_not_lengthened_by_time(tmp_path):
    stop = "monitor: selection/bound, mode: max, min_delta: 1e9, patience: 1"
    words = [PLAIN, f"+callbacks.stop={{_target_: pytorch_lightning.callbacks.EarlyStopping, {stop}}}"]
    for time in (50, 99):
        run(tmp_path, *words, limit(time), resume=time > 50)
        assert last(tmp_path)["global_step"] == 12


@pytest.fixture
def saved(monkeypatch):
    """The steps after which last.ckpt was saved."""
    steps, save = [], Checkpoints.save_last
    monkeypatch.setattr(Checkpoints, "save_last", lambda *given: steps.append(given[1].global_step) or save(*given))
    return steps


def test_a_training_whose_time_is_over_with_its_last_step_has_not_ended_early(tmp_path):
    run(tmp_path, PLAIN, limit(18))
    assert metrics(tmp_path)["steps"] == 18 and "stopped_early" not in metrics(tmp_path)


def test_a_least_number_of_epochs_comes_before_the_time(tmp_path, saved):
    run(tmp_path, PLAIN, "+trainer.min_epochs=2", "callbacks.checkpoint.every_n_steps=100", limit(2))
    assert saved == [6, 12]


def test_where_other_limits_end_a_training_the_end_of_its_epoch_is_saved(tmp_path, saved):
    """The time is not over, so last.ckpt of the same step, before the last evaluation, is not enough."""
    run(tmp_path, PLAIN, "trainer.max_steps=8", limit(99))
    assert saved == [2, 4, 6, 8, 8]


def test_an_epoch_that_was_cut_is_best_only_where_none_was_whole(tmp_path, monkeypatch):
    """It comes again, whole, if the run is given more time."""
    saved, part = [], TimeLimit("00:00:00:05")
    part.over = True
    monkeypatch.setattr(signals, "received", 0)  # another test may have left one
    trainer = SimpleNamespace(
        global_step=3,
        world_size=1,
        is_last_batch=False,
        callbacks=[part],
        save_checkpoint=lambda file: saved.append(file.name),
    )
    checkpoints = Checkpoints(str(tmp_path), keep_best=1, keep_every=1)
    checkpoints.step = 3  # as the end of the time has saved
    for figure in (1.0, 2.0):
        module = SimpleNamespace(figures={"selection/bound": figure})
        checkpoints.on_train_epoch_end(trainer, module)
    assert saved == ["best.ckpt"] and checkpoints.best == 1.0


def test_all_processes_end_where_the_first_one_does():
    class Strategy:
        def broadcast(self, over):
            return not over

    part, trainer = TimeLimit("00:00:00:05"), Trainer(logger=False, barebones=True)
    trainer._accelerator_connector.strategy = Strategy()
    part._check_time_remaining(trainer)
    assert part.over and trainer.should_stop


def test_the_time_is_that_of_the_key():
    assert time_limit(config()) == []
    for given, expected in (("01:02:03:04", 93784), ("{hours: 1, seconds: 2}", 3602)):
        (part,) = time_limit(config(f"trainer.max_time={given}"))
        assert part.time_remaining() == seconds(config(f"trainer.max_time={given}").trainer.max_time) == expected
        assert part.state_key == Timer().state_key
    assert seconds(None) == float("inf")
