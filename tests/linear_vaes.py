"""Linear-Gaussian VAEs, whose log p(x) and exact posterior are known, and what is done with them in tests."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from cvae.models.vae import VAE
from cvae.posteriors import DiagonalGaussian, Posterior
from cvae.priors import StandardNormal

SHAPE, PIXELS, D, SIGMA = (1, 2, 3), 6, 3, 0.5


@pytest.fixture(autouse=True)
def double():
    """float64, in the tests of each module that imports it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class UnitGaussian(nn.Module):
    """p(x|z) = N(params, SIGMA^2 I)."""

    def forward(self, params):
        return Independent(Normal(params, SIGMA), 3)


class Exact(Posterior):
    """q(z|x) = N(features, scale_tril scale_tril^T), the same covariance for every x."""

    def __init__(self, covariance):
        super().__init__()
        self.scale_tril = nn.Parameter(torch.linalg.cholesky(covariance))

    def forward(self, features):
        return MultivariateNormal(features, scale_tril=self.scale_tril)


class Given(nn.Module):
    """An encoder that ignores the images: features that are free for each, so that each draw's gradient can be read."""

    def __init__(self, features):
        super().__init__()
        self.features = nn.Parameter(features)

    def forward(self, x):
        return self.features


def linear_decoder():
    return nn.Sequential(nn.Linear(D, PIXELS), nn.Unflatten(1, SHAPE))


def exact_vae():
    """p(z) = N(0, I), p(x|z) = N(W z + b, SIGMA^2 I) and its q(z|x) = N(S W^T (x - b) / SIGMA^2, S)."""
    encoder, decoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, D)), linear_decoder()
    W, b = decoder[0].weight.data, decoder[0].bias.data
    S = torch.linalg.inv(torch.eye(D) + W.T @ W / SIGMA**2)
    encoder[1].weight.data = S @ W.T / SIGMA**2
    encoder[1].bias.data = -encoder[1].weight.data @ b
    return VAE(encoder, Exact(S), StandardNormal(D), decoder, UnitGaussian())


def log_evidence(vae, x):
    """log p(x) (B,) in nats: x is N(b, W W^T + SIGMA^2 I)."""
    W, b = vae.decoder[0].weight, vae.decoder[0].bias
    return MultivariateNormal(b, W @ W.T + SIGMA**2 * torch.eye(PIXELS)).log_prob(x.flatten(1))


def off_vae(posterior=None, images=1, spread=0.3):
    """The same model with a posterior that is not exact, a row of features for each image; features are near 0."""
    posterior = posterior or DiagonalGaussian(D)
    features = (spread * torch.randn(posterior.num_features)).repeat(images, 1)
    return VAE(Given(features), posterior, StandardNormal(D), linear_decoder(), UnitGaussian())


def varied_vae(images):
    """`off_vae` with a diagonal posterior that differs from image to image."""
    vae = off_vae(images=images)
    nn.init.normal_(vae.encoder.features)
    return vae


def q_of(vae, x):
    """q(z|x) for images of any range."""
    return vae(x).latents[0].q


def repeated_image(images):
    return torch.randn(1, *SHAPE).expand(images, *SHAPE)


def call(objective, vae, x, seed=1, step=0):
    torch.manual_seed(seed)
    return objective(vae, x, None, step)


def mean_and_error(values):
    """The mean over the first axis and its standard error."""
    return values.mean(0), values.std(0) / len(values) ** 0.5


def assert_mean(values, expected, sigmas=4.5):
    """The mean is as expected within its standard error."""
    mean, error = mean_and_error(values.detach())
    off = ((mean - expected).abs() / error.clamp(min=1e-12)).max()
    assert off < sigmas, f"{mean} is {off:.1f} standard errors away from {expected}"


def gradients(vae, loss, of):
    vae.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in of]


def exact_posterior(vae, x):
    W, b = vae.decoder[0].weight, vae.decoder[0].bias
    S = torch.linalg.inv(torch.eye(D) + W.T @ W / SIGMA**2)
    return MultivariateNormal((x.flatten(1) - b)[0] @ W @ S / SIGMA**2, S)
