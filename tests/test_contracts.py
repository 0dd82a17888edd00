"""Objectives and evaluation know a model by its Trace alone: right for hierarchies, codes, penalties and critics."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import kl_divergence
from torch.func import functional_call
from toys import F64, Committed, TwoGroups, categorical_vae, joint

from cvae.errors import ConfigError
from cvae.evaluation import Settings, evaluate
from cvae.likelihoods import Gaussian
from cvae.models.vae import VAE
from cvae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, BetaTCVAE, InfoVAE, Objective, Renyi, Terms
from cvae.posteriors import DiagonalGaussian
from cvae.priors import StandardNormal
from cvae.training.module import VAEModule


def images(count):
    return torch.randn(count, 1, 2, 3, dtype=F64)


def binary(count):
    return torch.randint(2, (count, 1, 2, 2)).double()


# Several groups of latents


@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO(3), IWAE(1), IWAE(5), IWAE(5, "stl"), MIWAE(2, 2), CIWAE(4), Renyi(4)],
    ids=lambda o: type(o).__name__,
)
def test_two_groups_with_the_exact_posterior_have_the_evidence_in_every_weight(objective):
    vae, x = TwoGroups(), images(5)
    terms = objective(vae, x)
    for bound in (terms.bound, terms.elbo, -terms.loss):
        torch.testing.assert_close(bound, vae.log_evidence(x))
    torch.testing.assert_close(terms.parts["rate_1"] + terms.parts["rate_2"], terms.rate)


def test_rates_of_two_groups_in_closed_form():
    """That of the top group is exact, that of the lower one a mean over the draws above."""
    vae, x = TwoGroups(widen=1.4), images(1)
    closed = ELBO(20000, kl="closed_form")(vae, x)
    sampled = ELBO(20000)(vae, x)
    top = vae(x).latents[0]
    torch.testing.assert_close(closed.parts["rate_1"], kl_divergence(top.q, top.p))
    for name in ("rate_1", "rate_2"):
        torch.testing.assert_close(closed.parts[name], sampled.parts[name], atol=0.08, rtol=0)
    terms = ELBO(beta=3, kl="closed_form")(vae, x)
    torch.testing.assert_close(terms.loss, terms.distortion + 3 * (terms.parts["rate_1"] + terms.parts["rate_2"]))


def test_path_gradients_of_two_groups_vanish_at_the_exact_posterior():
    vae, x = TwoGroups(), images(3)
    for objective, zero in ((IWAE(4, "stl"), True), (IWAE(4), False)):
        (gradient,) = torch.autograd.grad(objective(vae, x).loss.sum(), [vae.shift])
        assert (gradient.abs().max() < 1e-10) == zero


def test_nll_of_two_groups():
    vae, x = TwoGroups(), images(130)
    exact = vae.log_evidence(x)
    figures = evaluate(vae, [(x, None)], Settings(samples=12))
    assert figures["nll"].value == pytest.approx(-exact.mean().item(), rel=1e-9)
    assert figures["elbo"].value == pytest.approx(exact.mean().item(), rel=1e-9)
    wide = TwoGroups(widen=1.5)
    wide.load_state_dict(vae.state_dict())
    nlls = [evaluate(wide, [(x, None)], Settings(samples=samples))["nll"].value for samples in (1, 10, 1000)]
    assert nlls[0] > nlls[1] > nlls[2] > -exact.mean().item() - 0.02
    assert nlls[2] == pytest.approx(-exact.mean().item(), abs=0.02)


def test_active_units_and_aggregate_of_two_groups():
    """Active units are those of both groups; the aggregate posterior is the top group's."""
    vae, x = TwoGroups(), images(60) * 3
    figures = evaluate(vae, [(x, None)], Settings(samples=40))
    assert figures["active_units"].value == 5 and figures["active_units"].unit == "of 5 latents"
    first = ELBO()(vae, x).parts["rate_1"].mean().item()
    assert figures["aggregate_rate"].value == pytest.approx(first, abs=1.0)
    total = figures["mutual_information"].value + figures["aggregate_kl"].value
    assert total == pytest.approx(figures["aggregate_rate"].value)


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        (IWAE(3, "dreg"), "objective.gradient"),
        (BetaTCVAE(), "objective"),
        (InfoVAE(), "objective"),
        (PIWAE(2, 2), "objective"),
    ],
    ids=["dreg", "beta_tcvae", "infovae", "piwae"],
)
def test_what_makes_no_sense_for_several_groups_is_refused(objective, key):
    objective.prepare(10)
    with pytest.raises(ConfigError, match="2 groups of latents") as error:
        objective(TwoGroups(), images(4))
    assert error.value.key == key


# Codes


def test_bounds_of_a_categorical_latent_against_the_sum_over_codes():
    vae, x = categorical_vae(), binary(1)
    log_joint, log_q = joint(vae, x)
    evidence = log_joint.logsumexp(0)
    elbo = (log_q.exp() * (log_joint - log_q)).sum(0)
    many = x.expand(40000, -1, -1, -1)
    bounds = {1: ELBO()(vae, many).bound}
    bounds |= {samples: IWAE(samples)(vae, many).bound for samples in (2, 10)}
    means = {samples: bound.mean() for samples, bound in bounds.items()}
    error = bounds[1].std() / 200
    assert abs(means[1] - elbo) < 4.5 * error and elbo < evidence - 10 * error
    assert means[1] < means[2] < means[10] < evidence and evidence - means[10] < (evidence - elbo) / 3
    closed = ELBO(kl="closed_form")(vae, x)
    torch.testing.assert_close(closed.rate, (log_q.exp() * (log_q - vae.p_z().logits[:, None])).sum(0))


def test_nll_of_a_categorical_latent():
    vae, x = categorical_vae(), binary(8)
    exact = -joint(vae, x)[0].logsumexp(0).mean().item()
    figures = evaluate(vae, [(x, None)], Settings(samples=5000))
    assert figures["nll"].value == pytest.approx(exact, abs=0.01)
    assert figures["elbo"].value < -exact
    by_codes = vae.encode(x).probs.var(0, correction=0)
    assert figures["active_units"].value == (by_codes > 0.01).sum()


def test_the_decoder_and_the_prior_learn_from_codes():
    """The gradient of the ELBO at drawn codes: no gradient goes through the draw, all else is there."""
    vae, x = categorical_vae(), binary(6)
    ELBO()(vae, x).loss.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (*vae.decoder.parameters(), vae.prior.logits))


# Penalties


@pytest.mark.parametrize(
    "objective",
    [ELBO(), IWAE(3), MIWAE(2, 2), PIWAE(2, 2), CIWAE(2), Renyi(2), InfoVAE(), BetaTCVAE()],
    ids=lambda o: type(o).__name__,
)
def test_penalties_are_in_the_loss_and_not_in_the_bound(objective):
    objective.prepare(100)
    encoder, decoder = (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2))),
    )
    vae = VAE(encoder, DiagonalGaussian(2), StandardNormal(2), decoder, Gaussian((1, 2, 2))).double()
    x = binary(5)
    penalty = encoder(x).square().sum(-1)
    torch.manual_seed(1)
    plain = objective(vae, x)
    torch.manual_seed(1)
    penalized = objective(Committed(vae), x)
    torch.testing.assert_close(penalized.loss, plain.loss + penalty)
    torch.testing.assert_close(penalized.parts["commitment"], penalty)
    for name in ("bound", "rate", "distortion"):
        torch.testing.assert_close(getattr(penalized, name), getattr(plain, name))


# A critic


class Adversarial(Objective):
    """The ELBO's distortion, and a learned critic for the rate (Makhzani et al. 2016): one backward for both."""

    def __init__(self):
        super().__init__()
        self.critic = nn.Linear(2, 1)

    def forward(self, vae, x, y=None, step=0):
        trace = vae(x, y)
        latent = trace.latents[0]
        z, drawn = latent.z[0], latent.p.sample((len(x),))
        distortion, rate = -trace.px.log_prob(x)[0], (latent.log_q - latent.log_p)[0]
        told_apart = F.softplus(-self.critic(drawn)) + F.softplus(self.critic(z.detach()))  # for the critic alone
        frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
        fooled = F.softplus(-functional_call(self.critic, frozen, (z,)))  # for the encoder alone
        loss = distortion + (told_apart + fooled).squeeze(-1)
        return Terms(loss, -distortion - rate, rate, distortion, {"critic": told_apart.squeeze(-1)})


def test_a_critic_is_a_second_parameter_group_of_the_one_optimizer():
    encoder, decoder = (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2))),
    )
    vae = VAE(encoder, DiagonalGaussian(2), StandardNormal(2), decoder, Gaussian((1, 2, 2)))
    objective, x = Adversarial(), binary(6).float()
    module = VAEModule(
        vae, objective, torch.optim.SGD, lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1)
    )
    data = SimpleNamespace(as_seen=lambda batch: batch, augment=lambda pixels: pixels)
    module.trainer = SimpleNamespace(global_step=0, datamodule=data)
    (optimizer,), _ = module.configure_optimizers()
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(list(vae.parameters())), 2]
    torch.manual_seed(2)
    module.loss(x, torch.zeros(6), 0)[0].backward()
    torch.manual_seed(2)
    terms = objective(vae, x)
    of_critic = torch.autograd.grad(terms.parts["critic"].mean(), list(objective.parameters()))
    torch.testing.assert_close(
        tuple(p.grad for p in objective.parameters()), of_critic
    )  # the encoder's term adds nothing
    torch.manual_seed(2)
    module.window.add(module.loss(x, torch.zeros(6), 0)[1])
    assert module.window.means()["critic"] == pytest.approx(terms.parts["critic"].mean().item())
    before = [p.clone() for p in module.parameters()]
    optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
