"""Arrays of numpy.save and numpy.savez on disk: the same images as in memory, read when they are asked for."""

import io
import threading

import numpy as np
import pytest
import torch
from conftest import config
from tiny import QUIET, tiny

from cvae.data import npz as module
from cvae.data.arrays import headers
from cvae.data.images import ImageDataset
from cvae.data.mapped import Mapped
from cvae.data.npz import Npz
from cvae.errors import ConfigError, DataError
from cvae.training.train import assemble, train

RNG = np.random.default_rng(0)
GREYS = RNG.integers(0, 256, (30, 8, 8)).astype(np.uint8)
KINDS = {
    "grey": GREYS,
    "colours": RNG.integers(0, 256, (30, 8, 6, 3)).astype(np.uint8),
    "one channel": GREYS[..., None],
    "bool": GREYS > 127,
    "float32": GREYS.astype(np.float32) / 255,
    "float16": np.float16(GREYS / 255),
    "big-endian": (GREYS / 255).astype(">f8"),
}


def source(root, **options):
    return Npz(str(root), **{"test_size": 0.25, "seed": 0, "split": "hash"} | options)


def everything(images):
    return images.x[slice(None)], images.y


@pytest.fixture
def disk(monkeypatch):
    """All images stay in their files."""
    monkeypatch.setattr(module, "IN_MEMORY", 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_images_on_disk_are_those_in_memory(tmp_path, monkeypatch, kind, ending):
    x, y = KINDS[kind], RNG.integers(0, 4, 30)
    root = tmp_path / f"own.{ending}"
    if ending == "npz":
        np.savez(root, other=x[:3], x=x, y=y)
    else:
        np.save(root, x)
        np.save(tmp_path / "own_y.npy", y)
    expected = source(root).load()
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    found = source(root).load()
    assert source(root).image_shape() == tuple(expected[0].x.shape[1:]) and source(root).classes() == 4
    for one, two in zip(expected, found, strict=True):
        assert isinstance(one.x, torch.Tensor) and isinstance(two.x, Mapped)
        for part, other in zip(everything(one), everything(two), strict=True):
            assert torch.equal(part, other)
        assert one.names.tolist() == two.names.tolist() and one.classes == two.classes


def test_two_files(tmp_path, disk):
    for name, count in (("train", 20), ("test", 10)):
        np.save(tmp_path / f"{name}.npy", GREYS[:count])
        np.save(tmp_path / f"{name}_y.npy", [f"class {number % 3}" for number in range(count)])
    train, test = source(tmp_path).load()
    assert torch.equal(train.x[slice(None)][:, 0], torch.from_numpy(GREYS[:20])) and len(test.x) == 10
    assert train.classes == ("class 0", "class 1", "class 2") and test.y.tolist() == [0, 1, 2] * 3 + [0]
    (tmp_path / "test.npy").unlink()
    with pytest.raises(DataError, match="the folder has no train.npz and no test.npz, nor such .npy files"):
        source(tmp_path).load()


@pytest.mark.parametrize("how", ["packed", "Fortran"])
def test_what_has_no_rows_on_disk_is_read(tmp_path, disk, how):
    if how == "packed":
        np.savez_compressed(tmp_path / "own.npz", x=GREYS)
    else:
        np.savez(tmp_path / "own.npz", x=np.asfortranarray(GREYS))
    train, test = source(tmp_path / "own.npz").load()
    assert isinstance(train.x, torch.Tensor) and len(train.x) + len(test.x) == 30
    assert torch.equal(train.x[:, 0], torch.from_numpy(GREYS[train.names]))


def test_what_stays_on_disk_needs_no_memory(tmp_path, monkeypatch):
    """A label takes two int64."""
    np.save(tmp_path / "own.npy", GREYS)
    monkeypatch.setattr(module, "main_memory", lambda: 30 * 16)
    with pytest.raises(DataError, match="takes 0.0 GiB to read"):
        source(tmp_path / "own.npy").download()
    monkeypatch.setattr(module, "IN_MEMORY", GREYS.size)
    with pytest.raises(DataError, match="takes 0.0 GiB to read"):
        source(tmp_path / "own.npy").download()
    monkeypatch.setattr(module, "IN_MEMORY", GREYS.size - 1)
    source(tmp_path / "own.npy").load()


@pytest.mark.parametrize("how", ["cut", "empty", "no array", "objects"])
def test_damaged_files(tmp_path, disk, how):
    file, content = tmp_path / "own.npy", io.BytesIO()
    np.save(content, GREYS)
    whole = content.getvalue()
    file.write_bytes({"cut": whole[:-1], "empty": b"", "no array": b"hello", "objects": b""}[how])
    if how == "objects":
        np.save(file, np.array([None] * 3))
    with pytest.raises(DataError, match=r"own.npy(: x is object| is damaged or no file of numpy.save: )"):
        source(file).load()


@pytest.mark.parametrize(("x", "said"), [(GREYS % 2, "only 0 and 1"), (GREYS / 250, "goes from 0 to 1.02 in the")])
def test_values_on_disk_are_looked_at(tmp_path, disk, x, said):
    np.save(tmp_path / "own.npy", x)
    with pytest.raises(DataError, match=said):
        source(tmp_path / "own.npy").load()


@pytest.mark.parametrize("how", ["replaced", "shorter", "gone"])
def test_a_file_that_changes_is_named(tmp_path, disk, how):
    file = tmp_path / "own.npy"
    np.save(file, GREYS)
    train, _ = source(file).load()
    assert len(train.x[[0, 1]]) == 2
    if how == "shorter":
        with file.open("r+b") as stream:
            stream.truncate(100)
    elif how == "gone":
        file.unlink()
    else:
        np.save(tmp_path / "new.npy", GREYS)
        (tmp_path / "new.npy").rename(file)
    with pytest.raises(DataError, match="own.npy was changed while its images are used"):
        _ = train.x[[0, 1]]


def test_where_the_values_begin(tmp_path):
    np.savez(tmp_path / "own.npz", first=GREYS[:2], x=GREYS)
    found = headers(tmp_path / "own.npz")["x"]
    content = (tmp_path / "own.npz").read_bytes()
    assert content[found.offset :][: found.nbytes] == GREYS.tobytes()


# Training


def weights(folder, root, *words):
    cfg = tiny(folder, *QUIET)
    cfg.data = config("data=npz", f"data.root={root}", "data.batch_size=4", *words).data
    cfg.data.seed = 1
    train(cfg)
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["data.binarization=stochastic", "data.validation_size=5", "data.augment=[flip]"],
        ["data.binarization=fixed", "data.invert=true", "data.train_on=all"],
    ],
)
def test_a_training_on_what_is_on_disk_has_the_same_bits(tmp_path, monkeypatch, words):
    np.save(tmp_path / "own.npy", GREYS)
    expected = weights(tmp_path / "memory", tmp_path / "own.npy", *words)
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    found = weights(tmp_path / "disk", tmp_path / "own.npy", *words)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_batches_on_disk_are_read_in_a_thread_those_in_memory_are_not(tmp_path, monkeypatch):
    np.save(tmp_path / "own.npy", GREYS)
    for limit, beside in ((0, True), (10**6, False)):
        monkeypatch.setattr(module, "IN_MEMORY", limit)
        cfg = tiny(tmp_path, *QUIET)
        cfg.data = config("data=npz", f"data.root={tmp_path / 'own.npy'}", "seed=3").data
        cfg.data.seed = 3
        data = assemble(cfg).data
        data.setup()
        threads = Noted(data.train.images)
        data.train = threads
        assert len(list(data.train_dataloader())) == 1
        assert threads.found and (threading.main_thread() not in threads.found) == beside


class Noted(ImageDataset):
    """Notes in which threads its batches are made."""

    def __init__(self, images):
        super().__init__(images)
        self.found = set()

    def __getitems__(self, indices):
        self.found.add(threading.current_thread())
        return super().__getitems__(indices)


def test_images_drawn_once_must_fit(tmp_path, disk, monkeypatch):
    np.save(tmp_path / "own.npy", GREYS)
    monkeypatch.setattr("cvae.data.images.main_memory", lambda: 100)
    with pytest.raises(ConfigError, match="data.binarization=fixed or stochastic: must be static or none: images"):
        weights(tmp_path / "run", tmp_path / "own.npy", "data.binarization=fixed")
