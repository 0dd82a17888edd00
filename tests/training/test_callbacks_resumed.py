"""Lightning's own callbacks, added on the command line: a run that is killed with one ends as if it had not been."""

import pytest
import torch
from same_run import last, require_equal_checkpoints, table
from test_bit_for_bit import PLAIN, killed, run

from cvae.training import engine

WORDS = [PLAIN, "logger=csv", "trainer.max_epochs=4"]  # epochs of 6 minibatches
CALLBACKS = {  # class -> its keys, which make it act within the run
    "EarlyStopping": "monitor: train_epoch/rate, mode: max, patience: 2, min_delta: 1e9",
    "ModelCheckpoint": "dirpath: own, monitor: test/elbo, mode: max, save_top_k: 2, every_n_epochs: 1, save_last: true",
    "EMAWeightAveraging": "decay: 0.7, update_starting_at_step: 3",
    "GradientAccumulationScheduler": "scheduling: {1: 2, 3: 4}",
    "LearningRateMonitor": "logging_interval: step",
}


def kept(folder):
    """{name: weights} of what a ModelCheckpoint has kept."""
    return {file.name: torch.load(file, weights_only=True)["state_dict"] for file in (folder / "own").glob("*.ckpt")}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_run_with_a_callback_of_lightnings_resumes_bit_for_bit(kind, tmp_path, monkeypatch):
    """Killed within the first epoch, and after a later one."""
    monkeypatch.setattr(engine, "MINIBATCHES", 2)
    words = [*WORDS, f"+callbacks.own={{_target_: pytorch_lightning.callbacks.{kind}, {CALLBACKS[kind]}}}"]
    for name, stops in (("whole", []), ("stopped", [5, 8])):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        for at in stops:
            killed(folder, *words, at=at, resume=at != stops[0])
            assert last(folder)["global_step"]
        run(folder, *words, resume=bool(stops))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    require_equal_checkpoints(last(whole), last(stopped))
    assert last(whole)["global_step"] == {"EarlyStopping": 18, "GradientAccumulationScheduler": 14}.get(kind, 24)
    assert table(whole) == table(stopped)
    torch.testing.assert_close(kept(whole), kept(stopped), rtol=0, atol=0)
