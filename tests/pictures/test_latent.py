"""What pictures of the latent space show: the manifold, quantiles of the prior, and a plane."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from code_vaes import CODES, OF_CODES, vae_of
from matplotlib import colormaps
from torch.distributions import Independent, Laplace, Normal

from cvae import pictures
from cvae.errors import ConfigError
from cvae.pictures import latent
from cvae.priors import MixtureOfGaussians, StandardNormal


def test_manifold_grows_to_the_right_and_upwards():
    """A decoder that gives z itself: the first row is the highest."""
    asked = []

    def decode(z, y):
        asked.append((y, torch.is_grad_enabled()))
        return SimpleNamespace(mean=z)

    z = torch.tensor([[-1.0, 10.0], [0.5, 20.0], [2.0, 30.0]])
    found = pictures.latent_manifold(SimpleNamespace(decode=decode), z)
    assert found.tolist() == [[x, y] for y in (30, 20, 10) for x in (-1, 0.5, 2)]
    assert asked == [(None, False)]


def test_manifold_of_a_class_asks_for_its_label():
    asked = []
    decode = lambda z, y: asked.append(y.tolist()) or SimpleNamespace(mean=z)
    for label in (0, 3):
        pictures.latent_manifold(SimpleNamespace(decode=decode), torch.zeros(2, 2), label)
    assert asked == [[0] * 4, [3] * 4]


def test_quantiles_of_the_standard_normal():
    z = pictures.quantiles(StandardNormal(2)(), 3)
    torch.testing.assert_close(z, torch.tensor([[-1.64485, -1.64485], [0, 0], [1.64485, 1.64485]]))


def test_quantiles_of_each_dimension():
    p = Independent(Normal(torch.tensor([5.0, 0.0]), torch.tensor([2.0, 1.0])), 1)
    z = pictures.quantiles(p, 5)
    torch.testing.assert_close(z, p.base_dist.icdf(torch.tensor([0.05, 0.275, 0.5, 0.725, 0.95])[:, None]))
    assert z[2].tolist() == pytest.approx([5, 0])


def test_quantiles_of_a_prior_that_is_no_product_are_those_of_its_marginals():
    prior = MixtureOfGaussians(2, components=2)
    prior.mean.data = torch.tensor([[-10.0, 0.0], [10.0, 5.0]])
    prior.logvar.data.fill_(-4.0)
    with torch.no_grad():
        z = pictures.quantiles(prior(), 4)  # 0.05, 0.35, 0.65, 0.95
    assert z.shape == (4, 2) and (z[1:] >= z[:-1]).all()
    assert z[:, 0].tolist() == pytest.approx([-10.17, -9.93, 9.93, 10.17], abs=0.03)
    assert z[:, 1].tolist() == pytest.approx([-0.17, 0.07, 4.93, 5.17], abs=0.03)
    q = Independent(Laplace(torch.zeros(1), torch.ones(1)), 1)
    torch.testing.assert_close(pictures.quantiles(q, 3)[:, 0], q.base_dist.icdf(torch.tensor([0.05, 0.5, 0.95])))


def test_principal_components_are_the_directions_of_most_variance():
    torch.manual_seed(1)
    along, across = torch.randn(4000) * 3, torch.randn(4000)
    third = torch.randn(4000) * 0.1
    axes = torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    means = torch.stack([along, across, third], 1) @ axes + torch.tensor([7.0, -2.0, 1.0])
    points, names = pictures.plane(means, "pca", 0)
    assert points.shape == (4000, 2) and points.dtype == torch.float32
    torch.testing.assert_close(points[:, 0], along - along.mean(), atol=0.2, rtol=0)
    # The largest entry of each direction is positive: (0.6, 0.8) as it is, (-0.8, 0.6) turned round.
    torch.testing.assert_close(points[:, 1], -(across - across.mean()), atol=0.2, rtol=0)
    assert names == ["principal component 1: 90% of the variance", "principal component 2: 10% of the variance"]


@pytest.mark.parametrize(("how", "name"), [("tsne", "t-SNE"), ("umap", "UMAP")])
def test_planes_by_neighbours_are_asked_for(monkeypatch, how, name):
    """What the two libraries are given: the first points, the seed, no more neighbours than there are."""
    made = []

    class Fake:
        def __init__(self, *args, **options):
            made.append((args, options))

        def fit_transform(self, few):
            made.append(few.tolist())
            return few[:, 1:]

    monkeypatch.setattr(latent, "NEIGHBOURS", 4)
    monkeypatch.setitem(sys.modules, "sklearn", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "sklearn.manifold", SimpleNamespace(TSNE=Fake))
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Fake))
    means = torch.arange(15.0).view(5, 3)
    points, names = pictures.plane(means, how, 7)
    options = {
        "tsne": {"random_state": 7, "perplexity": 1.0},
        "umap": {"n_neighbors": 3, "random_state": 7, "n_jobs": 1},
    }
    assert made == [((2,) if how == "tsne" else (), options[how]), means[:4].tolist()]
    assert points.tolist() == means[:4, 1:].tolist() and names == [f"{name} 1", f"{name} 2"]
    monkeypatch.setattr(latent, "NEIGHBOURS", 1000)
    pictures.plane(torch.zeros(200, 3), how, 7)
    assert (
        made[2][1]
        == {"tsne": {"random_state": 7, "perplexity": 30}, "umap": options["umap"] | {"n_neighbors": 15}}[how]
    )


@pytest.mark.parametrize("how", ["tsne", "umap"])
def test_three_points_have_no_neighbours_to_speak_of(how):
    means = torch.randn(3, 5)
    points, names = pictures.plane(means, how, 0)
    wanted, names_of_pca = pictures.plane(means, "pca", 0)
    assert torch.equal(points, wanted) and names == names_of_pca
    assert pictures.plane(means[:1], how, 0)[0].tolist() == [[0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["tsne", "umap"])
def test_planes_by_neighbours_keep_groups_together(how):
    pytest.importorskip({"tsne": "sklearn", "umap": "umap"}[how], reason="the extra maps is not installed")
    labels = torch.arange(90) % 3
    means = 20 * torch.eye(3, 5)[labels] + torch.randn(90, 5)
    points, _ = pictures.plane(means, how, 0)
    assert pictures.plane(means[:4], how, 0)[0].shape == (4, 2)  # the fewest
    again, _ = pictures.plane(means, how, 0)
    assert torch.equal(points, again)
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(labels[nearest], labels)


def test_a_plane_is_a_word_and_its_package_is_there(monkeypatch):
    asked = []
    monkeypatch.setattr(latent, "find_spec", lambda name: asked.append(name))
    assert pictures.require_plane("plane", "pca") == "pca" and asked == []
    for how, package in (("tsne", "sklearn"), ("umap", "umap")):
        with pytest.raises(ConfigError, match=f"^plane={how}: must be pca, or needs more packages: pip install -e"):
            pictures.require_plane("plane", how)
        assert asked.pop() == package
    with pytest.raises(ConfigError, match="^plane=lda: must be one of pca, tsne, umap$"):
        pictures.require_plane("plane", "lda")
    monkeypatch.setattr(latent, "find_spec", lambda name: "there")
    assert pictures.require_plane("plane", "umap") == "umap"


@pytest.mark.parametrize(("latent_map", "places", "maps"), [((1, 2), (1, 2), 2), (None, (1, 4), 1)])
def test_code_maps(latent_map, places, maps):
    """Between images and what is made of their codes: a row for each map, a colour for each number."""
    vae = vae_of(CODES["fsq"], OF_CODES["uniform"], codes=4).float()
    vae.decoder.latent_map = latent_map
    x = torch.randint(2, (3, 1, 2, 2)).float()
    rows = pictures.code_maps(vae, x)
    assert rows.shape == (maps + 2, 3, 3, 2, 2)
    torch.testing.assert_close(rows[0], x.expand(-1, 3, -1, -1))
    q = vae.encode(x)
    torch.testing.assert_close(rows[-1], vae.decode(q.mean).mean.expand(-1, 3, -1, -1))
    codes = vae.posterior.read(q.mean).view(3, maps, *places)
    for n in range(3):
        for number in range(maps):
            expected = torch.tensor(colormaps["turbo"](codes[n, number].numpy() / 5)[..., :3]).float().permute(2, 0, 1)
            torch.testing.assert_close(rows[1 + number, n], F.interpolate(expected[None], (2, 2))[0])
