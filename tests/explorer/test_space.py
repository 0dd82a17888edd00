"""What a pointer's place means, and which image is where."""

import io

import numpy as np
import pytest
import torch
from conftest import config
from PIL import Image

from cvae.build import build_data, build_vae
from cvae.errors import UserError
from cvae.explorer.space import Plane, Space, nearest, rows_of_classes, space_of
from cvae.runtime.noise import fixed_noise

SMALL = ["data=synthetic", "data.source.train_size=4", "data.source.test_size=23", "data.eval_batch_size=7"]
TINY = [*SMALL, "data.image_shape=[1,8,8]", "model=mlp", "model.hidden=[6]"]


def parts(*words):
    """(model, data) of a config, the former untrained but far from its start."""
    words = [*TINY, *words]
    if "model=ladder" in words:
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


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-5, atol=1e-6)


# The plane

PLANE = Plane(2, 0, (-1.0, 10.0), (3.0, 20.0))  # z[2] from -1 to 3 to the right, z[0] from 10 to 20 upwards


@pytest.mark.parametrize(
    ("across", "down", "expected"),
    [
        (0, 0, [20, 7, -1, 8]), (1, 1, [10, 7, 3, 8]), (0.25, 0.1, [19, 7, 0, 8]), (0.5, 0.5, [15, 7, 1, 8]),
        (-0.3, 1.2, [10, 7, -1, 8]), (1.5, -0.1, [20, 7, 3, 8]),
    ],
)  # fmt: skip
def test_where_a_pointer_is(across, down, expected):
    z = torch.tensor([6.0, 7, 7, 8])
    close(PLANE.move(z, across, down), [float(value) for value in expected])
    assert z.tolist() == [6, 7, 7, 8]  # as it was


def test_places_are_the_way_back():
    z = torch.tensor([[12.0, 0, 0, 0], [20, 5, -1, 5], [10, 1, 3, 1]])
    close(PLANE.places(z), [[0.25, 0.8], [0, 0], [1, 1]])
    for point in z:
        across, down = PLANE.places(point[None])[0].tolist()
        close(PLANE.move(point, across, down), point)


def test_one_dimension():
    plane = Plane(0, None, (-2.0, -2.0), (2.0, 2.0))
    close(plane.move(torch.tensor([9.0]), 0.75, 0.1), [1.0])
    close(plane.places(torch.tensor([[1.0], [-2]])), [[0.75, 0.5], [0, 0.5]])


def test_rows_of_classes():
    places = torch.tensor([[0.1, 0.5]] * 400)
    y = torch.arange(400) % 4
    found = rows_of_classes(places, y)
    assert (found[:, 0] == 0.1).all()
    for label in range(4):  # the first class below; spread over the middle 80 % of its row
        within = 4 * (1 - found[y == label, 1]) - label
        assert 0.0999 < within.min() < 0.13 and 0.87 < within.max() < 0.9001


def test_nearest():
    places = torch.tensor([[0.0, 0], [0.5, 0.5], [0.9, 0.1], [0.5, 0.9]])
    assert [nearest(places, *place) for place in ((0.2, 0.1), (0.6, 0.5), (0.8, 0.2), (0.5, 0.75))] == [0, 1, 2, 3]


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
        found = Space(vae, data, means)
    with fixed_noise(5, torch.device("cpu")):
        prior = vae.p_z().sample((1000,))[:, 1]
    close([found.low[0], found.high[0]], [-7.8, 9.8])
    low, high = prior.quantile(0.005), prior.quantile(0.995)
    close([found.low[1], found.high[1]], [low - 0.05 * (high - low), high + 0.05 * (high - low)])


def test_the_most_active_dimensions_come_first():
    vae, data = parts("model.latent_dim=4")
    means = torch.tensor([[1.0], [-1.0]]) * torch.tensor([0.5, 3.0, 0.1, 2.0]) + torch.tensor([9.0, 0, 0, 0])
    assert Space(vae, data, means).order == [1, 3, 0, 2]
    assert Space(vae, data, means[:1]).order  # one image alone


def test_the_first_plane_has_the_most_active_dimensions():
    found = space("model.latent_dim=4")
    found.order = [3, 1, 0, 2]
    plane = found.first_plane()
    assert (plane.right, plane.up) == (1, 3)
    close([plane.low, plane.high], [[found.low[1], found.low[3]], [found.high[1], found.high[3]]])
    one = space("model.latent_dim=1")
    assert one.first_plane() == one.plane(0, None)
    assert one.plane(0, None).up is None and one.plane(0, None).low[0] == pytest.approx(one.low[0].item())


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


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_users_image_is_seen_as_a_test_image():
    levels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    static = space("model.latent_dim=2", "data.invert=true").read(png(levels))
    assert static.shape == (1, 8, 8)
    close(static[0], (255 - levels > 127).astype(np.float32))
    grey = space("model.latent_dim=2", "data.binarization=none", "likelihood=gaussian").read(png(levels))
    close(grey[0], levels.astype(np.float32) / 255)


def test_files_that_are_no_images(monkeypatch):
    found = space("model.latent_dim=2")
    with pytest.raises(UserError, match="^not an image of a known format$"):
        found.read(b"hello")
    with pytest.raises(UserError, match="^cannot be read: .*truncated"):
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
        with pytest.raises(UserError, match=r"^cannot be read: Image size \(64 pixels\) exceeds limit"):
            found.read(png(np.zeros((8, 8), np.uint8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert found.read(png(np.zeros((8, 8), np.uint8))).sum() == 0


def test_any_number_of_dimensions_and_colours():
    for words in (["model.latent_dim=1"], ["model.latent_dim=5", "data.image_shape=[3,6,8]"]):
        found = space(*words)
        plane = found.first_plane()
        index = nearest(found.places(plane), *found.places(plane)[7].tolist())
        assert index == 7
        assert found.decode(plane.move(found.means[0], 0.5, 0.5)[None], 0).shape == (1, *found.data.image_shape)
