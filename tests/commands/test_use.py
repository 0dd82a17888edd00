"""What sample and reconstruct make of a model and images: images, labels, noise, files; and errors in words of all."""

import io

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image
from test_commands import make_run, other_weights
from tiny import TINY

import cvae
from cvae import pictures
from cvae.build import load_data
from cvae.commands import encode, interpolate, reconstruct, traverse
from cvae.commands import sample as sample_module
from cvae.commands.inputs import BATCH
from cvae.distributions import from_noise
from cvae.runs.directory import Run
from cvae.runtime.noise import fixed_noise

CPU = torch.device("cpu")


@pytest.fixture
def tiny_run(tmp_path):
    """Of 8x8 images and two latents; the weights are large, so that images differ."""

    def make(*overrides, name="run"):
        torch.manual_seed(1)
        run = make_run(tmp_path / name, *overrides, base=TINY)
        other_weights(run)
        return run

    return make


def drawing(folder, name, size=(8, 8), mode="L", seed=0):
    """An image file of random pixels."""
    shape = (*size[::-1], len(mode)) if len(mode) > 1 else size[::-1]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)).save(folder / name)
    return folder / name


def seen(*files):
    """Files of the right size as a run with static binarization sees them."""
    levels = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])
    return torch.from_numpy((levels > 127).astype(np.float32))[:, None]


def arrays(file):
    with np.load(file) as content:
        return {name: content[name] for name in content}


# sample


def test_samples_as_arrays_are_read_as_data(tiny_run, call, tmp_path):
    run = tiny_run("conditional=true")
    assert call("sample", run, "--num", 12, "--out", tmp_path / "s.npz", "--seed", 3)[0] == 0
    found = arrays(tmp_path / "s.npz")
    y = torch.arange(20) // 2
    vae = cvae.load(run)
    with fixed_noise(3, CPU):
        expected = vae.sample(20, y)
    assert found["x"].shape == (20, 8, 8, 1) and found["x"].dtype == np.float32
    assert np.allclose(found["x"].transpose(0, 3, 1, 2), expected.numpy(), atol=1e-6)
    assert found["y"].tolist() == y.tolist()
    plain = tiny_run(name="plain")
    call("sample", plain, "--num", 2, "--out", tmp_path / "plain.npz")
    assert set(arrays(tmp_path / "plain.npz")) == {"x"}


def test_samples_one_by_one(tiny_run, call, tmp_path):
    run = tiny_run()
    code, printed = call("sample", run, "--num", 11, "--out", tmp_path / "samples")
    assert code == 0 and f"11 samples: {tmp_path / 'samples'}" in printed
    vae = cvae.load(run)
    with fixed_noise(0, CPU):
        expected = vae.sample(11)
    files = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in files] == [f"{number:02d}.png" for number in range(11)]
    for file, image in zip(files, expected, strict=True):
        assert np.array_equal(imageio.imread(file), pictures.grid(image[None], 1, padding=0, zoom=1))


def test_numbers_of_ten_samples_have_one_digit(tiny_run, call, tmp_path):
    call("sample", tiny_run(), "--num", 10, "--out", tmp_path / "samples")
    assert sorted(file.name for file in (tmp_path / "samples").iterdir()) == [f"{number}.png" for number in range(10)]


def test_a_grid_is_as_square_as_can_be_or_has_a_row_for_each_class(tiny_run, call):
    run, classes = tiny_run(), tiny_run("conditional=true", name="classes")
    vae, conditional = cvae.load(run), cvae.load(classes)
    for num, columns in ((8, 3), (6, 2), (64, 8)):
        call("sample", run, *([] if num == 64 else ["--num", num]))
        with fixed_noise(0, CPU):
            expected = vae.sample(num)
        assert np.array_equal(imageio.imread(run / "samples.png"), pictures.grid(expected, columns))
    call("sample", classes, "--num", 21)
    with fixed_noise(0, CPU):
        expected = conditional.sample(30, torch.arange(30) // 3)
    assert np.array_equal(imageio.imread(classes / "samples.png"), pictures.grid(expected, 3))


def test_a_temperature_is_the_models(tiny_run, call, tmp_path):
    run = tiny_run()
    call("sample", run, "--num", 4, "--temperature", 0.5, "--out", tmp_path / "s.npz", "--seed", 3)
    vae = cvae.load(run)
    with fixed_noise(3, CPU), torch.no_grad():
        noise, choice = torch.randn(4, 2), torch.rand(4)
        expected = vae.decode(from_noise(vae.p_z(), noise / 2, choice)).mean
    assert np.allclose(arrays(tmp_path / "s.npz")["x"][..., 0], expected[:, 0].numpy(), atol=1e-6)


def test_many_samples_come_in_batches(tiny_run, call, tmp_path, monkeypatch):
    run = tiny_run("conditional=true")
    monkeypatch.setattr(sample_module, "BATCH", 4)
    call("sample", run, "--num", 10, "--class", 3, "--out", tmp_path / "s.npz")
    vae = cvae.load(run)
    with fixed_noise(0, CPU):
        expected = torch.cat([vae.sample(count, torch.full((count,), 3)) for count in (4, 4, 2)])
    assert np.allclose(arrays(tmp_path / "s.npz")["x"][..., 0], expected[:, 0].numpy(), atol=1e-6)
    assert BATCH == 500


def test_arrays_of_images_are_in_range(tiny_run, call, tmp_path):
    """The mean of a Gaussian need not be."""
    run = tiny_run("data.binarization=none", "likelihood=gaussian")
    call("sample", run, "--num", 50, "--out", tmp_path / "s.npz")
    vae = cvae.load(run)
    with fixed_noise(0, CPU):
        expected = vae.sample(50)
    assert expected.min() < 0 and expected.max() > 1
    found = arrays(tmp_path / "s.npz")["x"]
    assert np.allclose(found[..., 0], expected[:, 0].clamp(0, 1).numpy(), atol=1e-6)


# reconstruct


def test_reconstructions_of_ones_own_images(tiny_run, call, tmp_path):
    run = tiny_run()
    files = [drawing(tmp_path / "in", f"{number}.png", seed=number) for number in range(10)]
    for checkpoint in ("last", "best"):
        code, printed = call("reconstruct", run, *files, "--seed", 5, "--checkpoint", checkpoint)
        assert code == 0 and f"10 reconstructions: {run / 'reconstructed.png'}" in printed
        vae = cvae.load(run, checkpoint)
        with fixed_noise(5, CPU):
            expected = vae.reconstruct(seen(*files))
        left, right = pictures.grid(seen(*files), 8), pictures.grid(expected, 8)
        assert np.array_equal(imageio.imread(run / "reconstructed.png"), pictures.side_by_side(left, right))


def test_reconstructions_as_arrays_and_as_files(tiny_run, call, tmp_path):
    run = tiny_run("conditional=true")
    files = [drawing(tmp_path / "in", name, seed=number) for number, name in enumerate(("a.png", "b.bmp"))]
    call("reconstruct", run, *files, "--class", 3, "--out", tmp_path / "r.npz")
    vae = cvae.load(run)
    with fixed_noise(0, CPU):
        expected = vae.reconstruct(seen(*files), torch.tensor([3, 3]))
    found = arrays(tmp_path / "r.npz")
    assert np.allclose(found["x"][..., 0], expected[:, 0].numpy(), atol=1e-6)
    assert np.array_equal(found["originals"][..., 0], seen(*files)[:, 0].numpy())
    assert found["names"].tolist() == [str(file) for file in files]
    call("reconstruct", run, *files, "--class", 3, "--out", tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a.png", "b.png"]
    shown = pictures.grid(expected[1:], 1, padding=0, zoom=1)
    assert np.array_equal(imageio.imread(tmp_path / "folder" / "b.png"), shown)


def test_each_of_many_images_is_reconstructed_with_its_own_class(tiny_run, call, tmp_path, monkeypatch):
    """The name of its folder; batch by batch."""
    run = tiny_run("conditional=true")
    monkeypatch.setattr(reconstruct, "BATCH", 2)
    files = [drawing(tmp_path / "in" / str(number), "a.png", seed=number) for number in range(5)]
    assert call("reconstruct", run, tmp_path / "in", "--seed", 3, "--out", tmp_path / "r.npz")[0] == 0
    x, y, vae = seen(*files), torch.arange(5), cvae.load(run)
    with fixed_noise(3, CPU):
        expected = torch.cat([vae.reconstruct(x[part], y[part]) for part in torch.arange(5).split(2)])
    assert np.allclose(arrays(tmp_path / "r.npz")["x"][..., 0], expected[:, 0].numpy(), atol=1e-6)


def test_files_of_one_name_are_numbered():
    assert reconstruct.numbered(["x/a.png", "y/b.jpg"]) == ["a", "b"]
    assert reconstruct.numbered(["x/a.png", "y/a.jpg", "c.png"]) == ["0_a", "1_a", "2_c"]


def test_own_images_of_another_size_and_colour_are_made_to_fit(tiny_run, call, tmp_path):
    """By the run's own preprocessing: of grey levels, of colours, inverted."""
    file = drawing(tmp_path / "in", "large.png", (24, 16), "RGB")
    run = tiny_run("data.binarization=none", "likelihood=gaussian", "data.invert=true")
    call("reconstruct", run, file, "--out", tmp_path / "r.npz")
    middle = Image.open(file).convert("L").crop((4, 0, 20, 16)).resize((8, 8), Image.Resampling.BILINEAR)
    found = arrays(tmp_path / "r.npz")["originals"]
    inside = slice(1, -1)  # at its sides, the middle part reads a little of what is beside it
    assert np.allclose(found[0, :, inside, 0], 1 - np.asarray(middle)[:, inside] / 255, atol=1e-6)
    colour = tiny_run("data.image_shape=[3,8,8]", "data.binarization=none", "likelihood=gaussian", name="colour")
    call("reconstruct", colour, file, "--out", tmp_path / "c.npz")
    assert arrays(tmp_path / "c.npz")["originals"].shape == (1, 8, 8, 3)


def test_images_of_a_split_keep_their_names(call, tmp_path, monkeypatch):
    for number in range(6):
        drawing(tmp_path / "own" / "ab"[number % 2], f"{number}.png", seed=number)
    data = ["data=image_folder", f"data.root={tmp_path / 'own'}", "data.image_shape=[1,8,8]"]
    values = [word for word in TINY if not word.startswith(("data=", "data.source", "data.image_shape"))]
    torch.manual_seed(1)
    run = make_run(tmp_path / "run", *data, "data.test_size=3", base=values)
    other_weights(run)
    for split in ("train", "test"):
        assert call("encode", run, "--split", split, "--out", tmp_path / "l.npz")[0] == 0
        found, images = arrays(tmp_path / "l.npz"), getattr(load_data(Run(run)), split).images
        assert found["names"].tolist() == images.names.tolist() and len(images.names) == 3
        assert found["classes"].tolist() == [name[0] for name in images.names]
    given = []
    monkeypatch.setattr(pictures, "traversal", lambda *values: given.append(values) or np.zeros((2, 2, 3), np.uint8))
    call("traverse", run, 2)
    assert given[0][-1] == f"test image 2, {images.names[2]}"


def test_what_is_wrong_is_said(tiny_run, call, tmp_path):
    plain, classes = tiny_run(name="plain"), tiny_run("conditional=true", name="classes")
    good, text = drawing(tmp_path / "in", "a.png"), tmp_path / "in" / "text.png"
    text.write_text("no image")
    gone, out = tmp_path / "gone.png", tmp_path / "out"
    cases = [
        (("reconstruct", plain, good, gone), f"there is no such file: {gone}"),
        (
            ("reconstruct", plain, good, text),
            f"Repair or delete them: {text}: not an image",
        ),
        (("interpolate", plain, tmp_path / "in", "0"), "in is a folder: name an image in it"),
        (("reconstruct", plain, tmp_path / "in"), f"Repair or delete them: {text}: not an image"),
        (("reconstruct", plain, good, "--class", 1), "--class=1: must be left out: this model knows no classes"),
        (("reconstruct", classes, good), "--class=None: must be from 0 to 9: this model is given the class"),
        (("reconstruct", classes, good, "--class", 10), "--class=10: must be from 0 to 9"),
        (
            ("reconstruct", plain, good, "--out", f"{out}.gif"),
            "must be the name of a file that ends in .png or .npz, or",
        ),
        (("reconstruct", plain, good, "--seed", -1), "--seed=-1: must be an integer from 0"),
        (("encode", plain), "--split=None: must be given instead of files, or left out with files"),
        (("encode", plain, good, "--split", "test"), "--split=test: must be given instead of files"),
        (("encode", plain, good, "--out", out), "must be the name of a file that ends in .npz or .csv"),
        (("encode", classes, good), "--class=None: must be from 0 to 9"),
        (("encode", plain, "--split", "validation"), "--split=validation: must be train or test: this run has kept no"),
        (("interpolate", plain, 0, 7), "7 is neither a file nor a test image, of which there are 7: 0 …"),
        (("interpolate", plain, 0, gone), f"there is no such file: {gone}"),
        (("interpolate", plain, 0, -1), "there is no such file: -1"),
        (("interpolate", plain, 0, 1, "--steps", 1), "--steps=1: must be at least 2, the two ends"),
        (("interpolate", plain, 0, 1, "--steps", 0), "--steps=0: must be a positive integer"),
        (("interpolate", classes, good, 1), "--class=None: must be from 0 to 9"),
        (("interpolate", plain, 0, 1, "--out", f"{out}.npz"), "must be the name of a file that ends in .png"),
        (("traverse", plain, "--dims", 0), "--dims=0: must be a positive integer"),
        (("traverse", plain, "--steps", 1), "--steps=1: must be at least 2, the two ends"),
        (("traverse", plain, gone), f"there is no such file: {gone}"),
        (("traverse", classes, good), "--class=None: must be from 0 to 9"),
        (("traverse", tmp_path), "is not a run directory"),
    ]
    for arguments, message in cases:
        code, printed = call(*arguments)
        assert code in (1, 2) and message in " ".join(printed.split()), (arguments, printed)
        assert "Traceback" not in printed
    assert not out.exists() and not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("module", [sample_module, reconstruct, encode, interpolate, traverse])
def test_help_has_an_example(module, capsys):
    from cvae.__main__ import parser

    name = module.__name__.rpartition(".")[2]
    with pytest.raises(SystemExit):
        parser().parse_args([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"example: python -m cvae {name} outputs/tf_tutorial/2026-01-31_12-00-00" in shown


def test_a_bar_is_drawn_on_a_terminal_alone(tiny_run, call, tmp_path, monkeypatch):
    from rich.console import Console

    run = tiny_run()
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        monkeypatch.setattr("cvae.commands.inputs.console", console)
        monkeypatch.setattr(encode, "BATCH", 4)
        call("encode", run, "--split", "test")
        assert ("encoding" in console.file.getvalue()) == terminal
