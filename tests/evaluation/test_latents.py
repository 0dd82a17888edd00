"""The latents of images: means, draws, the rate of each dimension, and traversals through the aggregate posterior."""

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from cvae.distributions import is_standard_normal
from cvae.evaluation.latents import Latents, latents, traverse
from cvae.likelihoods import Bernoulli
from cvae.models.vae import VAE
from cvae.posteriors import IAF, DiagonalGaussian, FullGaussian
from cvae.priors import MixtureOfGaussians, StandardNormal

X = (torch.rand(900, 1, 2, 3) > 0.5).float()


def model(posterior=DiagonalGaussian, prior=StandardNormal, classes=0):
    """Images (1, 2, 3), three latents."""
    q = posterior(3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6 * (1 + classes), q.num_features))
    encoder[1].weight.data *= 2
    decoder = nn.Sequential(nn.Linear(3 + classes, 6), nn.Unflatten(1, (1, 2, 3)))
    return VAE(encoder, q, prior(3), decoder, Bernoulli((1, 2, 3)), classes)


@torch.no_grad()
def test_rates_are_the_parts_of_the_kl_divergence():
    vae = model()
    found = latents(vae, [(X[:500], None), (X[500:], None)])
    q = vae.encode(X)
    assert found.exact and not found.rate.requires_grad and is_standard_normal(vae.p_z())
    torch.testing.assert_close(found.rate.sum(), kl_divergence(q, vae.p_z()).mean())
    variance, mean = q.variance, q.mean
    torch.testing.assert_close(found.rate, ((variance + mean**2 - 1 - variance.log()) / 2).mean(0))
    torch.testing.assert_close(found.means, q.mean)
    deviation = (found.draws - q.mean) / q.stddev
    assert deviation.mean().abs() < 0.1 and deviation.std() == pytest.approx(1, abs=0.1)
    assert found.order == sorted(range(3), key=lambda dim: -found.rate[dim])


@pytest.mark.parametrize(
    ("posterior", "prior"), [(FullGaussian, StandardNormal), (DiagonalGaussian, MixtureOfGaussians)]
)
@torch.no_grad()
def test_rates_by_variances_where_there_are_no_parts(posterior, prior):
    vae = model(posterior, prior)
    found = latents(vae, [(X, None)])
    q = vae.encode(X)
    inside = q.variance.mean(0)
    across = inside + q.mean.var(0, correction=0)
    assert not found.exact
    torch.testing.assert_close(found.rate, (across / inside).log() / 2, atol=0.12, rtol=0)


@torch.no_grad()
def test_a_dimension_that_tells_nothing_has_no_negative_rate():
    vae = model(FullGaussian)
    vae.encoder[1].weight.data.zero_()
    found = latents(vae, [(X, None)])
    assert (found.rate >= 0).all() and (found.rate < 0.1).all()


@torch.no_grad()
def test_a_flow_without_a_mean_in_closed_form():
    vae = model(IAF)
    found = latents(vae, [(X[:50], None)])
    assert not found.exact and found.rate.isfinite().all()
    torch.testing.assert_close(found.means, vae.encode(X[:50]).mean)


@torch.no_grad()
def test_each_image_has_its_label():
    vae, y = model(classes=4), torch.arange(900) % 4
    found = latents(vae, [(X, y)])
    torch.testing.assert_close(found.means, vae.encode(X, y).mean)


def made():
    means, draws = torch.zeros(2, 2), torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    return Latents(means, draws, torch.tensor([0.5, 2.0]), True)


def test_units_are_standard_deviations_of_the_aggregate_posterior():
    found = made()
    assert found.mean.tolist() == [2, 20] and found.std.tolist() == [1, 10] and found.order == [1, 0]
    assert found.at(torch.tensor([-1.0, 0, 2]), [1, 0]).tolist() == [[10, 20, 40], [1, 2, 4]]
    assert found.units(torch.tensor([[4.0, 15.0]])).tolist() == [[2, -0.5]]
    still = found._replace(draws=torch.ones(2, 2))
    assert still.units(torch.ones(1, 2)).tolist() == [[0, 0]]


@pytest.mark.parametrize("classes", [0, 4])
@torch.no_grad()
def test_a_traversal_moves_one_dimension_and_leaves_the_others_where_the_image_is(classes):
    vae, y = model(classes=classes), torch.tensor([2]) if classes else None
    found = latents(vae, [(X, torch.arange(900) % 4 if classes else None)])
    moved = traverse(vae, found, X[:1], y, 2, 3)
    assert moved.dims == found.order[:2] and moved.units == [-3, 0, 3] and moved.exact
    assert moved.rate == found.rate[moved.dims].tolist()
    z = vae.encode(X[:1], y).mean
    for row, dim in enumerate(moved.dims):
        assert moved.own[row] == pytest.approx(((z[0, dim] - found.mean[dim]) / found.std[dim]).item(), abs=1e-5)
        for column, unit in enumerate(moved.units):
            there = z.clone()
            there[0, dim] = found.mean[dim] + unit * found.std[dim]
            torch.testing.assert_close(moved.images[row, column], vae.decode(there, y).mean[0])
    assert len(traverse(vae, found, X[:1], y, 10, 3).dims) == 3
