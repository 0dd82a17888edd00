"""Objectives with a critic of latents or of images: each part learns from its own terms, by value."""

import pytest
import torch
import torch.nn.functional as F
from linear_vaes import SHAPE, D, call, gradients, off_vae, varied_vae
from torch import nn
from torch.distributions import Independent, Normal

from cvae.errors import ConfigError
from cvae.models.trace import Latent, Trace
from cvae.objectives import AAE, ELBO, VAEGAN
from cvae.posteriors import Deterministic
from cvae.priors import NoPrior

OBJECTIVES = {"aae": lambda: AAE(D, weight=7, hidden=8), "vae_gan": lambda: VAEGAN(SHAPE, 7, width=3, layers=1)}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]()


def test_model_and_critic_learn_apart(objective):
    """A critic that is frozen leaves the model's gradient as it is; the critic's is of its own term alone."""
    vae, x = varied_vae(6), torch.randn(6, *SHAPE)
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
    vae.requires_grad_(False)
    objective.zero_grad()
    call(objective, vae, x).loss.mean().backward()
    torch.testing.assert_close(of_critic, [p.grad for p in objective.parameters()])


def test_aae_by_hand():
    vae, x, objective = varied_vae(6), torch.randn(6, *SHAPE), OBJECTIVES["aae"]()
    terms, elbo = call(objective, vae, x), call(ELBO(), vae, x)
    torch.manual_seed(1)
    z = vae(x).latents[0].z[0]
    drawn = torch.randn(6, D)  # of the prior, next in the generator
    of_images, of_prior = objective.critic(z)[:, 0].sigmoid(), objective.critic(drawn)[:, 0].sigmoid()
    torch.testing.assert_close(terms.parts["fooled"], -of_images.log())
    torch.testing.assert_close(terms.parts["critic"], -(of_prior.log() + (1 - of_images).log()) / 2)
    expected = elbo.distortion + 7 * terms.parts["fooled"] + terms.parts["critic"]
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(terms.bound, elbo.elbo)
    without = off_vae(Deterministic(D), 6)
    terms = call(objective, without, x)
    distortion = -without(x).px.log_prob(x)[0]
    torch.testing.assert_close(terms.distortion, distortion)
    torch.testing.assert_close(terms.loss, distortion + 7 * terms.parts["fooled"] + terms.parts["critic"])
    assert terms.bound is None and terms.rate is None


class Drawn(nn.Module):
    """A model whose draws come from q, whatever the images are."""

    def __init__(self, q, p):
        super().__init__()
        self.q, self.p = q, p

    def forward(self, x, y=None, samples=1, score=True):
        z = self.q.sample((1, len(x)))
        px = Independent(Normal(torch.zeros(1, len(x), *SHAPE), 1.0), 3)
        return Trace((Latent(z, z.sum(-1) * 0, z.sum(-1) * 0, self.q, self.p),), px, {})


def test_the_critic_learns_the_quotient_of_densities():
    """Its logit is log p(z) - log q(z) at its optimum, here that of two Gaussians."""
    torch.manual_seed(0)
    p = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    q = Independent(Normal(torch.tensor([0.8, 0.0]), torch.tensor([0.7, 1.0])), 1)
    vae, objective, x = Drawn(q, p), AAE(2, hidden=32), torch.zeros(500, *SHAPE)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        objective(vae, x).loss.mean().backward()
        optimizer.step()
    z = q.sample((4000,))
    with torch.no_grad():
        off = objective.critic(z)[:, 0] - (p.log_prob(z) - q.log_prob(z))
    assert off.abs().mean() < 0.15 and (p.log_prob(z) - q.log_prob(z)).std() > 0.5


def test_vae_gan_by_hand():
    vae, x, objective = varied_vae(6), torch.rand(6, *SHAPE), OBJECTIVES["vae_gan"]()
    terms, elbo = call(objective, vae, x), call(ELBO(), vae, x)
    torch.manual_seed(1)
    trace = vae(x)
    z, drawn = trace.latents[0].z[0], torch.randn(6, D)
    shown, made = trace.px.mean[0], vae.decode(drawn).mean
    critic = objective.critic
    hidden = [critic.hidden(2 * images - 1) for images in (x, shown)]
    of_true, of_shown, of_made = (critic(images)[1] for images in (x, shown, made))
    similarity = (hidden[0] - hidden[1]).square().sum(-1) / 2
    fooled = (F.softplus(-of_shown) + F.softplus(-of_made)) / 2
    told_apart = (F.softplus(-of_true) + (F.softplus(of_shown) + F.softplus(of_made)) / 2) / 2
    for name, value in (("similarity", similarity), ("fooled", fooled), ("critic", told_apart)):
        torch.testing.assert_close(terms.parts[name], value)
    torch.testing.assert_close(terms.loss, elbo.rate + similarity + 7 * fooled + told_apart)
    torch.testing.assert_close(terms.elbo, elbo.elbo)
    assert z.shape == drawn.shape and not torch.equal(z, drawn)


def test_by_the_critics_word_the_decoder_alone_learns():
    vae, x = varied_vae(6), torch.rand(6, *SHAPE)
    terms = call(OBJECTIVES["vae_gan"](), vae, x)
    encoder, decoder = list(vae.encoder.parameters()), list(vae.decoder.parameters())
    of = {
        name: [
            gradient is not None and gradient.abs().max() > 0
            for part in (encoder, decoder)
            for gradient in torch.autograd.grad(terms.parts[name].sum(), part, retain_graph=True, allow_unused=True)[:1]
        ]
        for name in ("similarity", "fooled", "critic")
        if terms.parts[name].requires_grad
    }
    assert of == {"similarity": [True, True], "fooled": [False, True], "critic": [False, False]}


def test_what_is_refused():
    x = torch.randn(2, *SHAPE)
    with pytest.raises(ConfigError, match=f"^objective.latent_dim=9: must be model.latent_dim, {D}$"):
        AAE(9)(off_vae(images=2), x)
    vae = off_vae(Deterministic(D), 2)
    vae.prior = NoPrior(D)
    with pytest.raises(ConfigError, match="^objective=aae: must be autoencoder or rae with prior=none"):
        AAE(D)(vae, x)
    with pytest.raises(ConfigError, match="^layers=4: must be at most 3 for images of 8x12$"):
        VAEGAN([1, 8, 12], layers=4)
