"""An experiment and the command line: what still applies is kept, the user wins, the rest is said."""

import copy

import pytest
from conftest import composed, config
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

from cvae.training.train import train


def test_an_experiment_sets_its_values():
    cfg = config("experiment=vampprior")
    assert (cfg.prior.components, cfg.model.hidden, cfg.data.batch_size, cfg.optimizer.lr) == (
        500,
        [300, 300],
        100,
        1e-3,
    )
    assert cfg.objective.beta == {"_target_": "cvae.schedules.Linear", "start": 0, "end": 1, "steps": 6000}
    assert cfg.experiment == {"left_out": []}


def test_what_applies_to_a_choice_of_the_users_is_kept_and_the_rest_said():
    cfg = config("experiment=vampprior", "objective=iwae", "model=conv")
    assert cfg.objective == {"_target_": "cvae.objectives.IWAE", "samples": 50, "gradient": "plain"}
    assert cfg.model.latent_dim == 40 and cfg.model.filters == [32, 64]
    said = "\n".join(cfg.experiment.left_out)
    assert "model.hidden=[300, 300]: cvae.networks.conv has no such key" in said and "model.activation=tanh" in said
    assert "objective.beta=" in said and len(cfg.experiment.left_out) == 3


def test_a_choice_within_a_choice_wins_over_the_experiments_value():
    cfg = config("experiment=beta_vae", "objective/beta=linear", "objective.beta.end=6")
    assert cfg.objective.beta == {"_target_": "cvae.schedules.Linear", "start": 0.0, "end": 6, "steps": 10000}
    assert cfg.experiment.left_out == ["objective.beta=4: objective.beta is cvae.schedules.Linear"]
    cfg = config("experiment=vampprior", "objective/beta=cyclical")
    assert cfg.objective.beta._target_ == "cvae.schedules.Cyclical" and len(cfg.experiment.left_out) == 1
    cfg = config("experiment=vampprior", "objective/beta=linear")  # the experiment's own: its values still apply
    assert cfg.objective.beta.steps == 6000 and cfg.experiment.left_out == []


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("objective.beta=2", "beta", 2),
        ("objective.beta.steps=100", "beta", {"_target_": "cvae.schedules.Linear", "start": 0, "end": 1, "steps": 100}),
        ("+objective.new=3", "new", 3),
    ],
)
def test_what_the_user_typed_wins(typed, key, value):
    assert config("experiment=vampprior", typed).objective[key] == value


def test_own_images_have_a_scale_for_each_pixel_where_they_have_levels():
    """A Gaussian keeps its own: where a background is the same in all images, its density would grow without end."""
    own = ("experiment=own_images", "data=npz", "data.root=x")
    assert config(*own).likelihood == {"_target_": "cvae.likelihoods.DiscretizedLogistic", "scale": "pixel"}
    assert config(*own, "likelihood.scale=global").likelihood.scale == "global"
    cfg = config(*own, "likelihood=gaussian")
    assert cfg.likelihood.scale == 1 and len(cfg.experiment.left_out) == 1


def test_an_experiment_of_the_users_own(tmp_path):
    """A key with a plus is new; a misspelt one is said."""
    from conftest import ROOT
    from hydra import compose, initialize_config_dir

    (tmp_path / "experiment").mkdir()
    text = (
        "# @package _global_\n"
        "experiment: {trainer: {+gradient_clip_val: 1, max_epoch: 3}, seed: 4, sead: 5, "
        "prior: {a: {b: 1}, c: [1, 2]}}\n"
    )
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", ["experiment=mine", f"hydra.searchpath=[{tmp_path}]"])
    assert cfg.trainer.gradient_clip_val == 1 and cfg.seed == 4 and "max_epoch" not in cfg.trainer
    assert cfg.experiment.left_out == [
        "trainer.max_epoch=3: pytorch_lightning.Trainer has no such key",
        "sead=5: the config has no such key",
        "prior.a={'b': 1}: cvae.priors.StandardNormal has no such key",
        "prior.c=[1, 2]: cvae.priors.StandardNormal has no such key",
    ]


def test_what_was_left_out_is_said_at_the_start(caplog, tmp_path):
    caplog.set_level("INFO")
    cfg = config("experiment=beta_vae", "objective=iwae", "seed=-1", f"run_dir={tmp_path}")
    with pytest.raises(ValueError, match="seed=-1"):
        train(cfg)
    assert [record.message for record in caplog.records] == [
        "Left out of the experiment: objective.kl=closed_form: cvae.objectives.IWAE has no such key",
        "Left out of the experiment: objective.beta=4: cvae.objectives.IWAE has no such key",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=vampprior", "objective=iwae", "objective.samples=7", "run_dir=somewhere"],
        ["experiment=beta_vae", "objective/beta=linear", "objective.beta.end=6", "seed=3", "tags=[a,b]"],
        ["data=synthetic", "data.image_shape=[1,8,8]", "~callbacks.pictures", "~logger.tensorboard"],
        ["+trainer.limit_test_batches=2", "++optimizer.weight_decay=1", "trainer=cpu", "logger=[csv,tensorboard]"],
    ],
)
def test_the_tests_config_is_what_hydra_composes(words):
    """It puts values into choices that were composed before, and none of them is changed by that."""
    whole = composed.__wrapped__(*words)
    assert config(*words) == whole == config(*words)


@pytest.mark.parametrize(
    "word", ["no.such=1", "optimizer.no=1", "~callbacks.no", "data=no", "seed=[", "model.latent_dim"]
)
def test_what_is_wrong_is_refused_by_the_tests_config_as_by_hydra(word):
    with pytest.raises(HydraException) as ours:
        config(word)
    with pytest.raises(HydraException) as theirs:
        composed.__wrapped__(word)
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


def test_the_store_of_configs_is_not_copied_and_what_is_read_from_it_is():
    store = ConfigStore.instance()
    assert copy.deepcopy([store]) == [store]
    one, two = (store.load("hydra/config.yaml").node for _ in range(2))
    one.job.name = "changed"
    assert two.job.get("name") != "changed" and one is not two
