"""Values in conf/ that a user relies on: those of Python, of the library, of a publication; references that follow."""

import inspect

import pytest
from conftest import ROOT, config, get_object
from omegaconf import OmegaConf

CONF = ROOT / "conf"


def members(*groups):
    """GROUP/NAME of each file of these groups, without those of their subfolders."""
    return [f"{group}/{path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))]


def values(name):
    """(Values of a file of conf/, the defaults that its class or function has for these keys)."""
    found = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    taken = inspect.signature(get_object(found["_target_"])).parameters
    defaults = {key: part.default for key, part in taken.items() if part.default is not part.empty}
    defaults = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    return {key: found[key] for key in found if key in defaults}, defaults


PARTS = members("model", "posterior", "prior", "likelihood", "objective")


@pytest.mark.parametrize("name", PARTS)
def test_a_part_made_in_python_is_that_of_the_command_line(name):
    """`cvae.priors.FlowPrior(2)` in a notebook has the values of prior=flow."""
    written, defaults = values(name)
    assert written == {key: defaults[key] for key in written}


def test_the_defaults_are_compared():
    assert sum(len(values(name)[0]) for name in PARTS) > 50


OURS = {  # what an optimizer or a scheduler has that is not torch's default, and why
    "optimizer/adam": {"lr": 1e-4, "eps": 1e-7},  # of TensorFlow's tutorial and of Keras
    "optimizer/rmsprop": {"lr": 1e-3},  # Keras's
    "optimizer/sgd": {"lr": 1e-4, "momentum": 0.9},  # the loss is in nats per image, so gradients are large
    "scheduler/constant": {"factor": 1},  # torch's would begin with a third of the learning rate
    "scheduler/one_cycle": {"cycle_momentum": False},  # a schedule changes the learning rate alone
}


@pytest.mark.parametrize("name", members("optimizer", "scheduler"))
def test_an_optimizer_has_torchs_defaults_unless_there_is_a_reason(name):
    written, defaults = values(name)
    written.pop("fused", None)  # faster, with the same results
    assert written == {key: defaults[key] for key in written} | OURS.get(name, {})


# The settings of publications, by group and key. What differs here, as conf/experiment/NAME.yaml says, is left out.
PUBLISHED = {
    "tf_tutorial": {  # tensorflow.org/tutorials/generative/cvae
        "data": {"batch_size": 32, "binarization": "static", "invert": False, "train_on": "train"},
        "model": {"latent_dim": 2, "filters": [32, 64], "base_channels": 32}, "objective": {"kl": "monte_carlo"},
        "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-7}, "trainer": {"max_epochs": 10},
    },
    "tf_tutorial_512": {"model": {"latent_dim": 2, "filters": 512}, "data": {"batch_size": 32}},  # its first next step
    "keras_io": {  # keras.io/examples/generative/vae
        "data": {"batch_size": 128, "binarization": "none", "train_on": "all"}, "likelihood": {"soft": True},
        "model": {"latent_dim": 2, "filters": [32, 64], "hidden": 16}, "objective": {"kl": "closed_form"},
        "optimizer": {"lr": 1e-3, "eps": 1e-7}, "trainer": {"max_epochs": 30},
    },
    "tf_guide": {  # tensorflow.org/guide/keras/making_new_layers_and_models_via_subclassing
        "data": {"batch_size": 64, "binarization": "none"}, "likelihood": {"scale": 1.0, "mean": "sigmoid"},
        "model": {"latent_dim": 32, "hidden": [64], "activation": "relu"},
        "objective": {"kl": "closed_form", "beta": (1 / 32) / (2 / 784)},  # means over pixels and latents, as sums
        "optimizer": {"lr": 1e-3, "eps": 1e-7 * 784 / 2}, "trainer": {"max_epochs": 2},
    },
    "tfp_layers": {  # tensorflow.org/probability/examples/Probabilistic_Layers_VAE
        "data": {"batch_size": 256, "binarization": "stochastic", "invert": True},
        "model": {"latent_dim": 16, "filters": [32, 64], "bottleneck": 64},
        "optimizer": {"lr": 1e-3}, "trainer": {"max_epochs": 15},
    },
    "iwae": {  # Burda et al. 2016, section 5 and appendix
        "data": {"binarization": "stochastic"}, "objective": {"samples": 50, "gradient": "plain"},
        "model": {"latent_dim": 50, "hidden": [200, 200], "activation": "tanh"},
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-4},
    },
    "vampprior": {  # Tomczak and Welling 2018, section 5
        "data": {"batch_size": 100, "binarization": "stochastic"}, "prior": {"components": 500},
        "model": {"latent_dim": 40, "hidden": [300, 300]},
    },
    "beta_vae": {"objective": {"beta": 4}},  # Higgins et al. 2017
    "ladder_cifar10": {  # Child 2021, the published code's values for CIFAR-10; its loss is a mean over the dimensions
        "optimizer": {"lr": 2e-4, "betas": [0.9, 0.9], "weight_decay": 0.01}, "scheduler": {"warmup_steps": 100},
        "averaging": {"decay": 0.9999}, "trainer": {"gradient_clip_val": 200 * 3072, "skip_above": 400 * 3072},
    },
    "image64": {"trainer": {"gradient_clip_val": 220 * 3 * 64**2, "skip_above": 380 * 3 * 64**2}},  # its ImageNet 64
    "image128": {"trainer": {"gradient_clip_val": 220 * 3 * 128**2, "skip_above": 380 * 3 * 128**2}},
    "resnet_mnist": {"data": {"binarization": "stochastic"}, "model": {"latent_dim": 32}},  # Kingma et al. 2016
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_experiment_has_the_settings_of_its_source(name):
    cfg = config(f"experiment={name}")
    wanted = {f"{group}.{key}": value for group, keys in PUBLISHED[name].items() for key, value in keys.items()}
    for key, value in wanted.items():
        found = OmegaConf.select(cfg, key)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))])
def test_an_experiment_names_each_choice_that_its_figures_follow_from(name):
    """Else another default of conf/config.yaml would change them."""
    found = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))["defaults"]
    chosen = {key.removeprefix("override /") for entry in found if isinstance(entry, dict) for key in entry}
    wanted = {"data", "model", "posterior", "prior", "likelihood", "objective", "optimizer", "scheduler"}
    left = {"own_images": {"data"}, "tf_tutorial_512": wanted}  # the user's; those of tf_tutorial, which it begins with
    assert wanted - chosen == left.get(name, set())
    assert name != "tf_tutorial_512" or found[0] == "tf_tutorial"


def test_what_refers_to_another_key_follows_it(monkeypatch):
    monkeypatch.setenv("CVAE_DATA", "/elsewhere")
    cfg = config("seed=7", "scheduler=one_cycle", "optimizer.lr=5", "run_dir=here", "logger=[csv,tensorboard]")
    assert cfg.data.seed == cfg.callbacks.pictures.seed == 7 and cfg.scheduler.max_lr == 5
    assert cfg.callbacks.pictures.run_dir == cfg.callbacks.checkpoint.run_dir == "here"
    assert cfg.logger.csv.save_dir == cfg.logger.tensorboard.run_dir == "here" and cfg.data.root == "/elsewhere"
    monkeypatch.delenv("CVAE_DATA")
    assert config().data.root == "data"
    cfg = config("data=synthetic", "data.num_classes=4", "data.image_shape=[3,8,12]")
    assert cfg.data.source.num_classes == 4 and cfg.data.source.image_shape == [3, 8, 12]
