"""The pictures of the latent space at the end of a training: of which images, latents and values each is."""

import numpy as np
import pytest
import torch
from conftest import config
from stage import CPU, read, stage  # noqa: F401, a fixture
from tiny import tiny

from cvae import pictures
from cvae.build import build_vae, make
from cvae.evaluation.latents import latents, traverse
from cvae.runtime.noise import fixed_noise
from cvae.training.module import VAEModule


def found_latents(show):
    x, y = show.data.batch("test", range(len(show.data.test)))
    with fixed_noise(6, CPU):
        return latents(show.vae, [(x, show.vae.labels(y))]), y


def test_manifold_and_scatter_are_of_the_trained_model_and_the_whole_test_set(stage):
    show = stage()
    show.epochs(1)
    z = pictures.quantiles(show.vae.p_z(), 2)
    manifold = pictures.manifold(pictures.latent_manifold(show.vae, z), z, "decoded quantiles of p(z)")
    assert np.array_equal(read(show.run.manifold()), manifold)
    found, y = found_latents(show)
    title = "posterior means of the test images"
    expected = pictures.latent_map(found.means.numpy(), y.numpy(), ("z[0]", "z[1]"), title, None)
    assert np.array_equal(read(show.run.scatter), expected)
    assert not show.run.map.exists()


@pytest.mark.parametrize("latent_dim", [1, 3, 12])
def test_a_plane_traversals_and_rates_of_any_number_of_latents(stage, latent_dim):
    show = stage(f"model.latent_dim={latent_dim}")
    show.epochs(1)
    assert not show.run.manifold().exists() and not show.run.scatter.exists()
    found, y = found_latents(show)
    if latent_dim == 1:
        assert not show.run.map.exists()
    else:
        points, names = pictures.plane(found.means, "pca", 6)
        title = f"posterior means of the test images, {latent_dim} dimensions"
        assert np.array_equal(read(show.run.map), pictures.latent_map(points.numpy(), y.numpy(), names, title, None))
    assert np.array_equal(read(show.run.rates), pictures.rates(found.rate, found.exact))
    x = show.data.batch("test", [0])[0]
    moved = traverse(show.vae, found, x, None, 10, 7)
    expected = pictures.traversal(*moved, "a test image, one dimension of z moved")
    assert np.array_equal(read(show.run.latent_traversal), expected)


def test_codes_are_shown_and_not_moved(stage):
    """Between two of them there is nothing; the plane shows the probabilities of each."""
    show = stage("posterior=fsq", "prior=uniform", "model.latent_dim=4")
    show.epochs(1)
    names = {path.name for path in show.run.path.glob("*.png")}
    assert names == {"reconstruction.png", "latent_map.png", "latent_codes.png", "learning_curves.png"}
    rows = pictures.code_maps(show.vae, show.data.batch("test", range(4))[0])
    expected = pictures.headed(pictures.grid(rows.flatten(0, 1), 4), "test images, codes, reconstructions")
    assert rows.shape[0] == 3 and np.array_equal(read(show.run.codes), expected)


def test_of_many_maps_of_codes_few_are_shown(stage):
    show = stage("callbacks.pictures.num=25", "data.source.test_size=12")
    show.epochs(0)
    words = [
        "model=resnet",
        "model.latent_map=true",
        "model.latent_dim=24",
        "model.width=4",
        "data.image_shape=[1,8,8]",
    ]
    show.vae = build_vae(config("data=synthetic", "posterior=fsq", "prior=uniform", *words))
    show.module = VAEModule(show.vae, None, None, None)
    show.module.figures = {}
    show.callback.publish(show.trainer, show.module)
    rows = pictures.code_maps(show.vae, show.data.batch("test", range(10))[0])
    assert rows.shape[:2] == (8, 10)  # 6 maps of 2x2, of ten images
    shown = torch.cat([rows[:5], rows[7:]])
    expected = pictures.headed(pictures.grid(shown.flatten(0, 1), 10), "test images, codes, reconstructions")
    assert np.array_equal(read(show.run.codes), expected)


def test_interpolations_are_between_neighbouring_test_images(stage):
    show = stage("callbacks.pictures.num=25", "data.source.test_size=25")
    show.epochs(0)
    x = show.data.batch("test", range(25))[0]
    a, b = x[[0, 2, 4, 6, 8]], x[[1, 3, 5, 7, 9]]
    expected = pictures.strips(a, show.vae.interpolate(a, b, steps=10), b)
    assert np.array_equal(read(show.run.latent_interpolation), expected)


def test_an_odd_number_of_images_has_one_left_over(stage):
    show = stage("callbacks.pictures.num=3")
    show.epochs(0)
    x = show.data.batch("test", range(3))[0]
    expected = pictures.strips(x[:1], show.vae.interpolate(x[:1], x[1:2], steps=10), x[1:2])
    assert np.array_equal(read(show.run.latent_interpolation), expected)


@pytest.mark.parametrize("words", [[], ["conditional=true"]])
def test_one_image_has_no_interpolation(stage, words):
    show = stage("callbacks.pictures.num=1", *words)
    show.epochs(0)
    assert not show.run.latent_interpolation.exists() and show.run.latent_traversal.exists()


@pytest.mark.parametrize("classes", [0, 10])
def test_what_each_group_of_latents_decides(stage, classes):
    """A row of eight images for each of three groups, of the first class; nothing of a model with one group."""
    show = stage()
    show.epochs(0)
    assert not show.run.groups.exists()
    words = ["model=ladder", "model.groups=[4x2]", "model.width=4", "model.latent_dim=2", "data.image_shape=[1,8,8]"]
    conditional = ["conditional=true", f"data.num_classes={classes}"] if classes else []
    show.vae = build_vae(config("data=synthetic", *words, *conditional))
    show.module = VAEModule(show.vae, None, None, None)
    show.module.figures, show.logged = {}, []
    for part in show.vae.parameters():
        part.data += 0.3 * torch.randn_like(part)
    show.callback.on_fit_start(show.trainer, show.module)
    show.callback.publish(show.trainer, show.module)
    with fixed_noise(6, CPU):
        rows = show.vae.variations(8, torch.zeros(8).long() if classes else None)
    expected = pictures.headed(pictures.grid(rows.flatten(0, 1), 8), "a row a group of latents: it alone is drawn")
    assert rows.shape[0] == 3 and np.array_equal(read(show.run.groups), expected)
    assert "latent_groups" in [tag for tag, *_ in show.logged]


def test_a_plane_is_checked_before_training(tmp_path):
    with pytest.raises(ValueError, match="^callbacks.pictures.plane=lda: must be one of pca, tsne, umap$"):
        make(tiny(tmp_path, "callbacks.pictures.plane=lda"), "callbacks")


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
    z = pictures.quantiles(show.vae.p_z(), 2)
    for label in range(3):
        images = pictures.latent_manifold(show.vae, z, label)
        expected = pictures.manifold(images, z, f"decoded quantiles of p(z), class {label}")
        assert np.array_equal(read(show.run.manifold(label)), expected)
    assert len(list(show.run.path.glob("latent_manifold*.png"))) == 3
    found, labels = found_latents(show)
    title = "posterior means of the test images"
    expected = pictures.latent_map(found.means.numpy(), labels.numpy(), ("z[0]", "z[1]"), title, None)
    assert np.array_equal(read(show.run.scatter), expected)
    moved = traverse(show.vae, found, x[:1], y[:1], 10, 7)
    expected = pictures.traversal(*moved, "a test image, one dimension of z moved")
    assert np.array_equal(read(show.run.latent_traversal), expected)
    a, b = x[[0, 3]], x[[1, 4]]  # the first two of each class
    expected = pictures.strips(a, show.vae.interpolate(a, b, torch.tensor([0, 1]), 10), b)
    assert np.array_equal(read(show.run.latent_interpolation), expected)
    assert [record.message for record in caplog.records] == ["Pictures show the first 3 of 12 classes"]
