"""Importance-weighted bounds: at the exact posterior, with more samples, and the estimators of their gradient."""

import pytest
import torch
from linear_vaes import (
    PIXELS,
    SHAPE,
    D,
    UnitGaussian,
    assert_mean,
    call,
    double,  # noqa: F401, a fixture
    exact_posterior,
    exact_vae,
    gradients,
    linear_decoder,
    log_evidence,
    mean_and_error,
    off_vae,
    q_of,
    repeated_image,
)
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from cvae.models.vae import VAE
from cvae.objectives import (
    ELBO,
    IWAE,
)
from cvae.posteriors import IAF, DiagonalGaussian, FullGaussian
from cvae.priors import MixtureOfGaussians, VampPrior

# ---------------------------------------------------------------------------------------------------- exact posterior


@pytest.mark.parametrize("samples", [1, 2, 5, 50])
@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_exact_posterior_makes_every_weight_the_evidence(samples, gradient):
    vae, x = exact_vae(), torch.randn(4, *SHAPE)
    expected = log_evidence(vae, x)
    bound = IWAE(samples, gradient)(vae, x)
    torch.testing.assert_close(-bound.loss, expected)
    torch.testing.assert_close(bound.elbo, expected)
    bound = ELBO(samples)(vae, x)
    torch.testing.assert_close(bound.elbo, expected)
    torch.testing.assert_close(bound.loss, -expected)


def test_closed_form_with_exact_posterior_gives_the_evidence_on_average():
    """Rate exact, distortion by Monte Carlo: a mean over latents or pixels in either would be far off."""
    vae, x = exact_vae(), torch.randn(1, *SHAPE)
    q = q_of(vae, x)
    bound = ELBO(kl="closed_form")(vae, x.expand(20000, *SHAPE))
    assert_mean(bound.elbo, log_evidence(vae, x))
    S = q.covariance_matrix[0]
    by_hand = 0.5 * (S.trace() + q.mean.square().sum() - D - S.logdet())
    torch.testing.assert_close(bound.rate[0], by_hand)


def test_path_gradients_are_zero_at_the_exact_posterior_and_plain_ones_are_not():
    vae, x = exact_vae(), torch.randn(1, *SHAPE)
    parameters = [vae.posterior.scale_tril, *vae.encoder.parameters()]
    for objective in (IWAE(1, "stl"), IWAE(1, "dreg"), IWAE(5, "stl"), IWAE(5, "dreg")):
        for gradient in gradients(vae, objective(vae, x).loss.sum(), parameters):
            assert gradient.abs().max() < 1e-10
    plain = [gradients(vae, call(IWAE(1), vae, x, seed).loss.sum(), parameters)[0] for seed in range(20)]
    assert torch.stack(plain).std(0).max() > 0.1


# ---------------------------------------------------------------------------------------------------------------- IWAE


@pytest.mark.parametrize("posterior", [DiagonalGaussian, FullGaussian, IAF])
def test_iwae_of_one_sample_is_the_elbo(posterior):
    vae = off_vae(posterior(D), 4)
    x, parameters = torch.randn(4, *SHAPE), list(vae.parameters())
    elbo, iwae = call(ELBO(), vae, x), call(IWAE(1), vae, x)
    for ours, theirs in zip(iwae, elbo, strict=True):
        torch.testing.assert_close(ours, theirs)
    ours, theirs = gradients(vae, iwae.loss.sum(), parameters), gradients(vae, elbo.loss.sum(), parameters)
    torch.testing.assert_close(ours, theirs)


def test_iwae_rises_with_samples_to_the_evidence():
    images = 20000
    vae = off_vae(images=images)
    x = repeated_image(images)
    with torch.no_grad():
        evidence, q = log_evidence(vae, x[:1]), q_of(vae, x)
        S = exact_posterior(vae, x[:1])
        gap = kl_divergence(MultivariateNormal(q.mean[0], q.variance[0].diag()), S)
        bounds = {samples: -IWAE(samples)(vae, x).loss for samples in (1, 2, 5, 20)}
    assert_mean(bounds[1], evidence - gap)
    means, errors = zip(*(mean_and_error(bound) for bound in bounds.values()), strict=True)
    for i in range(3):
        assert means[i] + 5 * errors[i] < means[i + 1] - 5 * errors[i + 1]
    assert means[-1] + 5 * errors[-1] < evidence
    assert evidence - means[-1] < gap / 3
    assert_mean((bounds[5]).exp(), evidence.exp())  # each w is an unbiased estimate of p(x)


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_iwae_reports_the_means_over_its_samples(gradient):
    vae, x = off_vae(images=4), torch.randn(4, *SHAPE)
    ours, elbo = call(IWAE(7, gradient), vae, x), call(ELBO(7), vae, x)
    for name in ("elbo", "rate", "distortion"):
        torch.testing.assert_close(getattr(ours, name), getattr(elbo, name))
    torch.testing.assert_close(ours.loss, call(IWAE(7), vae, x).loss)
    assert (ours.loss < elbo.loss).all()


def test_plain_gradient_is_the_derivative_of_the_bound():
    """Central differences with the same noise, over encoder, decoder and prior."""
    vae, x, step = off_vae(images=2, spread=1), torch.randn(2, *SHAPE), 1e-6
    vae.prior = MixtureOfGaussians(D, components=2)
    parameters = list(vae.parameters())
    analytic = gradients(vae, call(IWAE(4), vae, x).loss.sum(), parameters)
    for parameter, gradient in zip(parameters, analytic, strict=True):
        for i in range(0, parameter.numel(), 5):
            flat, value = parameter.data.view(-1), parameter.data.view(-1)[i].item()
            losses = []
            for flat[i] in (value + step, value - step):
                losses.append(call(IWAE(4), vae, x).loss.sum().item())
            flat[i] = value
            assert gradient.view(-1)[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-6)


def per_draw(objective, vae, x):
    """The features' gradient of each draw (images, F)."""
    return gradients(vae, call(objective, vae, x).loss.sum(), [vae.encoder.features])[0]


POSTERIORS = {"diagonal": lambda: DiagonalGaussian(D), "full": lambda: FullGaussian(D), "iaf": lambda: strong_iaf()}


def strong_iaf():
    """A flow that is far from the identity."""
    iaf = IAF(D, transforms=2, hidden=8, context=2)
    for parameter in iaf.parameters():
        nn.init.normal_(parameter, std=0.4)
    return iaf


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("gradient, samples", [("stl", 1), ("dreg", 1), ("dreg", 4)])
def test_estimators_agree_with_the_plain_gradient_in_expectation(name, gradient, samples):
    images = 10000
    vae = off_vae(POSTERIORS[name](), images)
    x = repeated_image(images)
    difference = per_draw(IWAE(samples, gradient), vae, x) - per_draw(IWAE(samples), vae, x)
    assert_mean(difference, 0)
    # The test has power: weights that are not squared (stl, for more than one sample) are seen to be biased.
    mean, error = mean_and_error(per_draw(IWAE(4, "stl"), vae, x) - per_draw(IWAE(4), vae, x))
    assert (mean.abs() / error).max() > 10


def test_dreg_agrees_for_the_flow_s_own_parameters_and_for_an_encoder_that_makes_the_prior():
    """By batch instead of by draw, since these parameters are shared by all images."""
    posterior = strong_iaf()
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, posterior.num_features))
    prior = VampPrior(D, SHAPE, components=2, pseudo_mean=0.5, pseudo_std=0.5)
    vae, x = VAE(encoder, posterior, prior, linear_decoder(), UnitGaussian()), repeated_image(100)
    parameters = [*encoder.parameters(), *posterior.parameters(), prior.pseudo_inputs]
    differences = []
    for seed in range(30):
        both = (gradients(vae, call(IWAE(3, how), vae, x, seed).loss.mean(), parameters) for how in ("dreg", "plain"))
        differences.append(torch.cat([(ours - plain).flatten() for ours, plain in zip(*both, strict=True)]))
    assert_mean(torch.stack(differences), 0, sigmas=6)  # several hundred parameters, 30 batches


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("samples", [1, 6])
def test_decoder_and_prior_get_the_plain_gradient_whatever_the_encoder_gets(gradient, samples):
    vae, x = off_vae(images=4, spread=1), torch.randn(4, *SHAPE)
    vae.prior = MixtureOfGaussians(D, components=2)
    parameters = [*vae.decoder.parameters(), *vae.prior.parameters(), vae.encoder.features]
    *ours, ours_encoder = gradients(vae, call(IWAE(samples, gradient), vae, x).loss.sum(), parameters)
    *plain, plain_encoder = gradients(vae, call(IWAE(samples), vae, x).loss.sum(), parameters)
    torch.testing.assert_close(ours, plain)
    assert (ours_encoder - plain_encoder).abs().max() > 1e-3


@pytest.mark.parametrize("gradient, samples", [("stl", 1), ("dreg", 1), ("dreg", 16)])
def test_estimators_have_less_variance_near_the_optimum(gradient, samples):
    vae, images = off_vae(images=2000), 2000
    x = repeated_image(images)
    best = best_diagonal(vae, x[:1])
    vae.encoder.features.data = best + 0.05 * torch.randn(2 * D)
    vae.encoder.features.data = vae.encoder.features.data.repeat(images, 1)
    ours, plain = (per_draw(IWAE(samples, how), vae, x).var(0) for how in (gradient, "plain"))
    assert ours.sum() < plain.sum() / 2
    assert (ours < plain).all()


def best_diagonal(vae, x):
    """Features (2 D) of the diagonal Gaussian with the highest ELBO.

    It has the mean of the exact posterior, and as variances the inverses of its precision's diagonal.
    """
    S = exact_posterior(vae, x)
    return torch.cat([S.mean, -S.precision_matrix.diagonal().log()]).detach()


def test_evaluation_without_gradients_works_for_every_estimator():
    vae, x = off_vae(images=4), torch.randn(4, *SHAPE)
    with torch.no_grad():
        losses = [call(IWAE(3, gradient), vae, x).loss for gradient in ("plain", "stl", "dreg")]
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
