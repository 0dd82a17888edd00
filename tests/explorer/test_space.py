"""What a pointer's place means, and which image is where."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import config
from PIL import Image

from cvae.build import build_data, build_vae
from cvae.errors import UserError
from cvae.evaluation.latents import Latents, latents
from cvae.explorer.plane import nearest, rows_of_classes
from cvae.explorer.space import Space, space_of
from cvae.runtime.noise import fixed_noise

SMALL = ["data=synthetic", "data.source.train_size=4", "data.source.test_size=23", "data.eval_batch_size=7"]
TINY = [*SMALL, "data.image_shape=[1,8,8]", "model=mlp", "model.hidden=[6]"]


def parts(*words):
    """(model, data) of a config, the former untrained but far from its start."""
    words = [*TINY, *words]
    if {"model=ladder", "model=resnet"} & set(words):  # which have no such layers
        words = [word for word in words if word not in ("model=mlp", "model.hidden=[6]")]
    cfg = config(*words)
    data = build_data(cfg)
    data.setup()
    vae = build_vae(cfg).eval()
    for parameter in vae.parameters():
        parameter.data.mul_(2)
    return vae, data


def space(*words, images=None):
    return space_of(*parts(*words), images, 0)


def with_means(vae, data, means, rate=None):
    """A space in which the test images have these means."""
    return Space(vae, data, Latents(means, means, means.var(0, correction=0) if rate is None else rate, True))


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-5, atol=1e-6)


# The space


def test_the_test_images_are_where_their_posteriors_are():
    vae, data = parts("model.latent_dim=3", "conditional=true")
    found = space_of(vae, data, None, 0)
    x, y = data.batch("test", range(23))
    close(found.means, vae.encode(x, y).mean.detach())
    assert torch.equal(found.y, y) and found.dims == 3
    assert space_of(vae, data, 9, 0).means.shape == (9, 3) and len(space_of(vae, data, 9, 0).y) == 9
    assert space_of(vae, data, 99, 0).means.shape == (23, 3)
    close(space_of(vae, data, 9, 0).means, found.means[:9])


def test_what_is_drawn_is_drawn_by_seed():
    """The ends of the axes."""
    vae, data = parts("prior=mixture", "model.latent_dim=3")
    before = torch.get_rng_state()
    one, two, other = (space_of(vae, data, None, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.low, two.low) and not torch.equal(one.low, other.low)


def test_the_ends_of_an_axis():
    """All means and 99 % of the prior are inside, with a margin of 5 % at each side."""
    vae, data = parts("model.latent_dim=2")
    means = torch.zeros(23, 2)
    means[3], means[4] = torch.tensor([-7.0, 0.5]), torch.tensor([9.0, -0.5])
    with fixed_noise(5, torch.device("cpu")):
        found = with_means(vae, data, means)
    with fixed_noise(5, torch.device("cpu")):
        prior = vae.p_z().sample((1000,))[:, 1]
    close([found.low[0], found.high[0]], [-7.8, 9.8])
    low, high = prior.quantile(0.005), prior.quantile(0.995)
    close([found.low[1], found.high[1]], [low - 0.05 * (high - low), high + 0.05 * (high - low)])


def test_the_dimensions_of_the_highest_rates_come_first():
    vae, data = parts("model.latent_dim=4")
    means = torch.tensor([[1.0], [-1.0]]) * torch.tensor([0.5, 3.0, 0.1, 2.0])
    found = with_means(vae, data, means, torch.tensor([0.2, 0.1, 3.0, 0.7]))
    assert found.order == [2, 3, 0, 1] and found.unit == " nats"
    assert (found.first_plane().right, found.first_plane().up) == (2, 3)
    turned = with_means(vae, data, means, torch.tensor([0.7, 0.1, 3.0, 0.2]))  # the highest is the upper one, too
    assert turned.order[:2] == [2, 0] and (turned.first_plane().right, turned.first_plane().up) == (0, 2)
    assert with_means(vae, data, means[:1], torch.ones(4)).first_plane()  # one image alone
    whole = space_of(vae, data, None, 0)
    x, _ = data.batch("test", range(23))
    with fixed_noise(0, torch.device("cpu")):
        close(whole.rate, latents(vae, [(x, None)]).rate)


def test_codes_without_noise_have_no_nats():
    found = space("model.latent_dim=3", "posterior=deterministic", "prior=none", "objective=rae")
    assert found.unit == "" and found.order == found.means.std(0).argsort(descending=True).tolist()


def test_the_planes_show_the_test_images():
    """All of them are inside, but for what lies apart, and they fill the picture."""
    vae, data = parts("model.latent_dim=4")
    means = torch.rand(23, 4) * torch.tensor([1.0, 3.0, 0.1, 2.0]) + torch.tensor([0.0, 5.0, 0.0, 0.0])
    found = with_means(vae, data, means)
    for plane in (found.first_plane(), found.plane(3, 0), found.principal_plane()):
        places = found.places(plane)
        low, high = places.aminmax(dim=0)
        close(low, [0.05 / 1.1] * 2)
        close(high, [1.05 / 1.1] * 2)
    assert (found.first_plane().right, found.first_plane().up) == (1, 3)
    assert found.around_images(found.first_plane().zoomed(0.2, 0.3, 0.1)) == found.first_plane()
    one = space("model.latent_dim=1")
    assert one.first_plane() == one.plane(0, None) and one.plane(0, None).up is None


def test_a_plane_is_no_narrower_than_a_part_of_the_widest_dimension():
    """Where the images hardly differ: 2 % of 110, which are the 100 of the first dimension and its margins."""
    vae, data = parts("model.latent_dim=2")
    means = torch.stack([torch.linspace(-50, 50, 23), torch.full((23,), 0.25)], 1)
    plane = with_means(vae, data, means).plane(0, 1)
    close([plane.low[1], plane.high[1]], [0.25 - 1.1, 0.25 + 1.1])


def test_the_principal_plane_is_of_the_directions_of_largest_variance():
    vae, data = parts("model.latent_dim=3")
    along = torch.linspace(-1, 1, 23)[:, None]
    means = 5 * along * torch.tensor([0.6, 0.0, 0.8]) + along.square() * torch.tensor([0.0, 1.0, 0.0])
    plane = with_means(vae, data, means).principal_plane()
    close(plane.directions, [[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]])
    z = plane.move(torch.tensor([1.0, 1.0, 1.0]), 0.5, 0.5)
    close(z @ torch.tensor([0.8, 0.0, -0.6]), 0.2)  # across the plane nothing moves


def placed(monkeypatch, means, at):
    """A space whose first images UMAP has placed: (the plane, what it was asked for), by four threads at once."""
    vae, data = parts("model.latent_dim=3")
    asked = []
    monkeypatch.setattr("cvae.pictures.plane", lambda *of: asked.append(of) or (at, ["UMAP 1", "UMAP 2"]))
    found = Space(vae, data, Latents(means, means, means.var(0), True), 7)
    assert asked == []
    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(lambda _: found.neighbour_plane(), range(4))
    ((asked_means, how, seed),) = asked
    assert asked_means is means and (how, seed) == ("umap", 7) and others == [first] * 3
    return found, first


def test_the_plane_of_umap(monkeypatch):
    """As the pictures have it, computed once, around those images that are placed."""
    means, at = torch.randn(23, 3), torch.rand(20, 2) * torch.tensor([1.0, 5.0])
    found, plane = placed(monkeypatch, means, at)
    assert plane.names == ("UMAP 1", "UMAP 2") and torch.equal(plane.placed.z, means[:20])
    places = found.places(plane)
    low, high = places.aminmax(dim=0)
    close(low, [0.05 / 1.1] * 2)
    close(high, [1.05 / 1.1] * 2)
    close(places, plane.places(means[:20]))
    assert found.around_images(plane.zoomed(0.2, 0.3, 0.1)) == plane
    assert space_of(found.vae, found.data, None, 7).seed == 7


def test_the_plane_of_umap_has_its_own_least_width(monkeypatch):
    at = torch.stack([torch.linspace(-50, 50, 23), torch.full((23,), 0.25)], 1)
    _, plane = placed(monkeypatch, 1e4 * torch.randn(23, 3), at)
    close([plane.low[1], plane.high[1]], [0.25 - 1, 0.25 + 1])


def test_places_of_the_test_images():
    found = space("model.latent_dim=3")
    plane = found.plane(2, 1)
    close(found.places(plane), plane.places(found.means))
    one = space("model.latent_dim=1")
    close(one.places(one.first_plane()), rows_of_classes(one.first_plane().places(one.means), one.of_class))
    before = one.places(one.first_plane())
    one.y = 7 * one.y + 2  # classes whose numbers have gaps: the rows have none
    close(one.places(one.first_plane()), before)


def test_classes_are_those_that_there_are():
    found = space("model.latent_dim=2", images=3)
    assert found.classes.tolist() == [0, 1, 2] and found.of_class.tolist() == [0, 1, 2]
    vae, data = parts("model.latent_dim=2")
    data.test.images = data.test.images._replace(y=torch.tensor([5, 10**12, 5, 9]).repeat(6)[:23])
    found = space_of(vae, data, None, 0)
    assert found.classes.tolist() == [5, 9, 10**12] and found.of_class[:4].tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("words", [[], ["conditional=true"]])
def test_decode_and_encode(words):
    found = space("model.latent_dim=2", *words)
    z, x, y = torch.randn(5, 2), found.original(4), torch.full((5,), 3) if words else None
    close(found.decode(z, 3), found.vae.decode(z, y).mean.detach())
    close(found.encode(x, 3), found.vae.encode(x[None], None if y is None else y[:1]).mean[0].detach())
    assert not found.decode(z, 3).requires_grad and not found.encode(x, 3).requires_grad
    close(x, found.data.batch("test", [4])[0][0])


def test_decoded_images_are_in_range():
    """The mean of a Gaussian need not be."""
    found = space("model.latent_dim=2", "data.binarization=none", "likelihood=gaussian")
    images = found.decode(5 * torch.randn(9, 2), 0)
    assert images.min() == 0 and images.max() == 1


def test_the_way_is_straight():
    a, b = torch.tensor([1.0, 0, 4]), torch.tensor([0, 2.0, 4])
    close(space("model.latent_dim=3").between(a, b, 3), [[1.0, 0, 4], [0.5, 1, 4], [0, 2, 4]])


def test_several_groups_of_latents_are_explored_by_the_top_one():
    found = space("model=ladder", "model.latent_dim=3", "model.groups=[4x1]", "model.width=4")
    z = torch.randn(2, 3)
    assert found.dims == 3 and torch.equal(found.decode(z, 0), found.decode(z, 0))
    assert found.decode(z, 0).shape == (2, 1, 8, 8)


def test_groups_below_the_top_one():
    """Their noise: 0 is the mean of p, and that of an image makes its reconstruction from the means of q."""
    words = ["model=ladder", "model.latent_dim=3", "model.groups=[2x1,4x1]", "model.width=4"]
    found = space(*words, "conditional=true", "data.num_classes=3", "data.image_shape=[1,8,8]")
    vae = found.vae
    for part in vae.parameters():
        part.data += 0.2 * torch.randn_like(part)
    assert found.groups == [16, 64]  # four latents at each of 2x2 and of 4x4 positions
    zeros = [torch.zeros(1, 16), torch.zeros(1, 64)]
    z, x = torch.randn(2, 3), found.original(4)
    close(found.decode(z, 1, zeros), found.decode(z, 1))
    other = [torch.randn(1, 16), zeros[1]]
    assert (found.decode(z, 1, other) - found.decode(z, 1)).abs().max() > 1e-3
    noise = found.noise_of(x, z[0], 1)
    y = torch.tensor([1])
    with torch.no_grad():
        maps, state = vae.encoder.features_and_maps(vae.labelled(x[None], y))[1], vae.decoder.start(vae._rows(z[:1], y))
        for enlarge, group, stage in vae.decoder.steps:
            state = enlarge(state)
            state = group(state, group.posterior(state, maps[stage], group.prior(state))[0])
        expected = vae._p_x(vae.decoder.end(state), z[:1]).mean
    close(found.decode(z[:1], 1, noise), expected)
    assert space("model.latent_dim=3").groups == []


def test_what_an_image_is_called():
    vae, data = parts("model.latent_dim=2", "conditional=true", "data.num_classes=3")
    found = space_of(vae, data, None, 0)
    assert (found.called(4), found.short(4)) == ("Test image 4, class 1", "image 4, 1")
    names = np.array([f"cats/{'long' * 9}_{k}.png" for k in range(23)])
    data.test.images = data.test.images._replace(names=names, classes=("ant", "bee\nhive", "cat"))
    assert found.called(4) == f"Test image 4, {names[4]}, class bee hive"
    assert found.short(4) == f"…{names[4][-23:]}, bee hive" and len(found.short(4).split(",")[0]) == 24
    data.test.images = data.test.images._replace(names=np.array(["a folder/" + "n" * count for count in range(20, 43)]))
    assert found.short(4) == f"{'n' * 24}, bee hive" and found.short(5).startswith("…")


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_users_image_is_seen_as_a_test_image():
    levels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    inverted = space("model.latent_dim=2", "data.invert=true")
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of memory that cannot be written
            static = inverted.read(png(levels))
    finally:
        torch.set_warn_always(False)
    assert static.shape == (1, 8, 8)
    close(static[0], (255 - levels > 127).astype(np.float32))
    grey = space("model.latent_dim=2", "data.binarization=none", "likelihood=gaussian").read(png(levels))
    close(grey[0], levels.astype(np.float32) / 255)


def fails(error):
    raise error


def test_files_that_are_no_images(monkeypatch):
    found = space("model.latent_dim=2")
    with pytest.raises(UserError, match="^not an image of a known format$"):
        found.read(b"hello")
    with pytest.raises(UserError, match="truncated"):
        whole = png(np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8))
        found.read(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="^the file has 20,000,001 bytes, at most 20,000,000 are taken$"):
        found.read(b"x" * 20_000_001)
    small = png(np.zeros((8, 8), np.uint8))
    monkeypatch.setattr("cvae.explorer.space.LARGEST_FILE", len(small))
    assert found.read(small).shape == (1, 8, 8)
    monkeypatch.setattr("cvae.explorer.space.LARGEST_FILE", 20_000_000)
    for limit in (63, 31):  # Pillow warns of more pixels, and raises at twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=r"^Image size \(64 pixels\) exceeds limit"):
            found.read(png(np.zeros((8, 8), np.uint8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert found.read(png(np.zeros((8, 8), np.uint8))).sum() == 0
    for place, error, said in (
        ("PIL.Image.open", MemoryError(), "MemoryError"),  # which has no message
        ("pathlib.Path.write_bytes", OSError(28, "No space left on device"), "cannot be read: .*No space left"),
    ):
        with monkeypatch.context() as patch, pytest.raises(UserError, match=f"^{said}"):
            patch.setattr(place, lambda *_, error=error, **__: fails(error))
            found.read(small)


def test_any_number_of_dimensions_and_colours():
    for words in (["model.latent_dim=1"], ["model.latent_dim=5", "data.image_shape=[3,6,8]"]):
        found = space(*words)
        plane = found.first_plane()
        index, distance = nearest(found.places(plane), *found.places(plane)[7].tolist())
        assert index == 7 and distance < 1e-6
        assert found.decode(plane.move(found.means[0], 0.5, 0.5)[None], 0).shape == (1, *found.data.image_shape)
