"""What encode, interpolate and traverse make of a model and images: which latents, names, labels, ways."""

import csv
import io

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image
from test_use import CPU, arrays, drawing, seen, tiny_run  # noqa: F401, a fixture

import cvae
from cvae import pictures
from cvae.build import load_data
from cvae.commands import encode
from cvae.evaluation.latents import latents
from cvae.evaluation.latents import traverse as moved
from cvae.runs.directory import Run
from cvae.runtime.noise import fixed_noise

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
