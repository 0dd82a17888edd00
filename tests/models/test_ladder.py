"""A model with several groups of latents: against models whose evidence is known, and step by step by hand."""

import json
import math

import pytest
import torch
from conftest import config
from tiny import QUIET, TINY
from torch import nn
from torch.distributions import MultivariateNormal, Normal

import cvae
from cvae.build import build_data, build_vae
from cvae.evaluation import Settings, evaluate
from cvae.likelihoods import Bernoulli, Gaussian
from cvae.models.ladder import Ladder, kind_of, q_and_p
from cvae.models.vae import VAE
from cvae.networks.ladder import BottomUp, Stage, TopDown, ladder
from cvae.objectives import ELBO, IWAE
from cvae.posteriors import DiagonalGaussian, Posterior
from cvae.priors import MixtureOfGaussians, StandardNormal, VampPrior
from cvae.runs.directory import Run
from cvae.training.train import train

F64 = torch.float64


def eye(size):
    return torch.eye(size, dtype=F64)


class Calls(Posterior):
    """A posterior of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, features):
        return self.function(features)


class LinearGroup(nn.Module):
    """z1 ~ N(A z2, I/4), of three latents, with its exact posterior given z2 and x ~ N(W z1, I/4)."""

    def __init__(self, A, W):
        super().__init__()
        self.A, self.W = nn.Parameter(A), nn.Parameter(W)
        self.shift = nn.Parameter(torch.zeros(3, dtype=F64))  # of q alone

    def prior(self, state):
        mean = state.flatten(1) @ self.A.T
        return as_map(mean), as_map(torch.full_like(mean, math.log(0.25)))

    def posterior(self, state, seen, prior):
        covariance = torch.linalg.inv(4 * eye(3) + 4 * self.W.T @ self.W)  # diagonal: W's columns are orthogonal
        mean = (4 * prior[0].flatten(1) + 4 * seen.flatten(1) @ self.W) @ covariance + self.shift
        return as_map(mean), as_map(covariance.diagonal().log().expand_as(mean))

    def forward(self, state, z):
        return as_map(z.reshape(len(state), 3))


def as_map(rows):
    return rows[:, :, None, None]


def linear_ladder():
    """z2 ~ N(0, I), of two latents, z1, and x (1, 2, 3): q is the exact posterior. And x -> log p(x)."""
    A, W = torch.randn(3, 2, dtype=F64), torch.linalg.qr(torch.randn(6, 3, dtype=F64))[0] * torch.tensor([1.0, 2, 3])
    given_z2 = W @ W.T / 4 + eye(6) / 4  # covariance of x
    of_x = torch.linalg.inv(given_z2)
    covariance = torch.linalg.inv(eye(2) + A.T @ W.T @ of_x @ W @ A)
    group = LinearGroup(A, W)
    last = nn.Linear(3, 6, bias=False, dtype=F64)
    last.weight.data = W
    encoder = BottomUp([nn.Sequential(nn.Flatten(), nn.Unflatten(1, (6, 1, 1)))], nn.Flatten())
    start, end = nn.Unflatten(1, (2, 1, 1)), nn.Sequential(nn.Flatten(), last, nn.Unflatten(1, (1, 2, 3)))
    decoder = TopDown(start, [Stage(nn.Identity(), [group])], end)
    posterior = Calls(lambda x: MultivariateNormal(x @ of_x @ W @ A @ covariance, covariance))
    vae = Ladder(encoder, posterior, StandardNormal(2).double(), decoder, Gaussian((1, 2, 3), 0.5))
    marginal = MultivariateNormal(torch.zeros(6, dtype=F64), W @ A @ A.T @ W.T + given_z2)
    return vae, lambda x: marginal.log_prob(x.flatten(1))


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWAE(1), IWAE(5), IWAE(5, "stl")], ids=repr)
def test_with_the_exact_posterior_every_weight_is_the_evidence(objective):
    vae, log_px = linear_ladder()
    x = torch.randn(4, 1, 2, 3, dtype=F64) * 2
    terms = objective(vae, x)
    for bound in (terms.bound, terms.elbo, -terms.loss):
        torch.testing.assert_close(bound, log_px(x))
    torch.testing.assert_close(terms.parts["rate_1"] + terms.parts["rate_2"], terms.rate)
    figures = evaluate(vae, [(x, None)], Settings(samples=12))
    assert figures["nll"].value == pytest.approx(-log_px(x).mean().item(), rel=1e-9)
    assert figures["effective_samples"].value == pytest.approx(12)


def test_path_gradients_vanish_at_the_exact_posterior():
    vae, _ = linear_ladder()
    x, group = torch.randn(4, 1, 2, 3, dtype=F64), vae.decoder.groups[0]
    for objective, zero in ((IWAE(4, "stl"), True), (IWAE(4), False)):
        (gradient,) = torch.autograd.grad(objective(vae, x).loss.sum(), [group.shift])
        assert (gradient.abs().max() < 1e-10) == zero


def test_without_the_score_the_gradient_comes_through_all_draws_and_nothing_else():
    """It is the plain one less that of log q at fixed draws of all groups; the values stay."""
    vae, x = model(), images(3)
    torch.manual_seed(1)
    plain = vae(x, None, 2)
    torch.manual_seed(1)
    without = vae(x, None, 2, score=False)
    _, maps = vae.encoder.features_and_maps(x)
    draws, scores = [latent.z.detach() for latent in plain.latents], []

    def fixed(group, stage, state):
        z = draws[len(scores) + 1]
        scores.append(q_and_p(group, state, maps[stage], 2)[0].log_prob(z))
        return z.reshape(6, 3, *state.shape[2:])

    way_down(vae.decoder, draws[0].reshape(6, 2), fixed)
    parameters = [
        *vae.decoder.groups[0].q.parameters(),
        *vae.encoder.parameters(),
        *vae.decoder.groups[0].p.parameters(),
    ]
    gradients = lambda of: torch.autograd.grad(of.sum(), parameters, retain_graph=True, allow_unused=True)
    for number, score in enumerate(scores, 1):
        torch.testing.assert_close(without.latents[number].log_q, plain.latents[number].log_q)
        torch.testing.assert_close(without.latents[number].log_p, plain.latents[number].log_p)
        three = [gradients(of) for of in (without.latents[number].log_q, plain.latents[number].log_q, score)]
        for ours, whole, fixed_draws in zip(*three, strict=True):
            zero = torch.zeros(()) if whole is None else torch.zeros_like(whole)
            ours, whole, fixed_draws = (zero if part is None else part for part in (ours, whole, fixed_draws))
            torch.testing.assert_close(ours, whole - fixed_draws)
    torch.testing.assert_close(without.px.mean, plain.px.mean)


# Step by step


def way_down(decoder, z, choose):
    """The decoder's parameters where each group takes the z that `choose(group, stage, state)` says."""
    state = decoder.start(z)
    for larger, group, stage in decoder.steps:
        state = larger(state)
        state = group(state, choose(group, stage, state))
    return decoder.end(state)


def model(classes=0, dtype=F64):
    """Images (1, 4, 6); a top group of two latents, two groups at 2x3, one at 4x6; nothing is near its start."""
    encoder, decoder = ladder((1 + classes, 4, 6), 2 + classes, 4, 1, ["2x2", "4x1"], channels=3, width=5)
    vae = Ladder(
        encoder, DiagonalGaussian(2), MixtureOfGaussians(2, components=2), decoder, Bernoulli((1, 4, 6)), classes
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vae.to(dtype)


def images(count, dtype=F64):
    return torch.randint(2, (count, 1, 4, 6)).to(dtype)


SIZES = [(2, 3), (2, 3), (4, 6)]
STAGES = [0, 0, 1]


@pytest.mark.parametrize("classes", [0, 4])
@torch.no_grad()
def test_a_trace_by_hand(classes):
    """Row by row: draw k of image b, by its own state and the map of its own image."""
    vae, x = model(classes), images(3)
    y = torch.tensor([2, 0, 1]) if classes else None
    trace = vae(x, y, 2)
    assert [latent.z.shape for latent in trace.latents] == [(2, 3, 2), (2, 3, 18), (2, 3, 18), (2, 3, 72)]
    planes = torch.eye(4, dtype=F64)[y][:, :, None, None].expand(-1, -1, 4, 6) if classes else x[:, :0]
    features, maps = vae.encoder.features_and_maps(torch.cat([x, planes], 1))
    top, decoder = trace.latents[0], vae.decoder
    torch.testing.assert_close(top.q.mean, features[:, :2])
    torch.testing.assert_close(top.log_p, vae.prior(None).log_prob(top.z))
    torch.testing.assert_close(top.log_q, top.q.log_prob(top.z))
    for k in range(2):
        for b in range(3):
            label = torch.eye(4, dtype=F64)[y[b]] if classes else top.z[0, 0, :0]
            state, at = decoder.start(torch.cat([top.z[k, b], label])[None]), -1
            for number, group in enumerate(decoder.groups):
                if STAGES[number] != at:
                    at = STAGES[number]
                    state = decoder.stages[at].enlarge(state)
                latent = trace.latents[number + 1]
                prior = group.prior(state)
                posterior = group.posterior(state, maps[at][b : b + 1], prior)
                z = latent.z[k, b]
                for log_prob, (mean, logvar) in ((latent.log_p, prior), (latent.log_q, posterior)):
                    expected = Normal(mean.flatten(), (logvar.flatten() / 2).exp()).log_prob(z).sum()
                    torch.testing.assert_close(log_prob[k, b], expected)
                torch.testing.assert_close(latent.p.mean[k, b], prior[0].flatten())
                torch.testing.assert_close(latent.q.mean[k, b], posterior[0].flatten())
                state = group(state, z.view(1, 3, *SIZES[number]))
            torch.testing.assert_close(trace.px.mean[k, b], decoder.end(state)[0].sigmoid())
    assert trace.px.batch_shape == (2, 3) and trace.penalties == {}


def test_draws_come_from_q_and_carry_gradients():
    vae, x = model(), images(1)
    for latent in vae(x, None, 1000).latents[1:]:
        noise = (latent.z - latent.q.mean) / latent.q.stddev
        assert abs(noise.mean()) < 0.06 and abs(noise.var() - 1) < 0.1
    loss = ELBO()(vae, x).loss.sum()
    gradients = torch.autograd.grad(loss, list(vae.parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_rates_of_the_groups_in_closed_form_and_by_draws():
    vae, x = model(), images(2)
    terms = ELBO(400)(vae, x)
    vae.prior = StandardNormal(2).double()
    closed, sampled = ELBO(400, "closed_form")(vae, x), ELBO(400)(vae, x)
    for name in ("rate_1", "rate_2", "rate_3", "rate_4"):
        torch.testing.assert_close(closed.parts[name], sampled.parts[name], rtol=0.1, atol=0.5)
    for of in (terms, closed, sampled):
        torch.testing.assert_close(sum(of.parts[f"rate_{number}"] for number in range(1, 5)), of.rate)


@pytest.mark.parametrize("classes", [0, 4])
@torch.no_grad()
def test_samples_reconstructions_and_decoding_by_hand(classes):
    vae, y = model(classes), torch.tensor([2, 0, 1]) if classes else None
    x = images(3)
    rows = lambda z: z if y is None else torch.cat([z, torch.eye(4, dtype=F64)[y]], 1)
    for temperature in (1, 0.5, 0):
        torch.manual_seed(5)
        sampled = vae.sample(3, y, temperature)
        torch.manual_seed(5)
        z = vae._from_prior(3, temperature)

        def noisy(group, stage, state, scale=temperature):
            mean, logvar = group.prior(state)
            return mean + scale * (logvar / 2).exp() * torch.randn_like(mean)

        torch.testing.assert_close(sampled, way_down(vae.decoder, rows(z), noisy).sigmoid())
    torch.testing.assert_close(vae.decode(z, y).mean, sampled)  # all below at the means, as with no noise
    torch.manual_seed(5)
    reconstructed = vae.reconstruct(x, y)
    torch.manual_seed(5)
    torch.testing.assert_close(reconstructed, vae(x, y).px.mean[0])
    torch.testing.assert_close(vae.encode(x, y).mean, vae(x, y).latents[0].q.mean)


@torch.no_grad()
def test_what_each_group_decides():
    """Row l: the groups above as in the other rows, group l by its noise, those below at their means."""
    vae = model()
    torch.manual_seed(6)
    rows = vae.variations(5)
    assert rows.shape == (4, 5, 1, 4, 6) and vae.groups == 4
    torch.manual_seed(6)
    z = vae._from_prior(5, 1.0)
    torch.testing.assert_close(rows[0], vae.decode(z).mean)
    alike = {}
    for varied in (1, 2, 3):

        def choose(group, stage, state, varied=varied):
            mean, logvar = group.prior(state)
            number = vae.decoder.groups.index(group) + 1
            if number > varied:
                return mean
            if number < varied and number not in alike:
                alike[number] = torch.randn_like(mean[:1])
            noise = torch.randn_like(mean) if number == varied else alike[number]
            return mean + (logvar / 2).exp() * noise

        torch.testing.assert_close(rows[varied], way_down(vae.decoder, z[:1].expand(5, -1), choose).sigmoid())
        assert (rows[varied].std(0) > 1e-4).any()
    with pytest.raises(ValueError, match="knows no classes"):
        vae.variations(5, torch.zeros(5).long())


def test_labels_and_images_are_checked():
    """As those of every model."""
    vae, y = model(4), torch.tensor([2, 0, 1])
    calls = {
        "give y": (lambda: vae(images(3)), lambda: vae.sample(3), lambda: vae.variations(3)),
        r"must be \(2,\)": (lambda: vae.sample(2, y), lambda: vae.variations(2, y)),
        "divide grey levels": (lambda: vae.reconstruct(images(3) * 3, y),),
        "num=0": (lambda: vae.sample(0, y),),
    }
    for message, refused in calls.items():
        for call in refused:
            with pytest.raises(ValueError, match=message):
                call()


def test_penalties_of_the_posterior_of_the_top_group():
    class Committed(DiagonalGaussian):
        def penalties(self, q):
            return {"commitment": q.mean.square().sum(-1)}

    vae, x = model(), images(3)
    vae.posterior = Committed(2)
    trace = vae(x, None, 2)
    torch.testing.assert_close(trace.penalties["commitment"], trace.latents[0].q.mean.square().sum(-1))


def test_a_prior_that_encodes_sees_the_posterior_of_the_top_group():
    vae = model()
    vae.prior = VampPrior(2, (1, 4, 6), components=3).double()
    pseudo = vae.prior.pseudo_inputs.clamp(0, 1)
    torch.testing.assert_close(vae.p_z().component_distribution.mean, vae.infer(pseudo).mean)
    trace = vae(images(3), None, 2)
    torch.testing.assert_close(trace.latents[0].log_p, vae.p_z().log_prob(trace.latents[0].z))


def test_a_ladder_in_half_precision():
    """Densities in float32, as everywhere."""
    vae, x = model(dtype=torch.float32), images(2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        trace = vae(x, None, 2)
    for latent in trace.latents:
        assert latent.log_q.dtype == latent.log_p.dtype == torch.float32 and latent.q.mean.dtype == torch.float32


# From a config


def test_the_decoder_decides_what_kind_of_model_it_is():
    """torch's convolutions have `groups` too, of another kind."""
    assert kind_of(model().decoder) is Ladder and kind_of(nn.ConvTranspose2d(2, 3, 4)) is VAE


def test_the_choices_are_those_of_the_top_group():
    vae = build_vae(config("model=ladder", "model.latent_dim=5", "model.width=4", "prior=mixture"))
    assert isinstance(vae, Ladder) and vae.shapes == ((5,), (1, 28, 28))
    assert build_vae(config("model.filters=4")).groups == 1
    assert vae.p_z().event_shape == (5,) and len(vae(torch.zeros(2, 1, 28, 28)).latents) == 5


def test_a_reloaded_ladder_gives_the_same_figures(tmp_path):
    """As those of metrics.json, which come from the model as it was trained; with gradients that are clipped."""
    words = [word for word in TINY if not word.startswith("model") and not word.startswith("evaluation")]
    words += ["model=ladder", "model.latent_dim=2", "model.groups=[1x1,4x1]", "model.width=4", "model.channels=2"]
    words += ["evaluation.samples=3", "trainer.gradient_clip_val=1", *QUIET]
    cfg = config(*words, f"run_dir={tmp_path}")
    train(cfg)
    metrics = json.loads(Run(tmp_path).metrics.read_text())
    vae, data = cvae.load(tmp_path), build_data(cfg)
    data.setup()
    x, _ = data.batch("test", range(len(data.test)))
    figures = evaluate(vae, [(x, None)], Settings(samples=3, aggregate_images=1000, seed=cfg.seed))
    assert isinstance(vae, Ladder) and metrics["parameters"] == sum(p.numel() for p in vae.parameters())
    for name, figure in figures.items():
        if figure.value is not None:
            assert metrics[f"evaluation/{name}"] == pytest.approx(figure.value, rel=1e-6), name
    groups = [metrics[f"test/rate_{number}"] for number in (1, 2, 3)]
    assert sum(groups) == pytest.approx(metrics["test/rate"], rel=1e-6)
