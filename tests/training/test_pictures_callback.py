"""The pictures of a run, cell by cell: which images, labels, noise, step and mode make them, and where they go."""

import weakref
from itertools import pairwise
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image
from stage import CPU, read, stage  # noqa: F401, a fixture
from tiny import tiny

from cvae import pictures
from cvae.build import make
from cvae.runtime.noise import fixed_noise
from cvae.training.pictures import spread, thinned


def pair(x, reconstructions, columns, epoch):
    left, right = pictures.grid(x, columns), reconstructions
    heading = f"reconstructions, epoch {epoch}"
    return pictures.side_by_side(pictures.headed(left, "test images"), pictures.headed(right, heading))


def frame(left, right, epoch):
    heading = f"reconstructions, epoch {epoch}"
    return pictures.side_by_side(pictures.headed(left, heading), pictures.headed(right, "samples"))


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
        frames.append(frame(left, right, epoch))
    assert np.array_equal(read(show.run.reconstruction), pair(x, left, 2, 2))  # of the last epoch
    assert show.run.gif.read_bytes() == pictures.gif(frames, [300, 300, 3000])
    assert len({frame.tobytes() for frame in frames}) == 3
    assert show.modes and not any(show.modes)
    side = 2 * 10 * 3 + 6
    both = (side + 28, 2 * side + 24)
    assert show.logged[:6] == [
        (name, *size, epoch)
        for epoch in range(3)
        for name, size in (("reconstruction", both), ("sample", (side, side)))
    ]
    assert show.logged[6] == ("training", *both, 2)
    assert [logged[0::3] for logged in show.logged[7:]] == [
        ("latent_manifold", 2), ("latent_scatter", 2), ("latent_traversal", 2), ("latent_interpolation", 2),
        ("latent_rates", 2), ("learning_curves", 2),
    ]  # fmt: skip


def test_the_gif_is_made_of_the_files(stage):
    """Also of those of epochs before this process, and its pace is the config's."""
    show = stage("callbacks.pictures.frame_milliseconds=120", "callbacks.pictures.last_frame_milliseconds=700")
    show.epochs(1)
    show.run.image("sample", 1).unlink()
    show.trainer.current_epoch = 3
    grids = [np.full((66, 66, 3), 50 * number, np.uint8) for number in range(4)]
    for name, number, pixels in (("reconstruction", 3, grids[1]), ("sample", 3, grids[2]), ("sample", 4, grids[3])):
        show.run.image(name, number).write_bytes(pictures.png(pixels))
    show.callback.publish(show.trainer, show.module)
    first = frame(read(show.run.image("reconstruction", 0)), read(show.run.image("sample", 0)), 0)
    assert show.run.gif.read_bytes() == pictures.gif([first, frame(grids[1], grids[2], 3)], [120, 700])


def test_long_runs_draw_fewer_and_fewer_epochs():
    """By the epoch's number alone: all to 20, each 2nd to 40, each 4th to 80, and so on."""
    drawn = [epoch for epoch in range(200) if epoch % thinned(epoch) == 0]
    expected = [*range(20), *range(20, 40, 2), *range(40, 80, 4), *range(80, 160, 8), *range(160, 200, 16)]
    assert drawn == expected
    assert sum(epoch % thinned(epoch) == 0 for epoch in range(100_001)) == 21 + 10 * 12 + 2


@pytest.mark.parametrize(("every", "drawn"), [("null", [*range(21), 22]), ("5", [0, 5, 10, 15, 20])])
def test_the_last_epoch_is_drawn_whatever_its_number(stage, every, drawn):
    show = stage(f"callbacks.pictures.every_n_epochs={every}")
    show.epochs(23)
    left, right = show.grids(show.data.batch("test", range(4))[0], None, None, 4, 2)
    assert np.array_equal(read(show.run.image("reconstruction", 23)), left)
    assert np.array_equal(read(show.run.image("sample", 23)), right)
    assert [number for number, *_ in show.run.frames(99)] == [*drawn, 23]
    assert [step for tag, *_, step in show.logged if tag == "sample"] == [*drawn, 23]
    assert np.array_equal(read(show.run.reconstruction), pair(show.data.batch("test", range(4))[0], left, 2, 23))
    with Image.open(show.run.gif) as image:
        assert image.n_frames == len(drawn) + 1
        image.seek(image.n_frames - 1)
        assert image.info["duration"] == 3000
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frame(left, right, 23)).max() < 20


def test_a_run_that_is_stopped_within_an_epoch_has_no_picture_of_that_step(stage):
    show = stage("callbacks.pictures.every_n_epochs=2")
    show.trainer.interrupted = True
    show.epochs(3)
    assert [number for number, *_ in show.run.frames(9)] == [0, 2]
    with Image.open(show.run.gif) as image:
        assert image.n_frames == 2


def test_a_run_that_goes_on_for_longer_leaves_no_picture_of_its_first_end(stage):
    show = stage("callbacks.pictures.every_n_epochs=2")
    show.epochs(3)
    assert [number for number, *_ in show.run.frames(9)] == [0, 2, 3]
    show.trainer.global_step, show.trainer.current_epoch = 9, 3
    show.callback.on_train_start(show.trainer, show.module)
    assert [number for number, *_ in show.run.frames(9)] == [0, 2]
    show.trainer.current_epoch = 2
    show.callback.on_train_start(show.trainer, show.module)
    assert [number for number, *_ in show.run.frames(9)] == [0, 2]


def test_a_gif_has_a_hundred_frames_at_most_and_reads_one_after_the_other(stage, monkeypatch):
    """Of 301 epochs, evenly spread, the first and the last among them, with all three of memory at a time."""
    show = stage("callbacks.pictures.every_n_epochs=1")
    show.epochs(0)
    for number in range(301):
        for name in ("reconstruction", "sample"):
            show.run.image(name, number).write_bytes(pictures.png(np.full((6, 6, 3), number % 256, np.uint8)))
    show.trainer.current_epoch, alive, most = 300, weakref.WeakSet(), []

    def imread(file):
        pixels = Pixels.of(imageio.imread(file))
        alive.add(pixels)
        most.append(len(alive))
        return pixels

    monkeypatch.setattr("cvae.training.pictures.imageio", SimpleNamespace(imread=imread, improps=imageio.improps))
    show.callback.publish(show.trainer, show.module)
    assert len(most) == 200 and max(most) <= 4
    with Image.open(show.run.gif) as image:
        assert image.n_frames == 100
    numbers = spread(range(301), 100)
    assert numbers[0] == 0 and numbers[-1] == 300 and len(set(numbers)) == 100
    assert {b - a for a, b in pairwise(numbers)} == {3, 4} and spread(range(100), 100) == list(range(100))


class Pixels(np.ndarray):
    """An array that a set can hold by its identity, to see when it is gone."""

    __hash__ = object.__hash__

    @classmethod
    def of(cls, pixels):
        return np.array(pixels).view(cls)


def test_large_grids_are_smaller_in_the_gif(stage):
    """So that a hundred frames have a bounded size."""
    show = stage()
    show.epochs(0)
    large, small = np.zeros((1600, 1200, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    for name in ("reconstruction", "sample"):
        show.run.image(name, 0).write_bytes(pictures.png(large))
    show.callback.publish(show.trainer, show.module)
    height, width = 1600 // 2, 1200 // 2
    assert imageio.improps(show.run.gif, index=0).shape[:2] == (height + 28, 2 * width + 24)
    assert show.logged[-7][:3] == ("training", height + 28, 2 * width + 24)
    twice = small.repeat(2, 0).repeat(2, 1)
    assert np.array_equal(pictures.reduced(twice, 48), small) and pictures.reduced(twice, 192) is twice


def test_a_run_that_goes_on_has_the_pictures_of_before(stage):
    show = stage()
    show.epochs(1)
    show.logged.clear()
    show.run.image("original").unlink()
    show.trainer.global_step = 3
    show.callback.on_fit_start(show.trainer, show.module)
    show.callback.on_train_start(show.trainer, show.module)
    assert show.logged == [] and not show.run.image("original").exists()
    show.callback.on_train_epoch_end(show.trainer, show.module)
    assert len(show.logged) == 2


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


def test_test_images_are_drawn_by_seed_and_classes_take_turns(stage):
    """Of an alphabetical list the head is of one class."""
    show = stage("callbacks.pictures.num=6", "data.source.test_size=30")
    show.data.test.images = show.data.test.images._replace(y=torch.tensor([2] * 20 + [5] * 8 + [7] * 2))
    y, chosen = show.data.test.images.y, {}
    for seed in (6, 6, 7):
        show.callback.seed, show.callback.chosen = seed, None
        show.callback.on_fit_start(show.trainer, show.module)
        chosen.setdefault(seed, []).append(show.callback.chosen)
    (first, again), (other,) = chosen.values()
    assert first == again != other and len(set(first)) == 6
    assert sorted(y[first].tolist()) == sorted(y[other].tolist()) == [2, 2, 5, 5, 7, 7]
    assert torch.equal(show.callback.x, show.data.batch("test", other)[0])
    assert show.callback.state_dict()["chosen"] == other


def test_a_saved_run_goes_on_with_the_images_that_it_has_shown(stage):
    show = stage("data.source.test_size=30")
    for state, expected in (({"history": {}}, [0, 1, 2, 3]), ({"history": {}, "chosen": [7, 3, 9, 1]}, [7, 3, 9, 1])):
        show.callback.load_state_dict(state)
        show.callback.on_fit_start(show.trainer, show.module)
        assert torch.equal(show.callback.x, show.data.batch("test", expected)[0])


def test_classes_that_have_names_are_below_their_images(stage):
    """In reconstruction.png, beside each other; the frames of the GIF have none."""
    show = stage("data.source.test_size=30")
    y = torch.tensor([1, 0, 2] * 10)
    show.data.test.images = show.data.test.images._replace(y=y, classes=("ant", "bee", "cat"))
    show.callback.chosen = [4, 2, 6, 1]
    show.epochs(1)
    x = show.data.batch("test", [4, 2, 6, 1])[0]
    left = show.grids(x, None, None, 4, 2)[0]
    with fixed_noise(6, CPU):
        reconstructed = show.vae.reconstruct(x)
    heads = ("test images", "reconstructions, epoch 1")
    expected = pictures.pair((x, reconstructed), heads, 2, ["ant", "cat", "bee", "ant"])
    assert np.array_equal(read(show.run.reconstruction), expected)
    assert np.array_equal(read(show.run.image("reconstruction", 1)), left)
    show.data.test.images = show.data.test.images._replace(y=0 * y, classes=("",))  # images in no folder
    show.epochs(1)
    assert show.callback.names is None


@pytest.mark.parametrize(
    ("words", "few"), [([], [0, 1, 2, 3]), (["conditional=true", "data.num_classes=5"], [0, 3, 6, 9])]
)
def test_of_large_images_few_are_beside_each_other(stage, words, few):
    """Of a conditional model the first of each class."""
    show = stage("data.image_shape=[1,132,2]", "callbacks.pictures.num=10", "data.source.test_size=15", *words)
    show.callback.chosen = [] if not words else None
    show.epochs(0)
    x, y = show.data.batch("test", show.callback.chosen)
    y = show.vae.labels(y)
    with fixed_noise(6, CPU):
        reconstructed = show.vae.reconstruct(x, y)
    expected = pictures.pair((x[few], reconstructed[few]), ("test images", "reconstructions, epoch 0"), 2)
    assert np.array_equal(read(show.run.reconstruction), expected)
    assert np.array_equal(read(show.run.image("reconstruction", 0)), pictures.grid(reconstructed, 3))


def test_learning_curves_of_whole_epochs(stage):
    """The figures of an epoch are complete when the next one begins; the state of a checkpoint has those before."""
    show = stage()
    split = {"train_epoch/elbo": -9.0, "test/elbo": -8.0, "test/rate": 2.0, "test/loss": 3.0, "selection/elbo": 1.0}
    for epoch, better in ((0, None), (1, 0.0), (2, 1.0)):
        show.module.figures = {} if better is None else {name: value + better for name, value in split.items()}
        show.trainer.current_epoch = epoch
        show.callback.on_train_epoch_start(show.trainer, show.module)
    expected = {
        "train/elbo": [(1, -9.0), (2, -8.0)],
        "test/elbo": [(1, -8.0), (2, -7.0)],
        "test/rate": [(1, 2.0), (2, 3.0)],
    }
    assert show.callback.history == expected
    resumed = stage()
    resumed.callback.load_state_dict(show.callback.state_dict())
    resumed.module.figures = show.module.figures | {"test/rate": 4.0}  # the others are of an epoch before
    resumed.callback.on_fit_start(resumed.trainer, resumed.module)
    resumed.callback.on_train_start(resumed.trainer, resumed.module)
    resumed.trainer.current_epoch = 3
    resumed.callback.publish(resumed.trainer, resumed.module)
    expected["test/rate"].append((3, 4.0))
    assert np.array_equal(read(resumed.run.curves), pictures.curves(expected))


def test_all_classes_are_shown_without_a_word(stage, caplog):
    caplog.set_level("INFO")
    stage("conditional=true", "data.num_classes=10").epochs(0)
    assert caplog.records == []


def test_pictures_leave_the_noise_of_training_alone(stage):
    """With images that are drawn at each use, too."""
    show = stage("data.binarization=stochastic")
    state = torch.get_rng_state()
    show.callback.on_fit_start(show.trainer, show.module)
    show.callback.on_train_start(show.trainer, show.module)
    show.callback.on_train_epoch_end(show.trainer, show.module)
    show.callback.publish(show.trainer, show.module)
    assert torch.equal(torch.get_rng_state(), state)
    x = show.data.batch("test", range(4))[0]  # test images were drawn once
    assert np.array_equal(read(show.run.image("original")), pictures.grid(x, 2))


def test_only_the_first_process_draws(stage):
    show = stage()
    show.trainer.is_global_zero = False
    show.epochs(1)
    assert show.logged == [] and not list(show.run.path.iterdir()) and show.modes == []


def test_a_run_directory_that_was_deleted_is_not_made_again(stage, caplog):
    show = stage()
    show.run.path.rmdir()
    show.epochs(1)
    assert not show.run.path.exists()
    assert caplog.text.count(f"No such file or directory: '{show.run}'") == 1


def test_pictures_that_cannot_be_saved_are_one_warning(stage, caplog):
    """The loggers have them all the same."""
    show = stage()
    show.run.images.write_text("a file where the folder should be")
    show.epochs(1)
    said = f"Pictures are missing, the training goes on: [Errno 17] File exists: '{show.run.image('original')}'"
    assert [message for message in caplog.messages if "missing" in message] == [said]
    assert len(show.logged) == 4  # two grids of two epochs


def test_a_fit_that_ended_before_its_first_picture_has_no_gif(stage):
    show = stage()
    show.callback.publish(show.trainer, show.module)
    assert not list(show.run.path.iterdir())


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


@pytest.mark.parametrize("value", ["0", "-2", "1.5", "often"])
def test_how_often_is_checked(tmp_path, value):
    with pytest.raises(
        ValueError, match=f"callbacks.pictures.every_n_epochs={value}: must be a positive integer or null"
    ):
        make(tiny(tmp_path, f"callbacks.pictures.every_n_epochs={value}"), "callbacks")
