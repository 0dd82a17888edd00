"""What is said of a user's own data before training: by value, and what is advised."""

import numpy as np
import pytest
import torch
from PIL import Image

from cvae.data.images import Images
from cvae.data.survey import Form, advised, components, of_forms, survey
from cvae.errors import UserError


def watch(items, *_):
    return items


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_a_folder_of_colours(tmp_path):
    for number in range(9):
        save(tmp_path / "train" / ("cat" if number < 6 else "dog") / f"{number}.png", noise(number, 70, 70, 3))
    save(tmp_path / "test" / "cat" / "same.png", noise(3, 70, 70, 3))
    save(tmp_path / "test" / "cat" / "wide.png", np.full((40, 90, 4), 7, np.uint8))
    (tmp_path / "test" / "cat" / "bad.png").write_text("no image")
    lines, words, shown = survey(tmp_path, watch)
    text = "\n".join(lines)
    for said in (
        "images: 11 (9 train, 2 test)", "classes: 2: cat 8, dog 3", "sizes: 70x70 (10), 90x40 (1)",
        "1 are not square", "channels: RGB (10), RGBA (1)", "1 can have transparent pixels",
        "duplicates: 1, images that are there already", "1 image is in several splits, so the test is no test of them: "
        "train/cat/3.png = test/cat/same.png", "unreadable: 1", "test/cat/bad.png: not an image of a known format",
        "latent_dim: 8",
    ):  # fmt: skip
        assert said in text
    assert words == [
        "data=image_folder", f"data.root={tmp_path}", "data.image_size=64", "data.skip_unreadable=true",
        "model.latent_dim=8",
    ]  # fmt: skip
    assert shown.shape == (9, 3, 64, 64) and shown.max() <= 1


def test_a_folder_of_black_and_white(tmp_path):
    for number in range(6):
        save(tmp_path / f"{number}.png", np.where(noise(number, 20, 20) > 127, 255, 0).astype(np.uint8))
    lines, words, shown = survey(tmp_path, watch)
    assert words[2:] == [
        "data.image_size=16", "data.channels=1", "likelihood=bernoulli", "data.binarization=static",
        "model.latent_dim=8",
    ]  # fmt: skip
    assert "classes: 1: (in no folder) 6" in lines[0] and "duplicates: none" in lines and shown.shape[1:] == (1, 16, 16)


def test_what_is_transparent_counts_as_white(tmp_path):
    """Icons have black below what is transparent; they are trained on in front of white."""
    for number in range(6):
        x = np.zeros((20, 20, 4), np.uint8)
        x[:10] = 90, 90, 90, 255
        save(tmp_path / f"{number}.png", x if number else np.full((20, 20, 3), 90, np.uint8))
    # Of 5 training images of 6, whichever it is: each transparent one is half white.
    half = {f"values: from 90 to 255 of 255, {share} black or white" for share in ("50%", "40%")}
    assert half & set(survey(tmp_path, watch).lines)


def test_arrays(tmp_path):
    x = noise(0, 30, 8, 12, 5)
    x[7] = x[3]
    np.savez(tmp_path / "a.npz", x=x, y=np.array(["b", "a"] * 15))
    lines, words, shown = survey(tmp_path / "a.npz", watch)
    assert "classes: 2: a 15, b 15" in lines[0] and "channels: 5" in lines and "sizes: 12x8" in lines
    assert any(line.startswith("duplicates: 1, images that are there already") for line in lines)
    assert words[:2] == ["data=npz", f"data.root={tmp_path / 'a.npz'}"] and shown.shape[1:] == (5, 8, 12)


@pytest.mark.parametrize("rank", [1, 3])
def test_components_by_value(rank):
    """Of images in a space of few dimensions, however many pixels they have."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, rank, generator=generator) @ torch.randn(rank, 80, generator=generator)
    assert 1 <= components(x) <= rank and components(torch.eye(20).repeat(5, 1)) == 19
    assert components(x) == components(x.repeat(3, 1)) == components(torch.cat([x, 0 * x], 1))
    assert components(torch.zeros(4, 7)) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images(tmp_path, count):
    for number in range(count):
        save(tmp_path / f"{number}.png", noise(number, 8, 8))
    with pytest.raises(UserError, match="There are no images in|There is 1 image in .*: at least 2 are needed"):
        survey(tmp_path, watch)
    with pytest.raises(UserError, match="there is no such file or folder"):
        survey(tmp_path / "gone", watch)


def test_as_a_command(tmp_path, call, monkeypatch):
    for number in range(3):
        save(tmp_path / "own" / f"a b{number}.png", noise(number, 8, 8))
    monkeypatch.chdir(tmp_path)
    code, printed = call("data", "own")
    assert code == 0 and "images: 3 (1 train, 2 test)" in printed and (tmp_path / "own_images.png").is_file()
    assert "Next: python train.py data=image_folder data.root=own data.image_size=16 data.channels=1" in printed
    assert call("data", "own", "own", "--out", "x.png")[0] == 1 and call("data", "gone")[0] == 1
    assert "data=own: name the folder or file alone, as in: " in call("data", "data=own")[1]
    (tmp_path / "data=own").symlink_to(tmp_path / "own")
    assert call("data", "data=own")[0] == 0
    (tmp_path / "own" / "loop").symlink_to(tmp_path / "own")
    assert "are the same folder: remove the link" in call("data", "own")[1]


def test_many_sizes_are_told_by_their_ends_and_their_middle():
    """Each side by itself; an image is not square from a fifth more on."""
    sizes = [(10, 12), (12, 10), (40, 20), (30, 31), (50, 61)]
    said, long, modes = of_forms([Form(*size, "L", False) for size in sizes], grey=True)
    assert said == "sizes: 5, width x height from 10x10 to 50x61, median 30x20"
    assert long.strip().startswith("2 are not square") and modes == "channels: L (5); all images are grey"


@pytest.mark.parametrize(
    ("edges", "channels", "bernoulli"), [(0.995, 1, True), (0.99, 1, False), (1.0, 3, False), (0.2, 1, False)]
)
def test_the_likelihood_that_is_advised(edges, channels, bernoulli):
    x = torch.randint(256, (200, channels, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    words, lines = advised(Images(x, torch.zeros(200, dtype=torch.long)), channels, edges)
    assert (words[:-1] == ["likelihood=bernoulli", "data.binarization=static"]) is bernoulli
    assert words[-1] == "model.latent_dim=32"  # a tenth of the images are 20, however many components there are
    assert lines[-1].endswith("and there are 200 training images") and lines[0].startswith("values: from 0 to 255")
