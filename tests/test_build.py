"""From configs and run directories to objects; a run directory of an earlier version."""

import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, config, get_object
from omegaconf import OmegaConf

import cvae
from cvae.build import (
    MOVED,
    build_data,
    build_vae,
    config_to_go_on,
    described,
    load_data,
    load_with_step,
    make,
    saved_config,
)  # fmt: skip
from cvae.data.idx_files import IdxFiles
from cvae.errors import ConfigError, DataError, UserError
from cvae.likelihoods import Gaussian
from cvae.networks import mlp
from cvae.runs.checkpoint import read_checkpoint
from cvae.runs.directory import Run
from cvae.runs.small_files import read_json
from cvae.training.compatible import require_fit

OLD = (
    ROOT / "tests" / "fixtures" / "run_9787019"
)  # of commit 9787019: train.py data=synthetic conditional=true prior=vamp …
KEPT = (
    ROOT / "tests" / "fixtures" / "run_0.1.0"
)  # train.py data=synthetic conditional=true prior=vamp posterior=full_gaussian …


@pytest.mark.parametrize("folder", [OLD, KEPT])
def test_a_run_of_an_earlier_version_is_the_same_model(folder):
    """Its posterior, prior and likelihood give the numbers that they gave in that version."""
    vae = cvae.load(folder)
    with np.load(folder / "values.npz") as values:
        given = {name: torch.from_numpy(values[name]) for name in values}
    x, y = given["x"].float(), given["y"]
    with torch.no_grad():
        q = vae.encode(x, y)
        torch.testing.assert_close(q.mean, given["mean"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(q.scale_tril, given["scale_tril"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(vae.decode(given["z"], y).log_prob(x), given["log_px"], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(vae.p_z().log_prob(given["z"]), given["log_pz"], rtol=1e-5, atol=1e-5)
    assert len(load_data(Run(folder)).test) == (10 if folder == OLD else 7)
    assert not vae.training and load_with_step(Run(folder), "last", "cpu")[1] == (1 if folder == OLD else 3)


def test_a_run_of_this_version_goes_on(tmp_path):
    """From its config and its checkpoint alone, as somebody else would get them."""
    from cvae.training.train import train

    shutil.copytree(KEPT, tmp_path / "run")
    cfg = config_to_go_on(Run(tmp_path / "run"))
    cfg.trainer.max_epochs = 2
    train(cfg, resume=True)
    metrics = read_json(Run(tmp_path / "run").metrics)
    assert (metrics["epochs"], metrics["steps"]) == (2, 6)
    assert read_checkpoint(KEPT / "checkpoints" / "last.ckpt")["cvae"]["format"] == 1
    assert "cvae" not in read_checkpoint(OLD / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("old", MOVED)
def test_old_names_are_those_of_parts_today(old, tmp_path):
    assert get_object(MOVED[old])
    shutil.copytree(OLD, tmp_path / "run")
    cfg = OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml")
    cfg.data.source._target_ = old
    Run(tmp_path / "run").save_config(cfg)
    assert saved_config(Run(tmp_path / "run")).data.source._target_ == MOVED[old]


def test_a_config_that_lacks_parts(tmp_path):
    run = Run(tmp_path)
    run.save_config(OmegaConf.create({"model": {}, "data": {}, "prior": None}))
    with pytest.raises(UserError, match="is not the config of a run: it lacks posterior, likelihood, conditional"):
        cvae.load(tmp_path)


def test_the_model_of_a_config_in_its_parts():
    """Who gets which size: labels are channels of the encoder and dimensions of the decoder, and of no other part."""
    cfg = config(
        "model=mlp", "model.hidden=[5]", "model.latent_dim=3", "conditional=true", "prior=vamp", "prior.components=2"
    )
    cfg.data.image_shape, cfg.likelihood, cfg.data.num_classes = (
        [3, 4, 6],
        {"_target_": "cvae.likelihoods.Gaussian", "scale": "pixel"},
        7,
    )
    vae = build_vae(cfg)
    assert vae.encoder[1].weight.shape == (5, (3 + 7) * 4 * 6) and vae.encoder[-1].weight.shape == (6, 5)
    assert vae.decoder[0].weight.shape == (5, 3 + 7) and vae.decoder[2].weight.shape == (4 * 6 * 6, 5)
    assert vae.prior.pseudo_inputs.shape == (2, 10, 4, 6) and vae.p_z().event_shape == (3,)
    assert vae.num_classes == 7
    plain = build_vae(config())
    assert plain.num_classes == 0 and plain.encoder[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["conditional=true", "data.num_classes=null"], "data.num_classes=None: must be set"),
        (["conditional=true", "data.num_classes=0"], "data.num_classes=0: must be a positive integer"),
        (["conditional=1"], "conditional=1: must be one of False, True"),
        (
            ["conditional=true", "data.image_shape=[1,30,6]"],
            r"data.image_shape=\[1, 30, 6\]: must be .* H and W at least 7",
        ),
        (["objective/beta=linear", "objective.beta.steps=0"], "objective.beta.steps=0: must be"),
        (["data.source.root=3"], "Key|root"),
        (["+model.depth=3"], "model: cvae.networks.conv does not take its values: .*depth"),
    ],
)
def test_what_cannot_be_built_is_named(overrides, message):
    with pytest.raises(Exception, match=message) as error:
        cfg = config(*overrides)
        build_vae(cfg), make(cfg, "objective")
    assert isinstance(error.value, UserError) or "data.source.root=3" in overrides


def test_classes_are_counted_where_they_are_left_open(tmp_path):
    from PIL import Image

    for name in ("train/a", "train/b", "train/c", "test/a"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "1.png")
    words = ["data=image_folder", f"data.root={tmp_path}", "data.image_size=8"]
    cfg = config(*words, "conditional=true")
    build_data(cfg)
    assert cfg.data.num_classes == 3 and build_vae(cfg).num_classes == 3
    cfg = config(*words)
    build_data(cfg)
    assert cfg.data.num_classes is None
    with pytest.raises(ConfigError, match="data.num_classes=5: must be 3"):
        build_data(config(*words, "conditional=true", "data.num_classes=5")).setup()


def test_a_likelihood_and_data_that_do_not_fit():
    cfg = config("data=synthetic", "data.binarization=none")
    vae, data = build_vae(cfg), build_data(cfg)
    with pytest.raises(
        UserError,
        match=r"likelihood .*Bernoulli.* and data.binarization=none do not fit: .*binary images, .* are images of 256",
    ):
        require_fit(cfg, vae, data)
    cfg = config("data=synthetic")
    require_fit(cfg, build_vae(cfg), build_data(cfg))


def test_the_old_names_that_saved_configs_have():
    assert set(MOVED) == {
        "cvae.mnist.MNIST", "cvae.sources.IdxFiles", "cvae.sources.CIFAR10", "cvae.sources.image_folder",
        "cvae.sources.Synthetic", "cvae.runtime.vgg.vgg16",
    }  # fmt: skip


def test_a_part_that_is_not_there_is_named():
    cfg = config("prior._target_=cvae.priors.Nothing")
    with pytest.raises(UserError, match="^prior: cvae.priors.Nothing cannot be imported"):
        make(cfg, "prior")


def test_a_shape_is_named_as_the_user_sets_it():
    """With the planes of the labels it would be another; without data in the config it is the value itself."""
    group = {"_target_": "cvae.checks.image_shape", "key": "image_shape", "value": [2, 8]}
    with pytest.raises(ConfigError, match=r"^data.image_shape=\[2, 8\]: must be three positive integers"):
        make(OmegaConf.create({"model": group}), "model")
    with pytest.raises(ConfigError, match=r"^data.image_shape=\[1, 8, 8\]: must be three positive integers"):
        make(OmegaConf.create({"model": group, "data": {"image_shape": [1, 8, 8]}}), "model")


def test_arguments_go_to_the_part():
    cfg = OmegaConf.create({"part": {"_target_": "builtins.dict", "a": 1}})
    assert make(cfg, "part", b=2) == {"a": 1, "b": 2}


def test_a_group_without_a_class():
    cfg = config()
    cfg.prior = {"components": 3}
    with pytest.raises(UserError, match=r"prior: its file names no class \(_target_\)"):
        build_vae(cfg)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "xpu"])
def test_a_device_that_is_not_there(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device={device.partition(':')[0]}: must be a device of this machine"):
        cvae.load(OLD, device=device)


class Code:
    """What a pickle runs when it is opened."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_a_checkpoint_runs_no_code(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    torch.save({"state_dict": {"a": Code(tmp_path / "ran")}}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="last.ckpt is damaged or no checkpoint"):
        cvae.load(tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_the_likelihood_is_told_the_shape_of_the_images():
    cfg = config("conditional=true")
    cfg.data.image_shape, seen = [3, 8, 12], []

    def likelihood(image_shape):
        seen.append(image_shape)
        return Gaussian(image_shape)

    cfg.likelihood = {"_target_": "cvae.likelihoods.Gaussian"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvae.likelihoods.Gaussian", likelihood)
        build_vae(cfg)
    assert seen == [[3, 8, 12]]


def test_what_is_missing_is_fetched_only_into_a_folder_that_the_user_chose(tmp_path, monkeypatch):
    """The config of somebody else's run may say where images are, and not where to write."""
    fetched = []
    monkeypatch.setattr(IdxFiles, "download", lambda self: fetched.append(self.folder))
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.save_config(config(f"data.root={tmp_path}/theirs"))
    missing = "train-images-idx3-ubyte is missing"
    with pytest.raises(DataError, match=f"^{tmp_path}/theirs/MNIST/raw/{missing}\nNothing is fetched .* --data-root$"):
        load_data(run)
    assert fetched == []
    for trusted, root in ((run, str(tmp_path / "mine")), (Run(run.path, trust=True), None)):
        with pytest.raises(DataError, match=f"{missing}$"):
            load_data(trusted, root)
    run.save_config(config())
    monkeypatch.setenv("CVAE_DATA", str(tmp_path / "default"))
    with pytest.raises(DataError, match=f"{missing}$"):
        load_data(run)
    assert fetched == [tmp_path / name / "MNIST" / "raw" for name in ("mine", "theirs", "default")]


def test_the_data_of_a_run(tmp_path):
    run = Run(tmp_path)
    run.save_config(config("data=synthetic", "data.source.test_size=3"))
    assert len(load_data(run).test) == 3


def test_a_run_with_parts_of_the_users_own_needs_a_word(tmp_path, monkeypatch):
    """python train.py takes any _target_; to load the run later, the user says that it is theirs."""
    (tmp_path / "theirs.py").write_text("from cvae.likelihoods import Gaussian as Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = Run(tmp_path / "run")
    run.path.mkdir()
    cfg = config("model.filters=4", "likelihood=gaussian", "likelihood._target_=theirs.Mine")
    run.save_config(cfg)
    run.checkpoints.mkdir()
    weights = build_vae(cfg).state_dict()  # as training does, without a word
    torch.save({"state_dict": {f"vae.{name}": value for name, value in weights.items()}}, run.checkpoints / "last.ckpt")
    with pytest.raises(UserError, match=r"^likelihood._target_='theirs.Mine': .* trust=True\)$"):
        cvae.load(run.path)
    vae = cvae.load(run.path, trust=True)
    assert isinstance(vae.likelihood, Gaussian)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_run_that_is_trusted_may_be_of_any_size(tmp_path, monkeypatch):
    """Its parts may make what the checkpoint does not hold; those of others may not."""
    run = Run(tmp_path)
    cfg = config("data=synthetic", "data.image_shape=[1,8,8]", "model=mlp", "model.hidden=[4]")
    run.save_config(cfg)
    run.checkpoints.mkdir()
    weights = build_vae(cfg).state_dict()
    torch.save({"state_dict": {f"vae.{name}": value for name, value in weights.items()}}, run.checkpoints / "last.ckpt")

    def large(**sizes):
        torch.zeros(2**22)  # 16 MiB
        return mlp(**sizes)

    monkeypatch.setattr("cvae.networks.mlp", large)
    with pytest.raises(UserError, match="^the model is larger than its checkpoint, which should hold it$"):
        cvae.load(tmp_path)
    assert cvae.load(tmp_path, trust=True).encoder[1].out_features == 4


def test_a_config_that_describes_nothing(tmp_path, monkeypatch):
    """One message whatever is raised, but errors of the user and of files stay what they are."""
    for error, name in (
        (ZeroDivisionError("0"), "UserError"),
        (OSError("disk"), "OSError"),
        (UserError("u"), "UserError"),
    ):
        with pytest.raises((UserError, OSError)) as found, described(Run(tmp_path), "model"):
            raise error
        assert type(found.value).__name__ == name
        if isinstance(error, ZeroDivisionError):
            assert str(found.value) == f"{Run(tmp_path).config_file} describes no model: ZeroDivisionError: 0"
        else:
            assert found.value is error
