"""callbacks.pictures.own: which of a user's images are drawn, with which labels and noise, and what is refused."""

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from stage import CPU, read, stage  # noqa: F401, a fixture
from tiny import tiny

from cvae import pictures
from cvae.build import make
from cvae.data.decode import decode, reading_of
from cvae.errors import ConfigError
from cvae.runtime.noise import fixed_noise


def images_in(folder, *names, size=(17, 13)):
    """Image files of these names, of another size than the model's."""
    noise = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(folder / name, noise.integers(0, 256, (*size, 3), np.uint8))
    return folder


def expected(show, files, names, epoch, y=None):
    """own.png for these files: as a test image is seen, from noise that begins by the run's seed."""
    x = show.data.as_tested(torch.from_numpy(decode(files, reading_of(show.data)).x))
    with fixed_noise(6, CPU):
        reconstructed = show.vae.reconstruct(x, y)
    headings = ("your images", f"reconstructions, epoch {epoch}")
    return pictures.pair((x, reconstructed), headings, round(len(files) ** 0.5), names)


def test_own_images_are_drawn_at_each_epoch(stage, tmp_path, monkeypatch):
    """The first `num` by name, decoded once; the other pictures are as without them."""
    folder = images_in(tmp_path / "mine", "c.png", "a.jpg", "b/d.png", "e.png", "f.png")
    show = stage(f"callbacks.pictures.own={folder}")
    decoded = []
    monkeypatch.setattr(
        "cvae.training.own_pictures.decode", lambda files, reading: decoded.append(files) or decode(files, reading)
    )
    show.epochs(2)
    files = [folder / name for name in ("a.jpg", "b/d.png", "c.png", "e.png")]
    assert decoded == [files]
    wanted = expected(show, files, ["a", "d", "c", "e"], 2)
    assert np.array_equal(read(show.run.own), wanted)
    height, width, _ = wanted.shape
    assert [logged for logged in show.logged if logged[0] == "own"] == [("own", height, width, k) for k in range(3)]
    twin = stage()
    for epoch in range(2):
        twin.change(epoch)
    left, right = twin.grids(twin.data.batch("test", range(4))[0], None, None, 4, 2)
    assert np.array_equal(read(show.run.image("reconstruction", 2)), left)
    assert np.array_equal(read(show.run.image("sample", 2)), right)
    assert show.module.training and not any(show.modes)


def test_a_conditional_model_takes_the_folder_as_the_class(stage, tmp_path):
    folder = images_in(tmp_path / "mine", "2/a.png", "0/b.png")
    show = stage(f"callbacks.pictures.own={folder}", "conditional=true", "data.num_classes=3")
    show.epochs(0)
    files = [folder / "0" / "b.png", folder / "2" / "a.png"]
    assert np.array_equal(read(show.run.own), expected(show, files, ["b", "a"], 0, torch.tensor([0, 2])))
    images_in(folder, "5/c.png")
    show = stage(f"callbacks.pictures.own={folder}", "conditional=true", "data.num_classes=3")
    with pytest.raises(ConfigError, match=r"for each class \(0, 1, 2\), as the model is given it; 5/c.png has none"):
        show.epochs(0)


def test_files_that_cannot_be_read_are_left_out(stage, tmp_path, caplog):
    folder = images_in(tmp_path / "mine", "b.png", "c.png")
    (folder / "a.png").write_text("no image")
    show = stage(f"callbacks.pictures.own={folder}")
    show.epochs(0)
    assert f"{folder / 'a.png'} is left out of the pictures: not an image of a known format" in caplog.messages
    assert np.array_equal(read(show.run.own), expected(show, [folder / "b.png", folder / "c.png"], ["b", "c"], 0))
    for name in ("b.png", "c.png"):
        (folder / name).write_text("nor this")
    show = stage(f"callbacks.pictures.own={folder}")
    with pytest.raises(ConfigError, match=r"^callbacks.pictures.own=.*mine: must be .*none of its 3 can be read$"):
        show.callback.on_fit_start(show.trainer, show.module)


def test_a_folder_without_images_is_refused_at_once(tmp_path):
    """Before any data are read."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    for name, why in (("missing", ", or null$"), ("empty", "There are no images in .*empty: no file below it ends in")):
        with pytest.raises(ConfigError, match=f"^callbacks.pictures.own={tmp_path / name}: must be .*{why}"):
            make(tiny(tmp_path / "run", f"callbacks.pictures.own={tmp_path / name}"), "callbacks")


def test_only_the_process_that_draws_looks_for_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    assert make(tiny(tmp_path, f"callbacks.pictures.own={tmp_path / 'missing'}"), "callbacks")["pictures"].own is None


def test_without_a_folder_there_is_no_such_picture(stage):
    show = stage()
    show.epochs(0)
    assert not show.run.own.exists() and "own" not in [tag for tag, *_ in show.logged]
