"""Whole runs on the small MNIST: the run directory, TensorBoard, determinism, loading, and choices that do not fit."""

import json

import imageio.v3 as imageio
import pytest
import torch
from conftest import config
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import cvae
from cvae.data.images import in_turns
from cvae.data.mnist import MNIST
from cvae.errors import ConfigError, NotFinite, UserError
from cvae.runs.directory import Run
from cvae.training.train import train


@pytest.fixture
def run(mnist_root, small_md5, tmp_path):
    """Train a small model into tmp_path/NAME; returns (the run directory, what train returned)."""

    def run(name, *overrides):
        folder = tmp_path / name
        small = [
            f"data.root={mnist_root}",
            f"run_dir={folder}",
            "trainer=cpu",
            "trainer.max_epochs=2",
            "model.filters=4",
        ]
        small += [
            "data.batch_size=16",
            "data.eval_batch_size=16",
            "trainer.log_every_n_steps=2",
            "callbacks.pictures.manifold_steps=3",
        ]
        small += ["evaluation.samples=0"]
        cfg = config(*small, *overrides)
        (folder / ".hydra").mkdir(parents=True)  # written by Hydra when it is the command line that starts the run
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        return folder, train(cfg)

    return run


def test_a_run_leaves_what_the_contract_says(run, mnist_root, caplog):
    caplog.set_level("INFO")
    folder, result = run("a", "evaluation.samples=3", "evaluation.aggregate_images=20")
    assert {path.name for path in folder.iterdir()} - {path.name for path in Run(folder).event_files()} == {
        ".hydra", "checkpoints", "train", "test", "images", "evaluation",
        "cvae.gif", "reconstruction.png", "latent_manifold.png", "latent_scatter.png", "latent_traversal.png",
        "latent_interpolation.png", "latent_rates.png", "learning_curves.png", "metrics.json", "status.json", ".lock",
    }  # fmt: skip
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt", "best.ckpt"}
    grids = {f"{name}_{epoch:04d}.png" for name in ("reconstruction", "sample") for epoch in range(3)}
    assert {path.name for path in (folder / "images").iterdir()} == grids | {"original.png"}
    assert len(imageio.imread(folder / "cvae.gif")) == 3
    # the originals are test images, one of each class in turn, binarized: white where the pixel is above one half
    first = imageio.imread(folder / "images" / "original.png")[6:90:3, 6:90:3, 0]
    test = MNIST(mnist_root).load()[1]
    chosen = in_turns(test.y, torch.randperm(len(test.y), generator=torch.Generator().manual_seed(0)))
    assert ((first == 255) == (test.x[chosen[0], 0].numpy() > 127)).all()

    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test/elbo"] == pytest.approx(-metrics["test/rate"] - metrics["test/distortion"], rel=1e-5)
    assert metrics["test/elbo"] == result and metrics["epochs"] == 2 and metrics["steps"] == 12
    assert len(metrics["train/seconds_per_epoch"]) == 2
    assert metrics["evaluation/elbo"] < -metrics["evaluation/nll"]  # Jensen
    lines = [record.message for record in caplog.records if record.message.startswith("Epoch 2: test ELBO")]
    assert lines and f"{result:.2f}" in lines[0]

    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0}).Reload()
    assert set(events.Tags()["images"]) == {
        "pictures/01 training", "pictures/02 reconstruction", "pictures/03 sample", "pictures/04 latent_manifold",
        "pictures/05 latent_scatter", "pictures/07 latent_traversal", "pictures/08 latent_interpolation",
        "pictures/09 latent_rates", "pictures/10 learning_curves",
    }  # fmt: skip
    assert [event.step for event in events.Images("pictures/03 sample")] == [0, 6, 12]  # as the curves count
    assert events.Images("pictures/01 training")[0].encoded_image_string == (folder / "cvae.gif").read_bytes()
    assert events.Tags()["scalars"] == ["bound/NLL"]
    for split, more in (
        ("train", {"trainer/lr", "trainer/gradient_norm", "trainer/images_per_second"}),
        ("test", set()),
    ):
        curves = EventAccumulator(str(folder / split)).Reload()
        assert set(curves.Tags()["scalars"]) == more | {
            "bound/ELBO", "bound/rate", "bound/distortion", "terms/loss",
        }  # fmt: skip
    assert curves.Scalars("bound/ELBO")[-1].value == pytest.approx(result)
    hparams = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    assert hparams.session_start_info.hparams["model.latent_dim"].number_value == 2


def test_seed_makes_two_runs_equal_and_load_gives_the_model_back(run):
    (first, one), (second, two), (other, three) = run("a"), run("b"), run("c", "seed=1")
    vae, twin, stranger = cvae.load(first), cvae.load(second), cvae.load(other)
    assert one == two != three
    for name, value in vae.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])
    assert any(not torch.equal(value, stranger.state_dict()[name]) for name, value in vae.state_dict().items())
    assert (first / "cvae.gif").read_bytes() == (second / "cvae.gif").read_bytes()
    weights = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(vae.decoder[0].weight, weights["vae.decoder.0.weight"]) and not vae.training


def test_evaluation_does_not_move_the_training(run):
    often, _ = run("often")
    once, _ = run("once", "trainer.check_val_every_n_epoch=2", "callbacks.pictures.num=4")
    assert torch.equal(cvae.load(often).decoder[0].weight, cvae.load(once).decoder[0].weight)


def test_the_best_checkpoint_is_chosen_on_the_validation_split(run):
    folder, result = run("a", "data.validation_size=20")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["validation/elbo"] == result != metrics["test/elbo"]
    assert metrics["steps"] == 2 * 5  # 96 - 20 images in batches of 16


def test_the_last_line_says_that_the_test_images_were_trained_on(run, caplog):
    with caplog.at_level("INFO"):
        run("a", "data.train_on=all")
    assert "nats per image; the test images were trained on, too (data.train_on=all). The run is in" in caplog.text


@pytest.mark.parametrize("extra", [[], ["trainer.check_val_every_n_epoch=5"]], ids=["each epoch", "at the end"])
def test_an_importance_weighted_run_is_chosen_by_its_own_bound(run, extra):
    folder, result = run("a", "objective=iwae", "objective.samples=20", *extra)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert result == -metrics["test/loss"] > metrics["test/elbo"]
    if not extra:
        best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
        (state,) = (state for name, state in best["callbacks"].items() if name.startswith("Checkpoints"))
        assert state["best"] == pytest.approx(result)


def test_a_run_that_ends_between_evaluations(run):
    folder, _ = run("a", "trainer.check_val_every_n_epoch=5")
    metrics = json.loads((folder / "metrics.json").read_text())
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert metrics["steps"] == last["global_step"] == 12 and "test/elbo" in metrics


def test_without_the_checkpoint_callback_nothing_is_saved(run):
    folder, _ = run("a", "~callbacks.checkpoint", "trainer.max_epochs=1")
    assert list(folder.rglob("*.ckpt")) == []


def test_an_optimizers_own_checks_are_readable(run):
    with pytest.raises(UserError, match=r"optimizer: torch.optim.Adam does not take its values: .*fused.*foreach"):
        run("a", "+optimizer.foreach=true")


def test_a_schedule_of_the_learning_rate(run):
    folder, _ = run("a", "scheduler=cosine", "trainer.max_epochs=3", "optimizer.lr=0.04")
    events = EventAccumulator(str(folder / "train")).Reload().Scalars("trainer/lr")
    assert [event.step for event in events] == [0, 6, 12]  # 96 images in batches of 16
    assert [event.value for event in events] == pytest.approx([0.04, 0.03, 0.01])  # (1 + cos(pi epoch / 3)) / 2 of it
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scheduler.T_max=0", "scheduler.T_max=0: must be a positive integer"),
        ("scheduler.eta_min=-1", "scheduler.eta_min=-1: must be a finite number of at least 0"),
        (
            "+scheduler.power=2",
            "scheduler: torch.optim.lr_scheduler.CosineAnnealingLR does not take its values with T_max=2: .*power",
        ),
    ],
)
def test_a_scheduler_that_cannot_work_is_readable(run, override, message):
    with pytest.raises(UserError, match=message):
        run("a", "scheduler=cosine", override)


def test_other_latent_dimensions_have_no_manifold(run):
    folder, _ = run("a", "model.latent_dim=3")
    assert (folder / "cvae.gif").exists() and not (folder / "latent_manifold.png").exists()
    assert (folder / "latent_map.png").exists()


def test_a_loss_that_is_not_finite_stops_the_run(run):
    with pytest.raises(NotFinite, match="epoch 1, step .*nan.*optimizer.lr"):
        run("a", "optimizer.lr=1e30")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.latent_dim=0", "model.latent_dim=0: must be a positive integer"),
        ("model.latent_dim=-1", "model.latent_dim=-1: must be"),
        ("model.latent_dim=two", "model.latent_dim=two: must be"),
        ("model.latent_dim=true", "model.latent_dim=True: must be"),
        ("model.filters=0", "model.filters=0: must be a positive integer .* list of two"),
        ("model.filters=[]", r"model.filters=\[\]: must be"),
        ("model.filters=[32]", r"model.filters=\[32\]: must be"),
        ("model.filters=[32,-1]", r"model.filters=\[32, -1\]: must be"),
        ("data.image_shape=[1,30,6]", r"data.image_shape=\[1, 30, 6\]: must be .* at least 7 for this network"),
        ("data.batch_size=0", "data.batch_size=0: must be a positive integer"),
        ("data.eval_batch_size=0", "data.eval_batch_size=0: must be"),
        ("data.binarization=half", "data.binarization=half: must be one of static, stochastic, fixed, none"),
        ("data.validation_size=-1", "data.validation_size=-1: must be"),
        ("data.validation_size=96", "data.validation_size=96: must be below the 96 training images"),
        ("data.image_shape=[1,32,32]", r"data.image_shape=\[1, 32, 32\]: must be \[1, 28, 28\], as the images are"),
        ("objective.samples=0", "objective.samples=0: must be"),
        ("optimizer.lr=-1", "optimizer.lr=-1: must be a finite number above 0"),
        ("optimizer.lr=fast", "optimizer.lr=fast: must be"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be"),
        ("optimizer.betas=[0.9]", r"optimizer.betas=\[0.9\]: must be two numbers"),
        ("optimizer.betas=0.9", "optimizer.betas=0.9: must be two numbers"),
        ("optimizer.betas=[0.9,2]", r"optimizer.betas=\[0.9, 2\]: must be two numbers"),
        ("+trainer.limit_test_batches=0", "trainer.limit_test_batches=0: must be a positive integer"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: must be"),
        (
            "trainer.accelerator=abacus",
            "trainer.accelerator=abacus: must be a device of this machine: one of auto, cpu",
        ),
        ("conditional=no-way", "conditional=no-way: must be one of False, True"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0: must be"),
        ("data.image_shape=[28,28]", r"data.image_shape=\[28, 28\]: must be three positive integers"),
        ("data.image_shape=[2,28,28]", r"data.image_shape=\[2, 28, 28\]: must be \[1, 28, 28\], as the images are"),
        ("callbacks.pictures.num=0", "callbacks.pictures.num=0: must be"),
        ("evaluation.samples=-1", "evaluation.samples=-1: must be a positive integer, or 0 for no evaluation"),
        ("evaluation.samples=null", "evaluation.samples=None: must be"),
        ("evaluation.samples=false", "evaluation.samples=False: must be"),
        ("optimizer.eps=0", "optimizer.eps=0: must be a finite number above 0"),
        ("evaluation.memory=0", "evaluation.memory=0: must be"),
        ("evaluation.images=0", "evaluation.images=0: must be"),
        ("optimizer.eps=-1", "optimizer.eps=-1: must be"),
        ("optimizer.fused=maybe", "optimizer.fused=maybe: must be one of False, True"),
        ("callbacks.checkpoint.monitor=foo", "callbacks.checkpoint.monitor=foo: must be one of selection/bound"),
        ("callbacks.pictures.max_classes=0", "callbacks.pictures.max_classes=0: must be"),
        ("objective.kl=exact", "objective.kl=exact: must be one of monte_carlo, closed_form"),
        ("seed=-1", "seed=-1: must be"),
    ],
)
def test_bad_values_name_key_value_and_what_is_allowed(run, override, message):
    with pytest.raises(ConfigError, match=message):
        run("a", override)


def test_an_evaluation_has_no_such_key(run):
    with pytest.raises(
        UserError, match="evaluation: .*chunk.*; it has samples, images, draw, aggregate_images, memory, seed"
    ):
        run("a", "+evaluation.chunk=100")


def test_images_are_moved_to_the_device_of_the_training_before_it(run, monkeypatch):
    seen = []
    monkeypatch.setattr("cvae.data.ImageData.keep_on", lambda data, device: seen.append((device, len(data.train))))
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *_, **__: seen.append("fit") or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("a")
    assert seen == [(torch.device("cpu"), 96), "fit"]


def test_choices_that_do_not_fit_are_found_before_training(run, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match="objective.kl=closed_form: must be monte_carlo"):
        run("a", "objective.kl=closed_form", "prior=mixture")
    with pytest.raises(UserError, match="likelihood .*data.binarization=none"):
        run("b", "data.binarization=none")


def test_a_conditional_model_shows_a_row_a_class(run):
    folder, _ = run("a", "conditional=true", "callbacks.pictures.num=9", "trainer.max_epochs=1")
    cell = 3 * (28 + 2)
    for name in ("sample_0001", "reconstruction_0001", "original"):
        assert imageio.imread(folder / "images" / f"{name}.png").shape == (10 * cell + 6, 3 * cell + 6, 3)
    assert len(list(folder.glob("latent_manifold_?.png"))) == 10
    vae = cvae.load(folder)
    z = torch.zeros(1, 2)
    assert not torch.equal(vae.decode(z, torch.tensor([0])).mean, vae.decode(z, torch.tensor([1])).mean)


def test_a_gpu_that_is_not_there(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match="trainer.accelerator=gpu: must be a device of this machine: one of auto, cpu"
    ):
        run("a", "trainer=gpu", "trainer.accelerator=gpu")
