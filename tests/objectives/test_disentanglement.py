"""FactorVAE's total correlation, DIP-VAE's moments and the target of the rate, by value."""

import math

import pytest
import torch
from linear_vaes import (
    SHAPE,
    D,
    call,
    double,  # noqa: F401, a fixture
    gradients,
    off_vae,
    q_of,
    varied_vae,
)
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from cvae.errors import ConfigError
from cvae.models.trace import Latent, Trace
from cvae.objectives import DIPVAE, ELBO, Capacity, FactorVAE
from cvae.objectives.factor_vae import permuted
from cvae.posteriors import IAF, FullGaussian


class Drawn(nn.Module):
    """A model whose draws come from one distribution, whatever the images are."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x, y=None, samples=1, score=True):
        z = self.p.sample((1, len(x)))
        px = Independent(Normal(torch.zeros(1, len(x), *SHAPE), 1.0), 3)
        return Trace((Latent(z, z.sum(-1) * 0, z.sum(-1) * 0, self.p, self.p),), px, {})


def test_total_correlation_of_a_gaussian():
    """The exact one is -log(det R) / 2, R the matrix of correlations."""
    torch.manual_seed(0)
    R = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 1.0]])
    scale = torch.tensor([0.5, 1.0, 2.0])  # which changes nothing
    vae = Drawn(MultivariateNormal(torch.ones(3), R * scale * scale[:, None]))
    objective, x = FactorVAE(3, hidden=32, layers=2), torch.zeros(500, *SHAPE)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        objective(vae, x).loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        told = objective(vae, torch.zeros(20000, *SHAPE)).parts["total_correlation"].mean()
    exact = -R.logdet() / 2
    assert exact > 0.5 and told.item() == pytest.approx(exact.item(), abs=0.06)


def test_model_and_critic_learn_apart():
    """A critic that is frozen leaves the model's gradient as it is; the critic's is of its own term alone."""
    vae, x, objective = varied_vae(6), torch.randn(6, *SHAPE), FactorVAE(D, 7, hidden=8)
    parameters = list(vae.parameters())
    ours = gradients(vae, call(objective, vae, x).loss.mean(), parameters)
    of_critic = [p.grad.clone() for p in objective.parameters()]
    objective.requires_grad_(False)
    frozen = gradients(vae, call(objective, vae, x).loss.mean(), parameters)
    torch.testing.assert_close(ours, frozen)
    plain = gradients(vae, call(ELBO(), vae, x).loss.mean(), parameters)
    assert (ours[0] - plain[0]).abs().max() > 1e-4
    objective.requires_grad_(True)
    term = call(objective, vae, x).parts["critic"].mean()
    of_model = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in of_model)  # the model learns nothing from the critic's term
    torch.testing.assert_close(of_critic, list(torch.autograd.grad(term, list(objective.parameters()))))


def test_factor_vae_by_hand():
    vae, x, objective = varied_vae(6), torch.randn(6, *SHAPE), FactorVAE(D, 7, hidden=8)
    terms = call(objective, vae, x)
    torch.manual_seed(1)
    z = vae(x).latents[0].z[0]
    joint, product = objective.critic(z)[:, 0], objective.critic(permuted(z))[:, 0]
    told_apart = -(joint.sigmoid().log() + (1 - product.sigmoid()).log()) / 2
    torch.testing.assert_close(terms.parts["total_correlation"], joint)
    torch.testing.assert_close(terms.parts["critic"], told_apart)
    torch.testing.assert_close(terms.loss, terms.distortion + terms.rate + 7 * joint + told_apart)


def test_permuted_in_each_dimension_by_itself():
    z = torch.arange(40.0).reshape(10, 4)
    mixed = permuted(z)
    torch.testing.assert_close(mixed.sort(0).values, z)
    orders = [tuple(column.tolist()) for column in (mixed // 4).T]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("full", [False, True])
def test_dip_vae_by_moments(full):
    vae, x = varied_vae(5), torch.randn(5, *SHAPE)
    if full:
        vae = off_vae(FullGaussian(D), images=5)
        nn.init.normal_(vae.encoder.features)
    q = q_of(vae, x)
    of_means = torch.cov(q.mean.T, correction=0)
    inner = q.covariance_matrix if full else torch.diag_embed(q.variance)
    for variant, C in ((1, of_means), (2, of_means + inner.mean(0))):
        off = sum(C[i, j] ** 2 for i in range(D) for j in range(D) if i != j)
        expected = 3 * off + 5 * sum((C[i, i] - 1) ** 2 for i in range(D))
        terms = call(DIPVAE(variant, 3, 5), vae, x)
        torch.testing.assert_close(terms.parts["dip"], expected.expand(5))
        torch.testing.assert_close(terms.loss, terms.distortion + terms.rate + expected)


def test_the_covariance_of_dip_vae_ii_is_that_of_the_draws():
    vae, x = varied_vae(5), torch.randn(5, *SHAPE)
    draws = q_of(vae, x).sample((40000,)).flatten(0, 1)
    C = torch.cov(draws.T)
    expected = (C.square().sum() - C.diagonal().square().sum()) + 2 * (C.diagonal() - 1).square().sum()
    assert DIPVAE(2, 1, 2).penalty(q_of(vae, x)).item() == pytest.approx(expected.item(), rel=0.03)


def test_capacity_by_hand():
    vae, x = varied_vae(5), torch.randn(5, *SHAPE)
    for step, target in ((0, 0), (4, 2), (99, 5)):
        terms = call(Capacity(gamma=3, capacity=5, steps=10), vae, x, step=step)
        torch.testing.assert_close(terms.loss, terms.distortion + 3 * abs(terms.rate.mean() - target))
        assert terms.parts["capacity"].tolist() == [target] * 5 and not math.isclose(terms.rate.mean().item(), target)


def test_the_target_is_of_all_groups_of_latents_together():
    class Two(Drawn):
        def forward(self, x, y=None, samples=1, score=True):
            trace = super().forward(x)
            (one,) = trace.latents
            rates = torch.arange(len(x)).double()[None]
            latents = one._replace(log_q=one.log_q + rates), one._replace(log_q=one.log_q + 4)
            return trace._replace(latents=latents)

    terms = Capacity(gamma=3, capacity=5, steps=10)(Two(MultivariateNormal(torch.zeros(2), torch.eye(2))), torch.zeros(
        5, *SHAPE
    ), step=10)  # fmt: skip
    torch.testing.assert_close(terms.rate, torch.arange(5).double() + 4)
    torch.testing.assert_close(terms.loss, terms.distortion + 3 * (2 + 4 - 5))


def test_what_is_refused():
    x = torch.randn(2, *SHAPE)
    with pytest.raises(ConfigError, match="^objective=dip_vae: must be another objective, or posterior=diagonal"):
        DIPVAE()(off_vae(IAF(D), 2), x)
    with pytest.raises(ConfigError, match=f"^objective.latent_dim=9: must be model.latent_dim, {D}$"):
        FactorVAE(9)(off_vae(images=2), x)
