"""Published images with known factors: tiny files of the same form as those of their makers, by value."""

import gzip
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cvae.data import norb, published
from cvae.data.norb import SmallNORB
from cvae.data.published import MPI3D, Cars3D, DSprites, Shapes3D, picked
from cvae.data.subset import Subset
from cvae.errors import ConfigError, DataError, UserError

RNG = np.random.default_rng(0)


def levels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def by_factors(*sets):
    """{factors: image} of all images."""
    parts = [(tuple(f), x) for part in sets for f, x in zip(part.factors.tolist(), part.x, strict=True)]
    assert len(dict(parts)) == len(parts)
    return dict(parts)


def check_drawn(source, count, train=4, test=3):
    """The sets have their sizes, no image twice, and test images that do not depend on train_size."""
    one, two = source(train, test, 0).load()
    assert (len(one.x), len(two.x)) == (train, test) and one.x.dtype == torch.uint8
    rest, same = source(None, test, 0).load()
    assert len(rest.x) == count - test and torch.equal(two.x, same.x) and torch.equal(two.factors, same.factors)
    assert torch.equal(rest.x[:train], one.x) and len(by_factors(rest, same)) == count
    assert not torch.equal(source(train, test, 1).load()[1].factors, two.factors)
    return rest, same


# dSprites


def dsprites(folder, name=DSprites.file, save=np.savez_compressed, **replaced):
    folder.mkdir(exist_ok=True)
    classes = np.stack([np.zeros(24, int), *np.unravel_index(np.arange(24), (3, 2, 2, 2, 1))], 1)
    arrays = {"imgs": RNG.integers(0, 2, (24, 64, 64)).astype(np.uint8), "latents_classes": classes} | replaced
    save(folder / name, **arrays)
    return arrays


@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
@pytest.mark.parametrize("below", ["", "dsprites"])
def test_dsprites(tmp_path, save, below):
    arrays = dsprites(tmp_path / below, save=save)
    train, test = check_drawn(lambda *sizes: DSprites(tmp_path, *sizes), 24)
    assert train.factor_names == ("shape", "scale", "orientation", "x", "y")
    assert DSprites(tmp_path, 1, 1, 0).classes() == 3
    found = by_factors(train, test)
    for image, known in zip(arrays["imgs"], arrays["latents_classes"], strict=True):
        assert np.array_equal(found[tuple(known[1:].tolist())][0], 255 * image)
    assert torch.equal(test.y, test.factors[:, 0])


def test_another_file_in_the_place_of_dsprites(tmp_path):
    for replaced, said in (
        ({"imgs": levels(24, 32, 32)}, r"another file: imgs is \(24, 32, 32\), not \(24, 64, 64\)"),
        ({"imgs": np.zeros((24, 64, 64))}, "it has no array imgs of uint8 levels"),
        ({"imgs": levels(23, 64, 64)}, "another file: imgs is"),
        ({"latents_classes": np.zeros((24, 5), int)}, r"latents_classes is \(24, 5\), not \(N, 6\)"),
    ):
        dsprites(tmp_path, **replaced)
        with pytest.raises(DataError, match=said):
            DSprites(tmp_path, None, 3, 0).load()
    file = tmp_path / DSprites.file
    dsprites(tmp_path)
    content = bytearray(file.read_bytes())
    for place in range(2000, 2100):  # within the packed images
        content[place] ^= 255
    for damaged in (bytes(content), content[:-2000]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{file.name}.* (is damaged|cannot be read)"):
            DSprites(tmp_path, None, 3, 0).load()


@pytest.mark.parametrize(
    ("source", "name", "address"),
    [
        (lambda root: DSprites(root, 1, 1, 0), DSprites.file, "https://github.com/google-deepmind/dsprites-dataset"),
        (lambda root: MPI3D(root, "toy", 1, 1, 0), "mpi3d_toy.npz", "rr-learning/disentanglement_dataset"),
        (lambda root: Shapes3D(root, 1, 1, 0), "3dshapes.h5", "google-deepmind/3d-shapes"),
        (lambda root: Cars3D(root, 1, 1, 0), "cars", "nips2015-analogy-data.tar.gz"),
        (lambda root: SmallNORB(root, None, None), "training-dat.mat", "cs.nyu.edu"),
    ],
)
def test_a_missing_file_is_named_with_its_address(tmp_path, source, name, address):
    with pytest.raises(DataError) as error:
        source(tmp_path).download()
    said = str(error.value)
    assert str(tmp_path) in said and name in said and address in said and "CVAE_DATA" in said
    assert list(tmp_path.iterdir()) == []


# MPI3D


def test_mpi3d(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(MPI3D, "sizes", (2, 3, 1, 1, 1, 2, 2))
    monkeypatch.setattr(published, "BLOCK", 5)
    images = levels(24, 64, 64, 3)
    np.savez_compressed(tmp_path / "mpi3d_realistic.npz", images=images)
    with caplog.at_level(logging.INFO):
        train, test = check_drawn(lambda *sizes: MPI3D(tmp_path, "realistic", *sizes), 24)
    assert "Reading 7 images of MPI3D" in caplog.text and train.factor_names[1] == "object_shape"
    for known, x in by_factors(train, test).items():
        number = np.ravel_multi_index(known, MPI3D.sizes)  # the last factor changes fastest
        assert np.array_equal(x, images[number].transpose(2, 0, 1))
    assert torch.equal(train.y, train.factors[:, 1])
    with pytest.raises(ConfigError) as error:
        MPI3D(tmp_path, "other", 1, 1, 0)
    assert error.value.key == "source.variant"


def test_the_factors_of_mpi3d():
    """As their makers give them: 1,036,800 images."""
    assert np.prod(MPI3D.sizes) == 1_036_800 and len(MPI3D.names) == 7 and MPI3D.sizes == (6, 6, 2, 3, 3, 40, 40)


# 3D Shapes


def test_shapes3d(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs h5py: pip install -e '.[hdf5]'")
    images, values = levels(24, 64, 64, 3), np.stack(np.unravel_index(np.arange(24), (2, 1, 2, 3, 2, 1)), 1)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = images, values / 10 - 0.5
    train, test = check_drawn(lambda *sizes: Shapes3D(tmp_path, *sizes), 24)
    for number, x in ((values.tolist().index(list(known)), x) for known, x in by_factors(train, test).items()):
        assert np.array_equal(x, images[number].transpose(2, 0, 1))
    assert torch.equal(train.y, train.factors[:, 4]) and train.factor_names[4] == "shape"
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = images[:5], values
    with pytest.raises(DataError, match="another file: images are uint8"):
        Shapes3D(tmp_path, 1, 1, 0).load()
    (tmp_path / "3dshapes.h5").write_bytes(b"text")
    with pytest.raises(DataError, match="damaged or another file"):
        Shapes3D(tmp_path, 1, 1, 0).load()


def test_factors_of_shapes3d_are_numbers_of_their_values(tmp_path, monkeypatch):
    """Without h5py: a file is a dictionary of arrays."""
    grid = np.stack(np.unravel_index(np.arange(24), (2, 2, 2, 1, 3, 1)), 1)
    content = {"images": levels(24, 64, 64, 3), "labels": np.array([0.5, 7, -1.5, 3, 10, 1]) * grid}
    monkeypatch.setattr(published, "library", lambda *_: SimpleNamespace(File=lambda file, mode: content))
    monkeypatch.setattr(published, "BLOCK", 7)
    (tmp_path / "3dshapes.h5").touch()
    factors, blocks = Shapes3D(tmp_path, 1, 1, 0).read()
    grid[:, 2] = 1 - grid[:, 2]  # the value -1.5 comes before 0
    assert factors.tolist() == grid.tolist()
    assert np.array_equal(np.concatenate(list(blocks)), content["images"].transpose(0, 3, 1, 2))
    assert Shapes3D(tmp_path, 1, 1, 0).classes() == 4 and MPI3D(tmp_path, "toy", 1, 1, 0).classes() == 6


def test_a_missing_library_is_named():
    with pytest.raises(UserError, match=r"needs nothing_of_that: pip install -e '.\[hdf5\]'"):
        published.library("nothing_of_that.io", "hdf5")


# Cars3D


def test_cars3d(tmp_path):
    scipy = pytest.importorskip("scipy.io", reason="needs SciPy: pip install -e '.[measures]'")
    (tmp_path / "cars").mkdir()
    cars = [levels(128, 128, 3, 24, 4) for _ in range(2)]
    for number, im in enumerate(cars):
        scipy.savemat(tmp_path / "cars" / f"car_{number}.mat", {"im": im})
    train, test = check_drawn(lambda *sizes: Cars3D(tmp_path, *sizes), 192)
    assert train.factor_names == ("elevation", "azimuth", "object") and Cars3D(tmp_path, 1, 1, 0).classes() == 2
    for (elevation, azimuth, car), x in list(by_factors(train, test).items())[::17]:
        image = cars[car][:, :, :, azimuth, elevation].astype(float)
        small = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
        assert np.array_equal(x, small.round().transpose(2, 0, 1))
    assert torch.equal(train.y, train.factors[:, 2])
    scipy.savemat(tmp_path / "cars" / "car_1.mat", {"im": cars[0][:64]})
    with pytest.raises(DataError, match="car_1.mat is damaged or no file of Cars3D: im is uint8"):
        Cars3D(tmp_path, None, 1, 0).load()


# small NORB


def write_matrix(file, array, packed=False):
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[str(array.dtype)]
    sizes = [*array.shape, *[1] * (3 - array.ndim)]
    content = np.array([magic, array.ndim, *sizes], "<i4").tobytes() + array.tobytes()
    (file.with_name(f"{file.name}.gz") if packed else file).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
def test_smallnorb(tmp_path, packed):
    made = []
    for name, count in zip(norb.SETS, (6, 5), strict=True):
        x, category = levels(count, 2, 96, 96), (np.arange(count) % 5).astype("<i4")
        about = np.stack([step * RNG.integers(0, n, count) for n, step in ((10, 1), (9, 1), (18, 2), (6, 1))], 1)
        about = about.astype("<i4")
        for part, array in (("dat", x), ("cat", category), ("info", about)):
            write_matrix(tmp_path / f"{name}-{part}.mat", array, packed)
        made.append((x, category, about))
    source = SmallNORB(tmp_path, None, 3)
    source.download()
    for images, (x, category, about), count in zip(source.load(), made, (6, 3), strict=True):
        assert np.array_equal(images.x, x[:count, :1]) and images.y.tolist() == category[:count].tolist()
        expected = np.concatenate([category[:, None], about // [1, 1, 2, 1]], 1)[:count]
        assert np.array_equal(images.factors, expected) and images.classes[1] == "human" and source.classes() == 5
        assert images.factor_names == ("category", "instance", "elevation", "azimuth", "lighting")
    end = ".gz" if packed else ""
    (tmp_path / f"{norb.SETS[0]}-cat.mat{end}").write_bytes(b"\0" * 40)
    with pytest.raises(DataError, match="training-cat.mat.* is damaged or no matrix of NORB"):
        source.load()
    write_matrix(tmp_path / f"{norb.SETS[0]}-cat.mat", np.zeros(4, "<i4"), packed)
    with pytest.raises(DataError, match="do not belong together"):
        source.load()
    with pytest.raises(ConfigError) as error:
        SmallNORB(tmp_path, 0, None)
    assert error.value.key == "source.train_size"


# What they share


def test_images_are_picked_in_the_order_asked_for():
    x = levels(20, 1, 2, 2)
    rows = np.array([13, 2, 19, 0, 7])
    blocks = (x[start : start + 3] for start in range(0, 20, 3))
    assert np.array_equal(picked(blocks, rows), x[rows])
    read = []
    assert np.array_equal(picked((read.append(n) or x[n : n + 5] for n in range(0, 20, 5)), rows[1:2]), x[[2]])
    assert read == [0]  # nothing behind the last one
    with pytest.raises(DataError, match="of its images 15 are there, and number 19 is missing"):
        picked(iter([x[:10], x[10:15]]), rows)


def test_images_that_do_not_fit_into_memory(monkeypatch):
    monkeypatch.setattr(published, "main_memory", lambda: 11)
    x = levels(20, 1, 2, 2)
    assert len(picked(iter([x]), np.array([3, 4]))) == 2
    with pytest.raises(ConfigError) as error:
        picked(iter([x]), np.array([3, 4, 5]))
    assert error.value.key == "data.source.train_size"


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ((8, 3, 0), "data.source.train_size"),
        ((1, 10, 0), "data.source.test_size"),
        ((None, 11, 0), "data.source.test_size"),
    ],
)
def test_more_than_there_are(sizes, key):
    with pytest.raises(ConfigError) as error:
        Subset(*sizes).drawn(10)
    assert error.value.key == key
    assert [len(part) for part in Subset(7, 3, 0).drawn(10)] == [7, 3]


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ((0, 3, 0), "source.train_size"), ((True, 3, 0), "source.train_size"), ((1, 0, 0), "source.test_size"),
        ((1, None, 0), "source.test_size"), ((1, 1, -1), "source.seed"),
    ],
)  # fmt: skip
def test_wrong_sizes_are_named(sizes, key):
    with pytest.raises(ConfigError) as error:
        Subset(*sizes)
    assert error.value.key == key
