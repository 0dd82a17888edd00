"""What is set up, tried and refused before the first step, and what is said of it."""

import logging
import warnings

import pytest
import pytorch_lightning as L
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from tiny import QUIET, tiny, trained

import cvae
from cvae.build import build_data, build_vae
from cvae.cli.resume import change
from cvae.errors import UserError
from cvae.evaluation import Settings
from cvae.objectives import Terms
from cvae.training import train as training
from cvae.training.early_stopping import EarlyStopping
from cvae.training.module import VAEModule


def test_processes_begin_with_the_same_weights_and_only_the_first_speaks(tmp_path, monkeypatch):
    ours = logging.getLogger("cvae")
    level = ours.level
    try:
        first = training.assemble(tiny(tmp_path, *QUIET, "seed=5"))
        after = ours.level
        monkeypatch.setattr(L.Trainer, "is_global_zero", False)
        monkeypatch.setattr(L.Trainer, "global_rank", 2)
        other = training.assemble(tiny(tmp_path, *QUIET, "seed=5"))
        assert ours.level == logging.WARNING and after == level
    finally:
        ours.setLevel(level)
    weights = (parts.module.vae.state_dict() for parts in (first, other))
    assert all(torch.equal(one, two) for one, two in zip(*(each.values() for each in weights), strict=True))


def test_the_parts_of_a_run_are_those_of_the_config(tmp_path):
    cfg = tiny(tmp_path, "seed=5", "evaluation.samples=4", "evaluation.images=6", "trainer.max_epochs=3")
    parts = training.assemble(cfg)
    assert parts.settings == Settings(samples=4, images=6, aggregate_images=1000, memory=1, seed=5)
    assert parts.module.seed == 5 and parts.data.batch_size == 4 and parts.data.seed == 5
    names = {type(part).__name__ for part in parts.trainer.callbacks}
    assert names >= {"Pictures", "EpochLines", "ProgressBar", "Checkpoints"}
    assert parts.trainer.max_epochs == 3 and len(parts.trainer.loggers) == 1
    assert training.assemble(tiny(tmp_path, "~callbacks.checkpoint")).trainer.checkpoint_callback is None


@pytest.mark.parametrize("name", ["pictures", "checkpoint", "early_stopping", "progress"])
def test_a_callback_that_is_null_is_left_out(name, tmp_path):
    """As with ~callbacks.NAME."""
    null, without = (training.assemble(tiny(tmp_path, f"{word}")).trainer for word in
                     (f"callbacks.{name}=null", f"~callbacks.{name}"))  # fmt: skip
    assert [*map(type, null.callbacks)] == [*map(type, without.callbacks)]
    assert len(null.callbacks) < len(training.assemble(tiny(tmp_path)).trainer.callbacks)


def test_a_run_without_callbacks_and_loggers(tmp_path):
    """With none of them it trains, and with patience it goes on."""
    names = ("callbacks.pictures", "callbacks.checkpoint", "callbacks.early_stopping", "logger.tensorboard")
    cfg = tiny(tmp_path, *(f"{name}=null" for name in names))
    training.train(cfg)
    assert not (tmp_path / "checkpoints").exists() and not list(tmp_path.rglob("*.png"))
    change(cfg, "callbacks.early_stopping.patience=1", ROOT / "conf")
    assert [part.patience for part in training.assemble(cfg).trainer.callbacks if isinstance(part, EarlyStopping)] == [
        1
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluation.samples=-1", "evaluation.samples=-1: must be a positive integer, or 0 for no evaluation$"),
        ("evaluation.images=0", "evaluation.images=0: must be a positive integer$"),
        ("evaluation.aggregate_images=0", "evaluation.aggregate_images=0: must be a positive integer$"),
        ("evaluation.memory=-1", "evaluation.memory=-1: must be a finite number above 0$"),
    ],
)
def test_settings_of_the_evaluation_are_checked_also_where_there_is_none(tmp_path, words, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        training.evaluation_settings(tiny(tmp_path, words))


@pytest.mark.parametrize("words", ["trainer.max_time=00:00:00:00", "+trainer.limit_train_batches=0.1"])
def test_what_trains_nothing_is_refused(tmp_path, words):
    with pytest.raises(UserError, match="nothing is trained|trainer.limit_train_batches=0.1: must be at least 0.333"):
        trained(tmp_path, *QUIET, words)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    "objective",
    [
        "elbo",
        "iwae",
        "beta_tcvae",
        "infovae",
        "iwae objective.gradient=dreg",
        "elbo objective.free_bits=0.1",
        "miwae",
        "piwae",
        "ciwae",
        "renyi",
        "factor_vae",
        "aae",
        "vae_gan objective.layers=2",
        "dip_vae",
        "capacity",
        "rae",
        "wae",
    ],
)
def test_gradients_are_clipped_with_each_objective(tmp_path, objective):
    """Plain descent by gradients of norm 1e-3 at most: so far and no farther."""
    words = [
        f"objective={objective.split()[0]}",
        *objective.split()[1:],
        "optimizer=sgd",
        "optimizer.lr=1",
        "optimizer.momentum=0",
    ]
    if "iwae" in objective or objective == "renyi":
        words.append("objective.samples=3")
    if objective in ("rae", "wae"):
        words += ["posterior=deterministic", "prior=standard_normal"]
    start = training.assemble(tiny(tmp_path / "start", *QUIET, *words)).module.state_dict()
    trained(tmp_path, *QUIET, *words, "+trainer.gradient_clip_val=1e-3", "trainer.max_epochs=1")
    end = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    moved = torch.sqrt(sum((end[name] - start[name]).square().sum() for name in start)).item()
    assert 0 < moved < 3.01e-3  # three steps


def step_tried(tmp_path, *words):
    cfg = tiny(tmp_path, *words)
    data, vae, calls = build_data(cfg), build_vae(cfg), []

    class Recorder(torch.nn.Module):
        def prepare(self, images):
            calls.append(images)

        def forward(self, model, x, y, step):
            calls.append((x, y, torch.is_grad_enabled(), torch.rand(()).item()))
            return Terms(*torch.zeros(4, len(x)), parts={})

    state = torch.get_rng_state()
    training.try_a_step(cfg, VAEModule(vae, Recorder(), None, None), data)
    assert torch.equal(torch.get_rng_state(), state)
    return calls, data


def test_a_step_is_tried_with_two_images_and_leaves_the_noise_alone(tmp_path):
    (images, (x, y, grad, noise)), data = step_tried(tmp_path, "data.validation_size=3", "conditional=true", "seed=8")
    assert images == 7  # the training images that are left: what beta_tcvae needs to know
    expected = data.batch("train", [0, 1])
    assert torch.equal(x, expected[0]) and torch.equal(y, expected[1]) and not grad
    torch.manual_seed(8)
    assert noise == torch.rand(()).item()


def test_a_step_with_one_training_image_and_with_images_that_are_drawn_at_each_use(tmp_path):
    (images, (x, *_)), _ = step_tried(tmp_path, "data.validation_size=9", "data.binarization=stochastic")
    assert images == len(x) == 1


def test_an_objective_is_told_how_many_images_are_trained_on(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    sizes = []

    class Told(cvae.objectives.BetaTCVAE):
        def prepare(self, images):
            sizes.append(images)
            super().prepare(images)

    from unittest.mock import patch

    with patch("cvae.objectives.BetaTCVAE", Told):
        for folder, size in zip(folders, (0, 3), strict=True):
            trained(folder, *QUIET, "objective=beta_tcvae", f"data.validation_size={size}", "trainer.max_epochs=1")
    assert sizes == [10, 7]


def test_the_process_is_set_up_and_data_are_fetched(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: called.append("memory"))
    monkeypatch.setattr(training, "tell_torch_of_no_gpu", lambda: called.append("GPU"))
    monkeypatch.setattr("cvae.data.synthetic.Synthetic.download", lambda self: called.append("download"))
    trained(tmp_path, *QUIET, "trainer.max_epochs=1")
    assert called[:3] == ["memory", "GPU", "download"]


def test_libraries_hints_are_silent_and_their_warnings_of_faults_are_not():
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
    for name in names:
        logging.getLogger(name).setLevel("DEBUG")
    silent = (
        "The 'train_dataloader' does not have many workers which may be a bottleneck.",
        "GPU available but not used. You can set it",
        "It is recommended to use `self.log('x', ..., sync_dist=True)` when logging on epoch level",
        "The number of training batches (3) is smaller than the logging interval",
        "Experiment logs directory x exists. Previous log files in this directory will be deleted when the new ones",
    )
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        training.quiet_libraries()
        for text in (*silent, "The loss is not what it was"):
            warnings.warn(text, stacklevel=1)
        source = "import warnings\nwarnings.warn('of another kind')\n"
        exec(compile(source, "_pytree.py", "exec"), {"__name__": "pytorch_lightning.utilities._pytree"})
    assert [str(warning.message) for warning in shown] == ["The loss is not what it was"]
    assert [logging.getLogger(name).level for name in names] == [logging.WARNING] * 4


def test_what_was_left_out_is_said_before_all_else(tmp_path, caplog):
    caplog.set_level("INFO")
    trained(tmp_path, *QUIET, "experiment=beta_vae", "objective=iwae", "objective.samples=2", "trainer.max_epochs=1")
    said = [record.message for record in caplog.records if record.name == "cvae.training.train"]
    assert said[0] == "Left out of the experiment: objective.kl=closed_form: cvae.objectives.IWAE has no such key"
    assert [line.split(":")[0] for line in said].index("Left out of the experiment") == 0


def test_a_config_without_an_experiment(tmp_path, capsys):
    for experiment in ({}, {"experiment": {}}):
        cfg = OmegaConf.to_container(tiny(tmp_path, *QUIET, "trainer.max_epochs=1"))
        del cfg["experiment"]
        training.train(OmegaConf.create(cfg | experiment))
    assert "Test metric" not in capsys.readouterr().out  # Lightning's own table
