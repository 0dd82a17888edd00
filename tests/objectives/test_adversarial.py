"""Objectives with a critic of latents or of images: each part learns from its own terms, by value."""

import pytest
import torch
import torch.nn.functional as F
from conftest import config
from linear_vaes import SHAPE, D, call, gradients, off_vae, q_of, varied_vae
from torch import nn
from torch.distributions import Independent, Normal

from cvae.build import build_vae, make
from cvae.errors import ConfigError, UserError
from cvae.models.trace import Latent, Trace
from cvae.objectives import AAE, CIWAE, DIPVAE, ELBO, MIWAE, PIWAE, VAEGAN, Capacity, FactorVAE, Renyi
from cvae.objectives.critic import ImageCritic, PatchCritic, critic
from cvae.posteriors import Deterministic, DiagonalGaussian
from cvae.priors import NoPrior
from cvae.training.compatible import require_objective

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


def test_the_critic_of_an_aae_learns_slowly():
    """In parts of the model's rate (what the module makes of it: tests/test_contracts.py); others at the same."""
    assert AAE(D).lr_share == 0.1 and AAE(D, critic_lr=0.3).lr_share == 0.3
    assert OBJECTIVES["vae_gan"]().lr_share == ELBO().lr_share == 1
    with pytest.raises(ConfigError, match="^critic_lr=0: must be"):
        AAE(D, critic_lr=0)


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
    torch.testing.assert_close((terms.bound, terms.rate, terms.distortion), (elbo.elbo, elbo.rate, elbo.distortion))
    assert z.shape == drawn.shape and not torch.equal(z, drawn)
    learned = list(critic.parameters())  # which sees the images as they are, true ones too
    of_true, of_shown, of_made = (critic(images.detach())[1] for images in (x, shown, made))
    told_apart = (F.softplus(-of_true) + (F.softplus(of_shown) + F.softplus(of_made)) / 2) / 2
    expected = torch.autograd.grad(told_apart.mean(), learned)
    torch.testing.assert_close(torch.autograd.grad(terms.loss.mean(), learned), expected)


def test_what_is_decoded_has_the_classes_of_the_images(monkeypatch):
    vae, x, y, seen = varied_vae(4), torch.rand(4, *SHAPE), torch.arange(4), []
    trace, likelihood_of = vae(x), vae.likelihood_of
    monkeypatch.setattr(vae, "likelihood_of", lambda z, y=None: seen.append((z.shape, y)) or likelihood_of(z))
    monkeypatch.setattr(vae, "forward", lambda x, y: trace)
    OBJECTIVES["vae_gan"]()(vae, x, y)
    ((shape, labels),) = seen
    assert shape == (2, 4, D) and labels is y


class Pulled(DiagonalGaussian):
    """With a penalty, as codes have one."""

    def penalties(self, q):
        return {"pull": q.mean.square().sum(-1)}


@pytest.mark.parametrize("made", [
    *OBJECTIVES.values(), lambda: FactorVAE(D, hidden=8), DIPVAE, lambda: Capacity(3), lambda: MIWAE(2, 3),
    lambda: PIWAE(2, 3), lambda: CIWAE(4), lambda: Renyi(4), ELBO,
])  # fmt: skip
def test_penalties_of_the_model_count_and_are_shown(made):
    vae, x = off_vae(Pulled(D), 5), torch.rand(5, *SHAPE)
    nn.init.normal_(vae.encoder.features)
    objective = made()
    terms = call(objective, vae, x)
    pull = q_of(vae, x).mean.square().sum(-1)
    torch.testing.assert_close(terms.parts["pull"], pull)
    vae.posterior.penalties = lambda q: {}
    without = call(objective, vae, x)
    torch.testing.assert_close(terms.loss, without.loss + pull)
    torch.testing.assert_close(terms.bound, without.bound)


def test_critics_have_the_layers_of_their_papers():
    """Slopes, widths and strides: leaky ReLUs of 0.2; channels double up to eight times the first, then stride 1."""
    parts = critic(2, 5, 3)
    assert [(part.in_features, part.out_features) for part in parts[::2]] == [(2, 5), (5, 5), (5, 5), (5, 1)]
    assert [part.negative_slope for part in parts[1::2]] == [0.2] * 3
    for of, widths, strides in (
        (PatchCritic([1, 64, 64], 2, 4).layers, [1, 2, 4, 8, 16, 16, 1], [2, 2, 2, 2, 1, 1]),
        (ImageCritic([3, 16, 16], 2, 3).hidden[:-1], [3, 2, 4, 8], [2, 2, 2]),
    ):
        convolutions = [part for part in of if isinstance(part, nn.Conv2d)]
        assert [part.in_channels for part in convolutions] + [convolutions[-1].out_channels] == widths
        assert [part.stride[0] for part in convolutions] == strides
        assert all((part.kernel_size[0], part.padding[0]) == (4, 1) for part in convolutions)
        assert {part.negative_slope for part in of if isinstance(part, nn.LeakyReLU)} == {0.2}


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


def test_a_prior_that_nothing_would_train_is_refused():
    cfg = config("data=synthetic", "data.image_shape=[1,8,8]", "model=mlp", "objective=aae", "prior=vamp")
    with pytest.raises(UserError, match=r"^objective \(cvae.objectives.AAE\) and prior .* do not fit: nothing would"):
        require_objective(cfg, build_vae(cfg), make(cfg, "objective"))


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
