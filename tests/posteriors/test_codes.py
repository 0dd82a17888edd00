"""Posteriors of codes: true for each, by listing all codes."""

import copy
import io
from types import SimpleNamespace

import pytest
import torch
from code_vaes import CODES, OF_CODES, M, all_codes, binary, vae_of
from conftest import config
from torch.distributions import kl_divergence

from cvae.build import build_vae
from cvae.commands.fitted_prior import fitted
from cvae.distributions import is_discrete, rsample_and_log_prob
from cvae.errors import ConfigError, UserError
from cvae.evaluation import Settings, evaluate
from cvae.evaluation.units import code_sums, figures_of_codes
from cvae.objectives import ELBO, IWAE, BetaTCVAE, InfoVAE
from cvae.posteriors import Categorical, DiagonalGaussian

F64 = torch.float64


@pytest.fixture(params=CODES)
def vae(request):
    return vae_of(CODES[request.param], OF_CODES["uniform"])


def joint(vae, x):
    """log p(x, z) (C^M, B) for every z, and log q(z|x) (C^M, B)."""
    z = vae.posterior.write(all_codes(vae.posterior)).double()[:, None].expand(-1, len(x), -1)
    return vae.decode(z).log_prob(x) + vae.p_z().log_prob(z), vae.encode(x).log_prob(z)


def test_codes_and_their_vectors(vae):
    posterior, codes = vae.posterior, all_codes(vae.posterior)
    z, depth = posterior.write(codes), posterior.quantizers
    assert z.shape == (posterior.num_codes ** (M * depth), M * posterior.width * depth) == (len(codes), *vae.shapes[0])
    assert len(z.unique(dim=0)) == len(codes) and torch.equal(posterior.read(z), codes)
    assert torch.equal(posterior.write(codes[:4].view(2, 2, -1)), z[:4].view(2, 2, -1))
    # A code has a column of the map (width, M): to change one changes nothing else of z.
    other = codes.clone()
    other[:, 1] = (codes[:, 1] + 1) % posterior.num_codes
    changed = (posterior.write(other) != z).view(len(codes), depth, posterior.width, M).any(2).flatten(1)
    assert torch.equal(changed, (torch.arange(M * depth) == 1).expand(len(codes), -1))


def test_masses_sum_to_one(vae):
    x = binary(5)
    z = vae.posterior.write(all_codes(vae.posterior)).double()
    assert vae.p_z().log_prob(z).exp().sum().item() == pytest.approx(1)
    total = vae.encode(x).log_prob(z[:, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(5, dtype=F64))
    assert is_discrete(vae.p_z()) and is_discrete(vae.encode(x))


def test_draws_are_codes_with_their_masses(vae):
    q, p = vae.encode(binary(2)), vae.p_z()
    z, log_q = rsample_and_log_prob(q, (6000,))
    assert torch.equal(vae.posterior.write(vae.posterior.read(z)).to(F64), z.detach()), "to the last digit"
    torch.testing.assert_close(log_q, q.log_prob(z))
    every = vae.posterior.write(all_codes(vae.posterior)).double()
    for draws, masses in ((z[:, 1].detach(), q.log_prob(every[:, None])[:, 1].exp()), (p.sample((6000,)), None)):
        masses = p.log_prob(every).exp() if masses is None else masses
        share = (draws[:, None] == every).all(-1).double().mean(0)
        assert ((share - masses).abs() < 5 * (masses * (1 - masses) / 6000).sqrt() + 1e-12).all()


def test_closed_form_rate_is_the_sum_over_codes(vae):
    x = binary(4)
    _, log_q = joint(vae, x)
    p = vae.p_z().log_prob(vae.posterior.write(all_codes(vae.posterior)).double())
    expected = (log_q.exp() * (log_q - p[:, None])).nan_to_num(0).sum(0)
    torch.testing.assert_close(kl_divergence(vae.encode(x), vae.p_z()), expected)
    torch.testing.assert_close(ELBO(kl="closed_form")(vae, x).rate, expected)


def test_bounds_against_the_sum_over_codes(vae):
    """ELBO <= log p(x), by as much as the KL to the exact posterior; IWAE lies between."""
    x = binary(1)
    log_joint, log_q = joint(vae, x)
    evidence = log_joint.logsumexp(0)
    elbo = (log_q.exp() * (log_joint - log_q)).nan_to_num(0).sum(0)
    assert elbo < evidence
    with torch.no_grad():
        bounds = {k: IWAE(k)(vae, x.expand(20000, -1, -1, -1)).bound for k in (1, 10)}
    error = bounds[1].std() / 20000**0.5
    assert (bounds[1].mean() - elbo).abs() <= 5 * error + 1e-9
    assert elbo - 1e-9 <= bounds[10].mean() < evidence


def test_a_checkpoint_has_all_of_it(vae):
    trained, file = copy.deepcopy(vae), io.BytesIO()
    with torch.no_grad():
        for tensor in trained.state_dict().values():
            tensor.add_(1 if tensor.dtype == torch.long else 0.1 * torch.randn_like(tensor))
    torch.save(trained.state_dict(), file)
    vae.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    x = binary(6)
    torch.manual_seed(1)
    expected = evaluate(trained, [(x, None)], Settings(samples=3))
    assert evaluate(vae, [(x, None)], Settings(samples=3)) == expected


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (IWAE(3, "dreg"), "^objective.gradient=dreg: must be plain for latents that are codes .posterior=categorical"),
        (IWAE(3, "stl"), "^objective.gradient=stl: must be plain for"),
        (InfoVAE(), "^objective=infovae: must be elbo or iwae for latents that are codes"),
        (BetaTCVAE(), "^objective=beta_tcvae: must be another objective, or posterior=diagonal_gaussian"),
        (ELBO(free_bits=1), "^objective.free_bits=1: must be 0 unless"),
    ],
)
def test_what_makes_no_sense_for_codes_is_refused(vae, objective, message):
    objective.prepare(10)
    with pytest.raises(ConfigError, match=message):
        objective(vae, binary(3))


def test_between_codes_is_nothing(vae):
    x = binary(2)
    for call in (lambda: vae.interpolate(x, x), lambda: vae.traverse(x)):
        with pytest.raises(ConfigError, match=r"^posterior=\w+: must be one of numbers, as diagonal_gaussian, to"):
            call()
    with pytest.raises(ConfigError, match="^prior=Codes: must be made of normal distributions"):
        vae.sample(2, temperature=0.5)
    assert vae.sample(2).shape == vae.reconstruct(x).shape == (2, 1, 2, 2)


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [("categorical", "standard_normal"), ("diagonal_gaussian", "uniform"), ("categorical", "vamp")],
)
def test_posterior_and_prior_of_different_kinds_are_refused(posterior, prior):
    kinds = ("codes", "numbers") if prior != "uniform" else ("numbers", "codes")
    with pytest.raises(
        UserError, match=rf"posterior .* and prior .* do not fit: .* {kinds[0]}, the prior of {kinds[1]}"
    ):
        build_vae(config("data=synthetic", f"posterior={posterior}", f"prior={prior}"))


@pytest.mark.parametrize("name", ["fsq", "vq"])
def test_gradients_go_straight_through(name):
    """That of z is that of what was rounded; the value is the code's vector."""
    posterior = CODES[name](M).double().eval()
    features = torch.randn(4, posterior.num_features, dtype=F64, requires_grad=True)
    weight = torch.randn(7, 4, M * posterior.width, dtype=F64)
    q = posterior(features)
    z, log_q = rsample_and_log_prob(q, (7,))
    assert torch.equal(z, posterior.write(posterior.read(z))) and not log_q.any()
    ours, expected = (
        torch.autograd.grad((value * weight).sum(), features, retain_graph=True)[0]
        for value in (z, q.near.expand(7, -1, -1))
    )
    torch.testing.assert_close(posterior(features).mean, z[0])
    torch.testing.assert_close(ours, expected)
    other = z.clone()
    other[0, 0, 0] += 1e-9
    assert q.log_prob(other)[0].tolist() == [-torch.inf, 0, 0, 0]


def test_the_evaluation_says_that_one_code_gives_a_bound(vae):
    """Distortion - log p(code), however many samples: no effective samples, and "at most" in the table."""
    x = binary(8)
    figures = [evaluate(vae, [(x, None)], Settings(samples=samples)) for samples in (1, 30)]
    point = type(vae.posterior) is not Categorical
    for each in figures:
        assert each["nll"].meaning == ("-log p(x), at most" if point else "-log p(x)")
        assert (each["effective_samples"].value is None) == point
    assert figures[0]["few_effective"].value is None  # one sample has fewer than 10 effective ones, whatever q is
    assert (figures[1]["few_effective"].value is None) == point
    if point:
        z = vae.encode(x).mean
        bound = -(vae.decode(z).log_prob(x) + vae.p_z().log_prob(z)).mean().item()
        for each in figures:
            assert each["nll"].value == pytest.approx(bound) and each["elbo"].value == pytest.approx(-bound)


@pytest.mark.parametrize("until", [None, 1e-9])
def test_the_evaluation_of_one_code_makes_no_draws_that_are_the_same(vae, until):
    """A block of draws is enough; the progress counts what was asked for."""
    if until and type(vae.posterior) is Categorical:
        return  # it has weights, which go on changing
    seen, advanced = [], []
    vae.register_forward_hook(lambda vae, inputs, trace: seen.append(tuple(trace.latents[0].z.shape[:2])))
    settings = Settings(samples=30, until=until)
    figures = evaluate(vae, [(binary(8), None)], settings, lambda what, n: advanced.append((what, n)))
    one = type(vae.posterior) is not Categorical
    # First one image, for its kind and for the memory; at the end the aggregate posterior.
    assert seen == [(1, 1), (1, 1), *[(10, 100)] * (1 if one else 3), (1, 8)]
    assert figures["effective_samples"].unit == ("of 10" if one else "of 30")
    assert sum(n for what, n in advanced if what == "rows") == 240
    (few,) = {evaluate(vae, [(binary(8), None)], Settings(samples=n))["effective_samples"].unit for n in (3,)}
    assert few == "of 3"


def test_the_evaluation_says_how_many_codes_are_used(vae):
    """Of the first draw of each image; what they say of it comes from q itself."""
    x, every = binary(9), []
    vae.register_forward_hook(lambda vae, inputs, trace: every.append(trace.latents[0].z[0]))
    figures = evaluate(vae, [(x[:5], None), (x[5:], None)], Settings(samples=2))
    codes = vae.posterior.read(every[2][:9])
    assert figures["used_codes"].value == len(codes.unique())
    expected = figures_of_codes(code_sums(vae(x).latents[0]))
    assert {name: figures[name].value for name in expected} == pytest.approx(expected)
    unit = f"of {vae.posterior.num_codes} codes"
    assert all(figures[name].unit == unit for name in ("used_codes", "perplexity", "codebook_perplexity"))
    assert figures["code_information"].unit == "nats a code"


@pytest.mark.parametrize(("kind", "latents"), [("gmm", "codes"), ("autoregressive", "numbers")])
def test_each_kind_of_latents_has_priors_of_its_own(vae, kind, latents):
    if latents == "numbers":
        vae.posterior = DiagonalGaussian(2)
    with pytest.raises(ConfigError, match=f"^--prior={kind}: must be .*: the latents of this model are {latents}$"):
        fitted(kind, SimpleNamespace(run="nowhere"), vae, 1, "raw")
