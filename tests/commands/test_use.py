"""What the commands make of a model and images: which images, labels, noise, checkpoint, and where the results go."""

import csv
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
from cvae.evaluation.latents import latents
from cvae.evaluation.latents import traverse as moved
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


# encode


def rows(file):
    with open(file, newline="") as content:
        return list(csv.reader(content))


@pytest.mark.parametrize("words", [[], ["conditional=true"]])
def test_latents_of_a_split(tiny_run, call, tmp_path, words, monkeypatch):
    run = tiny_run("data.validation_size=3", *words)
    monkeypatch.setattr(encode, "BATCH", 4)
    vae, data = cvae.load(run), load_data(Run(run))
    for split, count in (("test", 7), ("validation", 3), ("train", 7)):
        code, printed = call("encode", run, "--split", split, "--out", tmp_path / "l.npz")
        assert code == 0 and f"{count} images, 2 latents: {tmp_path / 'l.npz'}" in printed
        x, y = data.batch(split, range(count))
        found = arrays(tmp_path / "l.npz")
        assert np.allclose(found["latents"], vae.encode(x, vae.labels(y)).mean.detach().numpy(), atol=1e-6)
        assert found["labels"].tolist() == y.tolist()
        assert found["names"].tolist() == [f"{split}_{number}" for number in range(count)]
    assert call("encode", run, "--split", "test")[0] == 0
    assert np.array_equal(arrays(run / "latents.npz")["latents"].shape, (7, 2))


def test_latents_of_files_as_a_table(tiny_run, call, tmp_path):
    run = tiny_run("conditional=true")
    files = [drawing(tmp_path / "in", f"a,{number}.png", seed=number) for number in range(2)]
    call("encode", run, *files, "--class", 4, "--out", tmp_path / "l.csv", "--checkpoint", "best")
    z = cvae.load(run, "best").encode(seen(*files), torch.tensor([4, 4])).mean.detach().numpy()
    head, *table = rows(tmp_path / "l.csv")
    assert head == ["name", "label", "z0", "z1"] and [row[:2] for row in table] == [[str(file), "4"] for file in files]
    assert np.array_equal(np.array([row[2:] for row in table], np.float32), z)
    plain = tiny_run(name="plain")
    call("encode", plain, files[0], "--out", tmp_path / "l.csv")
    assert [row[:1] for row in rows(tmp_path / "l.csv")] == [["name"], [str(files[0])]]
    assert len(rows(tmp_path / "l.csv")[0]) == 3
    call("encode", plain, files[0], "--out", tmp_path / "l.npz")
    assert set(arrays(tmp_path / "l.npz")) == {"latents", "names"}


@pytest.mark.parametrize("posterior", ["categorical", "fsq", "vq"])
def test_codes_stand_beside_their_vectors(tiny_run, call, tmp_path, monkeypatch, posterior):
    run = tiny_run(f"posterior={posterior}", "prior=uniform", "model.latent_dim=3", "conditional=true")
    monkeypatch.setattr(encode, "BATCH", 4)
    code, printed = call("encode", run, "--split", "test", "--out", tmp_path / "l.npz")
    assert code == 0 and "7 images, 3 codes each: " in printed
    found, vae = arrays(tmp_path / "l.npz"), cvae.load(run)
    x, y = load_data(Run(run)).batch("test", range(7))
    q = vae.encode(x, y)
    wanted = q.logits.argmax(1) if posterior == "categorical" else vae.posterior.read(q.mean)
    assert set(found) == {"latents", "labels", "names", "codes"} and found["codes"].dtype == np.int64
    assert found["codes"].tolist() == wanted.tolist() and len(set(map(tuple, wanted.tolist()))) > 1
    assert np.allclose(found["latents"], q.mean.detach().numpy(), atol=1e-6)
    call("encode", run, "--split", "test", "--out", tmp_path / "l.csv")
    head, *table = rows(tmp_path / "l.csv")
    assert head[:6] == ["name", "label", "code0", "code1", "code2", "z0"] and len(head) == 5 + found["latents"].shape[1]
    assert [[int(value) for value in row[1:5]] for row in table] == np.c_[found["labels"], found["codes"]].tolist()
    assert np.array_equal(np.array([row[5:] for row in table], np.float32), found["latents"])


def test_training_images_that_are_drawn_anew_are_drawn_by_the_seed(tiny_run, call, tmp_path):
    run = tiny_run("data.binarization=stochastic")
    found = {}
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        call("encode", run, "--split", "train", "--seed", seed, "--out", tmp_path / f"{name}.npz")
        found[name] = arrays(tmp_path / f"{name}.npz")["latents"]
    with fixed_noise(3, CPU):
        x, _ = load_data(Run(run)).batch("train", range(10))
    assert np.allclose(found["one"], cvae.load(run).encode(x).mean.detach().numpy(), atol=1e-6)
    assert np.array_equal(found["one"], found["two"]) and not np.allclose(found["one"], found["other"])


# interpolate, traverse


def played(file):
    with Image.open(file) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append((image.info["duration"], np.asarray(image.convert("L"))))
        return found


def test_a_way_between_test_images(tiny_run, call):
    run = tiny_run()
    code, printed = call("interpolate", run, "2", "5", "--steps", 4)
    assert code == 0 and f"4 steps: {run / 'interpolation.png'} and {run / 'interpolation.gif'}" in printed
    vae = cvae.load(run)
    a, b = (load_data(Run(run)).batch("test", [number])[0] for number in (2, 5))
    way = vae.interpolate(a, b, steps=4)
    assert np.array_equal(imageio.imread(run / "interpolation.png"), pictures.strips(a, way, b))
    frames = played(run / "interpolation.gif")
    assert [time for time, _ in frames] == [800, 100, 100, 800, 100, 100]  # there and back
    for (_, frame), number in zip(frames, (0, 1, 2, 3, 2, 1), strict=True):
        expected = pictures.grid(way[number], 1, padding=0, zoom=28)[..., 0]
        assert frame.shape == (224, 224) and abs(frame.astype(int) - expected).max() <= 3


@pytest.mark.parametrize(("shape", "size"), [([1, 8, 16], (112, 224)), ([1, 2, 225], (2, 225))])
def test_frames_are_enlarged_to_about_224_pixels_and_large_ones_stay(tiny_run, call, shape, size):
    run = tiny_run(f"data.image_shape={shape}".replace(" ", ""))
    call("interpolate", run, "0", "1", "--steps", 2)
    assert [(time, frame.shape) for time, frame in played(run / "interpolation.gif")] == [(800, size), (800, size)]


def test_a_way_between_files_and_test_images_of_a_class(tiny_run, call, tmp_path):
    """A file named like a number is the file. The class is that of A, or as it is said."""
    run = tiny_run("conditional=true")
    file, out = drawing(tmp_path / "in", "a.png"), tmp_path / "way.png"
    vae, data = cvae.load(run), load_data(Run(run))
    x, y = data.batch("test", [1, 2])
    call("interpolate", run, "1", "2", "--out", out)
    expected = vae.interpolate(x[:1], x[1:], y[:1], 10)
    assert y[0] != y[1] and np.array_equal(imageio.imread(out), pictures.strips(x[:1], expected, x[1:]))
    call("interpolate", run, file, "2", "--class", 7, "--out", out)
    expected = vae.interpolate(seen(file), x[1:], torch.tensor([7]), 10)
    assert np.array_equal(imageio.imread(out), pictures.strips(seen(file), expected, x[1:]))
    assert out.with_suffix(".gif").exists()


def test_a_file_comes_before_a_number(tiny_run, call, tmp_path, monkeypatch):
    run = tiny_run()
    monkeypatch.chdir(tmp_path)
    drawing(tmp_path, "a.png").rename(tmp_path / "3")
    call("interpolate", run, "3", "3", "--out", "way.png")
    x = seen(tmp_path / "3")
    expected = pictures.strips(x, cvae.load(run).interpolate(x, x), x)
    assert np.array_equal(imageio.imread(tmp_path / "way.png"), expected)


@pytest.mark.parametrize("words", [[], ["conditional=true"]])
def test_traversals_around_a_test_image(tiny_run, call, tmp_path, monkeypatch, words):
    run = tiny_run("model.latent_dim=3", *words)
    given = []
    monkeypatch.setattr(pictures, "traversal", lambda *values: given.append(values) or np.zeros((2, 2, 3), np.uint8))
    vae, data = cvae.load(run), load_data(Run(run))
    x, y = data.batch("test", range(7))
    with fixed_noise(4, CPU):
        found = latents(vae, [(x, vae.labels(y))])
    for number, options in ((0, []), (4, ["4", "--dims", "2", "--steps", "3"])):
        code, printed = call("traverse", run, *options, "--seed", 4)
        dims, steps = (2, 3) if options else (10, 7)
        expected = moved(vae, found, x[number : number + 1], y[number : number + 1] if words else None, dims, steps)
        *values, title = given.pop()
        assert code == 0 and title == f"test image {number}" and f"{min(dims, 3)} dimensions: {run}" in printed
        assert torch.allclose(values[0], expected.images, atol=1e-6) and values[1] == expected.dims
        for value, wanted in zip(values[2:], expected[2:], strict=True):
            assert value == pytest.approx(wanted, abs=1e-4)
    assert (run / "traversal.png").exists()


def test_traversals_around_a_file(tiny_run, call, tmp_path, monkeypatch):
    run, file = tiny_run("conditional=true"), drawing(tmp_path / "in", "a.png")
    given = []
    monkeypatch.setattr(pictures, "traversal", lambda *values: given.append(values) or np.zeros((2, 2, 3), np.uint8))
    call("traverse", run, file, "--class", 5, "--out", tmp_path / "t.png")
    ((images, dims, *_, title),) = given
    assert title == str(file) and (tmp_path / "t.png").exists()
    vae = cvae.load(run)
    own = vae.encode(seen(file), torch.tensor([5])).mean
    z = own.detach().clone()
    data = load_data(Run(run))
    x, y = data.batch("test", range(7))
    with fixed_noise(0, CPU):
        found = latents(vae, [(x, y)])
    z[0, dims[0]] = found.mean[dims[0]] - 3 * found.std[dims[0]]
    torch.testing.assert_close(images[0, 0], vae.decode(z, torch.tensor([5])).mean[0].detach())


def test_a_folder_is_encoded(tiny_run, call, tmp_path):
    """Names are paths from there, classes the folders; as a list of its files would be."""
    run, folder = tiny_run(), tmp_path / "own"
    files = [drawing(folder / kind, name, seed=n) for n, (kind, name) in enumerate([("b", "x y.png"), ("a", "z.png")])]
    assert call("encode", run, folder, "--out", tmp_path / "l.csv")[0] == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "l.csv").read_text())))
    assert [(row["name"], row["class"]) for row in rows] == [("a/z.png", "a"), ("b/x y.png", "b")]
    z = cvae.load(run).encode(seen(*files[::-1])).mean.detach().numpy()
    assert np.allclose([[float(row["z0"]), float(row["z1"])] for row in rows], z, atol=1e-6)
    call("encode", run, folder / "b", files[1], "--out", tmp_path / "l.npz")
    assert arrays(tmp_path / "l.npz")["names"].tolist() == [f"{folder}/b/x y.png", str(files[1])]
    call("reconstruct", run, folder, "--out", tmp_path / "grid.npz")
    assert arrays(tmp_path / "grid.npz")["names"].tolist() == ["a/z.png", "b/x y.png"]


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
