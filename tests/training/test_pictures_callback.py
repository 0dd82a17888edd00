"""The pictures of a run, cell by cell: which images, labels, noise, step and mode make them, and where they go."""

from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from tiny import tiny

from cvae import pictures
from cvae.build import build_data, build_vae, make
from cvae.noise import fixed_noise
from cvae.run import Run
from cvae.training.module import VAEModule
from cvae.training.pictures import posterior_means

CPU = torch.device("cpu")


class Stage:
    """The callback with what Lightning hands it, and what it logged: (tag, height, width, step)."""

    def __init__(self, folder, monkeypatch, *overrides):
        cfg = tiny(folder, "seed=6", *overrides)
        torch.manual_seed(1)
        self.data, self.vae, self.run = build_data(cfg), build_vae(cfg), Run(folder)
        for part in self.vae.parameters():
            part.data *= 3  # far from grey
        self.data.setup()
        self.module = VAEModule(self.vae, None, None, None)
        self.callback = make(cfg, "callbacks")["pictures"]
        self.logged, self.modes = [], []
        self.vae.decoder.register_forward_hook(lambda *_: self.modes.append(self.vae.training))
        self.trainer = SimpleNamespace(
            is_global_zero=True, datamodule=self.data, loggers=["logger"], current_epoch=0, global_step=0,
            strategy=SimpleNamespace(root_device=CPU),
        )  # fmt: skip
        monkeypatch.setattr("cvae.training.pictures.log_picture", self.log_picture)

    def log_picture(self, loggers, tag, content, height, width, step):
        assert loggers == ["logger"]
        assert imageio.imread(content).shape[-3:-1] == (height, width)
        self.logged.append((tag, height, width, step))

    def epochs(self, count):
        """The calls of a run of so many epochs, after each of which the model is another."""
        self.callback.on_fit_start(self.trainer, self.module)
        self.callback.on_train_start(self.trainer, self.module)
        for epoch in range(count):
            self.change(epoch)
            self.trainer.current_epoch = epoch
            self.callback.on_train_epoch_end(self.trainer, self.module)
        self.trainer.current_epoch = count
        self.callback.publish(self.trainer, self.module)

    def change(self, epoch):
        self.vae.decoder[-2].bias.data += 0.2 * (-1) ** epoch * (epoch + 1)

    def grids(self, x, y, labels, num, columns):
        """The expected grids of an epoch: reconstructions first, samples next, from one stream of noise."""
        with fixed_noise(6, CPU):
            left = self.vae.reconstruct(x, y)
            right = self.vae.sample(num, labels)
        return pictures.grid(left, columns), pictures.grid(right, columns)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return lambda *overrides: Stage(tmp_path / "run", monkeypatch, *overrides)


def read(file):
    return imageio.imread(file)


def test_each_epoch_shows_the_first_test_images_and_samples_with_the_same_noise(stage):
    show = stage()
    show.epochs(2)
    twin = stage()
    x = twin.data.batch("test", range(4))[0]
    assert np.array_equal(read(show.run.image("original")), pictures.grid(x, 2))
    frames = []
    for epoch in range(3):
        if epoch:
            twin.change(epoch - 1)
        left, right = twin.grids(x, None, None, 4, 2)
        assert np.array_equal(read(show.run.image("reconstruction", epoch)), left)
        assert np.array_equal(read(show.run.image("sample", epoch)), right)
        frames.append(pictures.side_by_side(left, right))
    assert show.run.gif.read_bytes() == pictures.gif(frames, 300, 3000)
    assert len({frame.tobytes() for frame in frames}) == 3
    assert show.modes and not any(show.modes)
    side = 2 * 10 * 3 + 6
    assert show.logged[:3] == [
        ("original", side, side, 0),
        ("reconstruction", side, side, 0),
        ("sample", side, side, 0),
    ]
    assert [logged[0::3] for logged in show.logged[3:]] == [
        ("reconstruction", 1), ("sample", 1), ("reconstruction", 2), ("sample", 2),
        ("training", 2), ("latent_manifold", 2), ("latent_scatter", 2),
    ]  # fmt: skip
    assert show.logged[7][1:3] == (side, 2 * side + 24)


def test_the_pace_of_the_gif(stage):
    show = stage("callbacks.pictures.frame_milliseconds=120", "callbacks.pictures.last_frame_milliseconds=700")
    show.epochs(1)
    frames = [pictures.side_by_side(*map(read, grids)) for grids in show.run.frames(1)]
    assert show.run.gif.read_bytes() == pictures.gif(frames, 120, 700) and len(frames) == 2


def test_a_run_that_goes_on_has_the_pictures_of_before(stage):
    """They are not drawn again, and the GIF has those of the epochs that are complete and still there."""
    show = stage()
    show.epochs(2)
    show.logged.clear()
    whole = show.run.gif.read_bytes()
    show.run.gif.unlink()
    show.trainer.global_step = 3
    show.callback.on_fit_start(show.trainer, show.module)
    show.callback.on_train_start(show.trainer, show.module)
    assert show.logged == []
    show.callback.publish(show.trainer, show.module)
    assert show.run.gif.read_bytes() == whole
    show.trainer.current_epoch = 1
    show.callback.publish(show.trainer, show.module)
    frames = [pictures.side_by_side(*map(read, grids)) for grids in show.run.frames(2)]
    assert len(frames) == 3 and show.run.gif.read_bytes() == pictures.gif(frames[:2], 300, 3000)
    show.run.image("sample", 0).unlink()
    show.callback.publish(show.trainer, show.module)
    assert show.run.gif.read_bytes() == pictures.gif(frames[1:2], 300, 3000)


def test_pictures_of_an_epoch_leave_the_model_in_training(stage):
    show = stage()
    show.callback.on_fit_start(show.trainer, show.module)
    show.callback.on_train_start(show.trainer, show.module)
    assert show.module.training and not any(show.modes)


def test_more_images_than_the_test_set_has(stage):
    show = stage("callbacks.pictures.num=9")
    show.epochs(0)
    assert np.array_equal(read(show.run.image("original")), pictures.grid(show.data.batch("test", range(7))[0], 3))
    expected = show.grids(show.data.batch("test", range(7))[0], None, None, 9, 3)
    assert np.array_equal(read(show.run.image("sample", 0)), expected[1])


def test_manifold_and_scatter_are_of_the_trained_model_and_the_whole_test_set(stage):
    show = stage()
    show.epochs(1)
    assert np.array_equal(read(show.run.manifold()), pictures.latent_manifold(show.vae, 2, CPU))
    x, y = show.data.batch("test", range(7))
    means, labels = posterior_means(show.vae, show.data, CPU)  # in batches of 3
    with torch.no_grad():
        assert np.allclose(means, show.vae.encode(x).mean.numpy(), atol=1e-6)
    assert np.array_equal(labels, y.numpy()) and means.shape == (7, 2)
    assert np.array_equal(read(show.run.scatter), pictures.latent_scatter(means, labels))


def test_a_conditional_model_has_a_row_a_class(stage, caplog):
    """12 classes, of which 3 are shown; the test set has none of class 2, which has no row of reconstructions."""
    caplog.set_level("INFO")
    words = ["conditional=true", "data.num_classes=12", "data.source.test_size=14", "callbacks.pictures.max_classes=3"]
    show = stage(*words, "callbacks.pictures.num=10")
    y = show.data.test.images.y
    show.data.test.images = show.data.test.images._replace(
        y=torch.where(y == 2, 3, y)
    )  # classes 0, 1, 3, 3, 4, …, 0, 1
    show.epochs(0)
    chosen = torch.tensor([0, 12, 0, 1, 13, 1])
    x, y = show.data.batch("test", chosen.tolist())
    assert np.array_equal(read(show.run.image("original")), pictures.grid(x, 3))
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    left, right = show.grids(x, y, labels, 9, 3)
    assert np.array_equal(read(show.run.image("reconstruction", 0)), left)
    assert np.array_equal(read(show.run.image("sample", 0)), right)
    for label in range(3):
        expected = pictures.latent_manifold(show.vae, 2, CPU, label)
        assert np.array_equal(read(show.run.manifold(label)), expected)
    assert len(list(show.run.path.glob("latent_manifold*.png"))) == 3
    x, y = show.data.batch("test", range(14))
    with torch.no_grad():
        expected = show.vae.encode(x, y).mean.numpy()
    assert np.allclose(posterior_means(show.vae, show.data, CPU)[0], expected, atol=1e-6)
    assert [record.message for record in caplog.records] == ["Pictures show the first 3 of 12 classes"]


def test_all_classes_are_shown_without_a_word(stage, caplog):
    caplog.set_level("INFO")
    stage("conditional=true", "data.num_classes=10").epochs(0)
    assert caplog.records == []


def test_more_than_two_latent_dimensions_have_neither_manifold_nor_scatter(stage, caplog):
    caplog.set_level("INFO")
    show = stage("model.latent_dim=3")
    show.epochs(0)
    assert not show.run.manifold().exists() and not show.run.scatter.exists() and show.run.gif.exists()
    expected = "No latent manifold and scatter: they need model.latent_dim=2, here it is 3"
    assert [record.message for record in caplog.records] == [expected]


def test_pictures_leave_the_noise_of_training_alone(stage):
    """With images that are drawn at each use, too."""
    show = stage("data.binarization=stochastic")
    state = torch.get_rng_state()
    show.callback.on_fit_start(show.trainer, show.module)
    show.callback.on_train_start(show.trainer, show.module)
    show.callback.on_train_epoch_end(show.trainer, show.module)
    assert torch.equal(torch.get_rng_state(), state)
    x = show.data.batch("test", range(4))[0]  # test images were drawn once
    assert np.array_equal(read(show.run.image("original")), pictures.grid(x, 2))


def test_only_the_first_process_draws(stage):
    show = stage()
    show.trainer.is_global_zero = False
    show.epochs(1)
    assert show.logged == [] and not show.run.path.exists() and show.modes == []


def test_a_fit_that_ended_before_its_first_picture_has_no_gif(stage):
    show = stage()
    show.callback.publish(show.trainer, show.module)
    assert not show.run.path.exists()


def test_noise_and_names_are_those_of_the_config(tmp_path):
    callback = make(tiny(tmp_path, "seed=6", "callbacks.pictures.num=9"), "callbacks")["pictures"]
    assert (callback.seed, callback.num, callback.columns, callback.manifold_steps, callback.run.path) == (
        6, 9, 3, 2, tmp_path,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["num", "manifold_steps", "max_classes", "frame_milliseconds", "last_frame_milliseconds"]
)
def test_numbers_are_checked(tmp_path, name):
    with pytest.raises(ValueError, match=f"callbacks.pictures.{name}=0: must be a positive integer"):
        make(tiny(tmp_path, f"callbacks.pictures.{name}=0"), "callbacks")
