"""MIWAE, PIWAE, CIWAE and the Renyi bound: their order, their values by hand, and whom PIWAE teaches what."""

import itertools
import math

import pytest
import torch
from linear_vaes import (
    SHAPE,
    D,
    assert_mean,
    call,
    double,  # noqa: F401, a fixture
    exact_vae,
    gradients,
    log_evidence,
    mean_and_error,
    off_vae,
    repeated_image,
)  # fmt: skip
from toys import TwoGroups

from cvae.errors import ConfigError
from cvae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from cvae.posteriors import IAF, DiagonalGaussian, FullGaussian
from cvae.priors import MixtureOfGaussians

OF_12 = {  # from the lowest to the highest, image by image, at the same 12 draws
    "renyi 2": Renyi(12, 2),
    "elbo": ELBO(12),
    "ciwae 0.9": CIWAE(12, 0.9),
    "ciwae 0.2": CIWAE(12, 0.2),
    "iwae": IWAE(12),
}


@pytest.mark.parametrize(
    "objective", [MIWAE(3, 4), PIWAE(3, 4), CIWAE(12), Renyi(12), Renyi(12, 1), Renyi(12, 3)], ids=repr
)
def test_exact_posterior_makes_every_weight_the_evidence(objective):
    vae, x = exact_vae(), torch.randn(4, *SHAPE)
    terms = objective(vae, x)
    for ours in (terms.bound, -terms.loss, terms.elbo):
        torch.testing.assert_close(ours, log_evidence(vae, x))


def test_bounds_are_in_order_at_the_same_draws():
    vae, x = off_vae(images=50, spread=1), repeated_image(50)
    bounds = {name: call(objective, vae, x).bound for name, objective in OF_12.items()}
    in_order = list(bounds.values())
    assert all((low < high).all() for low, high in itertools.pairwise(in_order))
    estimates = [call(MIWAE(m, 12 // m), vae, x).bound for m in (12, 6, 2, 1)]
    torch.testing.assert_close(estimates[0], bounds["elbo"])
    torch.testing.assert_close(estimates[-1], bounds["iwae"])
    assert all((low < high).all() for low, high in itertools.pairwise(estimates))
    of_alpha = [call(Renyi(12, alpha), vae, x).bound for alpha in (3, 1.5, 1, 0.99, 0.5, 0.1, 0)]
    assert all((low < high).all() for low, high in itertools.pairwise(of_alpha))
    torch.testing.assert_close(of_alpha[2], bounds["elbo"])
    torch.testing.assert_close(of_alpha[-1], bounds["iwae"])
    torch.testing.assert_close(call(CIWAE(12, 1), vae, x).bound, bounds["elbo"])
    torch.testing.assert_close(call(CIWAE(12, 0), vae, x).bound, bounds["iwae"])
    torch.testing.assert_close(call(PIWAE(3, 4), vae, x).bound, bounds["iwae"])


def test_bounds_are_below_the_evidence_on_average():
    vae, x = off_vae(images=20000), repeated_image(20000)
    evidence = log_evidence(vae, x[:1])
    for objective in (MIWAE(2, 4), CIWAE(8, 0.5), Renyi(8, 0.5), Renyi(2, 0.1), PIWAE(2, 4)):
        mean, error = mean_and_error(objective(vae, x).bound.detach())
        assert mean + 5 * error < evidence
    assert_mean(MIWAE(3, 2)(vae, x).bound, IWAE(2)(vae, x).bound.mean().detach(), sigmas=6)  # M changes no mean


def test_renyi_by_integral():
    """The bound of very many draws is 1 / (1 - alpha) log E_q w^(1 - alpha): of two Gaussians in one dimension."""
    log_w = torch.randn(200_000, 1) * 0.8 - 0.3  # log w of a lognormal
    for alpha in (0, 0.5, 2):
        expected = -0.3 + (1 - alpha) * 0.8**2 / 2  # 1 / (1 - a) log E exp((1 - a) log w)
        assert Renyi(200_000, alpha).mean(log_w).item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("objective", [MIWAE(3, 4), CIWAE(12, 0.3), Renyi(12, 0.5)], ids=repr)
def test_gradients_are_those_of_the_bound(objective):
    """Central differences with the same noise."""
    vae, x, step = off_vae(images=2, spread=1), torch.randn(2, *SHAPE), 1e-6
    parameter = vae.encoder.features
    (analytic,) = gradients(vae, call(objective, vae, x).loss.sum(), [parameter])
    for i in range(parameter.numel()):
        flat, value = parameter.data.view(-1), parameter.data.view(-1)[i].item()
        losses = []
        for flat[i] in (value + step, value - step):
            losses.append(call(objective, vae, x).loss.sum().item())
        flat[i] = value
        assert analytic.view(-1)[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("posterior", [DiagonalGaussian, FullGaussian, IAF])
def test_piwae_teaches_the_decoder_iwae_and_the_encoder_miwae(posterior):
    vae, x = off_vae(posterior(D), images=4, spread=0.5), torch.randn(4, *SHAPE)
    vae.prior = MixtureOfGaussians(D, components=2)
    of_p = [*vae.decoder.parameters(), *vae.prior.parameters()]
    of_q = [*vae.encoder.parameters(), *vae.posterior.parameters()]
    ours = gradients(vae, call(PIWAE(3, 4), vae, x).loss.sum(), of_p + of_q)
    iwae = gradients(vae, call(IWAE(12), vae, x).loss.sum(), of_p + of_q)
    miwae = gradients(vae, call(MIWAE(3, 4), vae, x).loss.sum(), of_p + of_q)
    torch.testing.assert_close(ours[: len(of_p)], iwae[: len(of_p)], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours[len(of_p) :], miwae[len(of_p) :], rtol=1e-7, atol=1e-9)
    for one, other in zip(iwae, miwae, strict=True):
        assert (one - other).abs().max() > 1e-3  # the test can tell them apart


def test_piwae_reaches_the_encoder_where_one_estimate_has_all_the_weight():
    """In float32, weights hundreds of nats apart."""
    vae, x = off_vae(images=3, spread=1).float(), 30 * torch.randn(3, *SHAPE, dtype=torch.float32)
    with torch.no_grad():
        vae.decoder[0].weight.mul_(20)
    log_w = call(IWAE(12), vae, x)
    ours = gradients(vae, call(PIWAE(3, 4), vae, x).loss.sum(), [vae.encoder.features])[0]
    miwae = gradients(vae, call(MIWAE(3, 4), vae, x).loss.sum(), [vae.encoder.features])[0]
    iwae = gradients(vae, log_w.loss.sum(), [vae.encoder.features])[0]
    torch.testing.assert_close(ours, miwae, rtol=1e-3, atol=1e-3 * miwae.abs().max().item())
    assert (iwae - miwae).abs().max() > 0.1 * miwae.abs().max()


def test_what_is_refused():
    with pytest.raises(ConfigError, match="^objective=piwae: must be .* 2 groups of latents"):
        PIWAE(2, 2)(TwoGroups(), torch.randn(3, *SHAPE))
    for objective in (MIWAE(2, 2), CIWAE(4), Renyi(4)):
        vae, x = TwoGroups(), torch.randn(3, *SHAPE)
        torch.testing.assert_close(objective(vae, x).bound, vae.log_evidence(x))
    assert math.isclose(Renyi().alpha, 0.5)
