"""Every term of every objective by hand, for a trace of numbers that differ in each draw, image and dimension."""

import math
import re

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from toys import F64, TwoGroups

from cvae.errors import ConfigError
from cvae.models.trace import Latent, Trace
from cvae.objectives import ELBO, IWAE, BetaTCVAE, InfoVAE, Objective
from cvae.objectives.infovae import mmd
from cvae.objectives.terms import penalized, rate_of_groups, total
from cvae.priors import FlowPrior, MixtureOfGaussians
from cvae.schedules import Linear

K, B, SHAPE = 3, 4, (1, 2, 3)
SEVERAL = "elbo, capacity, iwae, miwae, ciwae, renyi"  # objectives for several groups of latents


def normal(*shape):
    """Independent normals, each dimension of each image with a mean and a scale of its own."""
    return Independent(Normal(torch.randn(*shape, dtype=F64), torch.rand(*shape, dtype=F64) + 0.3), 1)


def group(dims, deep=False, draws=K, images=B):
    q, p = (normal(draws, images, dims), normal(draws, images, dims)) if deep else (normal(images, dims), normal(dims))
    z = q.rsample() if deep else q.rsample((draws,))
    return Latent(z, q.log_prob(z), p.log_prob(z), q, p)


class Fixed(nn.Module):
    """A model that answers with one trace, and remembers what it was asked."""

    def __init__(self, *latents, penalties=None, images=B):
        super().__init__()
        draws = len(latents[0].z)
        px = Independent(Normal(torch.randn(draws, images, *SHAPE, dtype=F64), 0.7), 3)
        self.trace = Trace(latents, px, penalties or {})

    def forward(self, *asked, **options):
        self.asked = asked, options
        return self.trace


def images(count=B):
    return torch.randn(count, *SHAPE, dtype=F64)


def distortions(vae, x):
    """(K, B)"""
    return -vae.trace.px.base_dist.log_prob(x).sum((-3, -2, -1))


PENALTIES = {"commitment": torch.tensor([0.1, 0.2, 0.4, 0.8]), "other": torch.tensor([1.0, 2.0, 3.0, 4.0])}


def assert_terms(terms, loss, bound, rate, distortion, parts):
    for ours, expected in zip(terms[:4], (loss, bound, rate, distortion), strict=True):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(terms.elbo, -rate - distortion)
    assert terms.parts.keys() == parts.keys()
    for name, expected in parts.items():
        torch.testing.assert_close(terms.parts[name], expected)


def rates_by_hand(latent):
    """The rate of each dimension: by the draws (K, B, D), and in closed form (B, D) or (K, B, D)."""
    q, p = latent.q.base_dist, latent.p.base_dist
    return q.log_prob(latent.z) - p.log_prob(latent.z), kl_divergence(q, p)


@pytest.mark.parametrize("penalties", [{}, {"commitment": PENALTIES["commitment"]}, PENALTIES], ids=len)
@pytest.mark.parametrize("kl", ["monte_carlo", "closed_form"])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_elbo(kl, free, groups, penalties):
    latents = [group(2), group(3, deep=True)][:groups]
    each = []  # (B, D) of each group
    for latent in latents:
        sampled, closed = rates_by_hand(latent)
        each.append(sampled.mean(0) if kl == "monte_carlo" else closed.mean(0) if closed.dim() == 3 else closed)
    # Between the rates of the two dimensions, or of the two groups.
    between = each[0].mean() if groups == 1 else sum(rate.sum(-1).mean() for rate in each) / 2
    free_bits = between.item() if free else 0
    vae, x, y = Fixed(*latents, penalties=penalties), images(), torch.arange(B)
    terms = ELBO(K, kl, Linear(0, 1, 10), free_bits)(vae, x, y, 4)
    (seen_x, seen_y, seen_samples), options = vae.asked
    assert seen_x is x and seen_y is y and seen_samples == K and not options
    rates, charged = [rate.sum(-1) for rate in each], torch.zeros(B, dtype=F64)
    for rate in rates if groups > 1 else each[0].T:  # (B,) of each group, or of each dimension of the only one
        charged = charged + (rate if not free or rate.mean() > free_bits else free_bits)
    distortion, parts = distortions(vae, x).mean(0), {f"rate_{n}": rate for n, rate in enumerate(rates, 1)}
    loss = distortion + 0.4 * charged + sum(penalties.values())
    assert_terms(
        terms, loss, -distortion - sum(rates), sum(rates), distortion, (parts if groups > 1 else {}) | penalties
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("gradient", ["plain", "stl"])
def test_iwae(groups, gradient):
    latents = [group(2), group(3, deep=True)][:groups]
    vae, x, y = Fixed(*latents, penalties=PENALTIES), images(), torch.arange(B)
    terms = IWAE(K, gradient)(vae, x, y, 4)
    (seen_x, seen_y, seen_samples), options = vae.asked
    assert seen_x is x and seen_y is y and seen_samples == K and options == {"score": gradient == "plain"}
    rates = [latent.log_q - latent.log_p for latent in latents]
    bound = (-distortions(vae, x) - sum(rates)).exp().mean(0).log()
    rates = [rate.mean(0) for rate in rates]
    parts = {f"rate_{n}": rate for n, rate in enumerate(rates, 1)} if groups > 1 else {}
    expected = -bound + PENALTIES["commitment"] + PENALTIES["other"]
    assert_terms(terms, expected, bound, sum(rates), distortions(vae, x).mean(0), parts | PENALTIES)


@pytest.mark.parametrize(("batch", "total_images"), [(B, 100), (B, B), (1, 100), (1, 1)])
@pytest.mark.parametrize("sampling", ["weighted", "stratified"])
def test_beta_tcvae(sampling, batch, total_images):
    latent = group(3, draws=1, images=batch)
    penalties = {name: penalty[:batch] for name, penalty in PENALTIES.items()}
    vae, x = Fixed(latent, penalties=penalties, images=batch), images(batch)
    objective = BetaTCVAE(Linear(0, 20, 10), sampling)
    objective.prepare(total_images)
    terms = objective(vae, x, None, 3)
    assert vae.asked == ((x, None), {})
    z, q = latent.z[0], latent.q.base_dist
    information, correlation, dimensions = torch.zeros(3, batch, dtype=F64)
    for i in range(batch):
        joint, marginals = 0.0, torch.zeros(3, dtype=F64)
        for n in range(batch):
            own, others = 1 / total_images, (total_images - 1) / total_images / max(batch - 1, 1)
            weight = 1 / (total_images * batch) if sampling == "weighted" else own if i == n else others
            density = Normal(q.loc[n], q.scale[n]).log_prob(z[i]).exp()  # of each dimension
            joint, marginals = joint + weight * density.prod(), marginals + weight * density
        log_qz, log_product = joint.log(), marginals.log().sum()
        information[i] = latent.log_q[0, i] - log_qz
        correlation[i] = log_qz - log_product
        dimensions[i] = log_product - latent.log_p[0, i]
    rate, distortion = (latent.log_q - latent.log_p)[0], distortions(vae, x)[0]
    loss = distortion + information + 6 * correlation + dimensions + sum(penalties.values())
    parts = {"mutual_information": information, "total_correlation": correlation, "dimension_kl": dimensions}
    assert_terms(terms, loss, -distortion - rate, rate, distortion, parts | penalties)


def mmd_by_hand(a, b, kernel, bandwidth):
    c = 2 * a.shape[1] * bandwidth**2
    k = {"rbf": lambda r2: math.exp(-r2 / c), "imq": lambda r2: c / (c + r2)}[kernel]
    mean = lambda pairs: sum(k((u - v).square().sum().item()) for u, v in pairs) / len(pairs)
    within = [mean([(u, v) for i, u in enumerate(s) for j, v in enumerate(s) if i != j]) for s in (a, b)]
    return sum(within) - 2 * mean([(u, v) for u in a for v in b])


@pytest.mark.parametrize(("alpha", "lambda_"), [(1, 1000), (0.25, 3), (-2, 5)])
@pytest.mark.parametrize(("kernel", "bandwidth"), [("rbf", 1), ("imq", 0.6)])
def test_infovae(alpha, lambda_, kernel, bandwidth):
    latent = group(3, draws=1)
    vae, x = Fixed(latent, penalties=PENALTIES), images()
    torch.manual_seed(3)
    terms = InfoVAE(alpha, lambda_, kernel, bandwidth)(vae, x, None, 3)
    assert vae.asked == ((x, None), {})
    torch.manual_seed(3)
    discrepancy = mmd_by_hand(latent.z[0], latent.p.rsample((B,)), kernel, bandwidth)
    rate, distortion = (latent.log_q - latent.log_p)[0], distortions(vae, x)[0]
    loss = distortion + (1 - alpha) * rate + (alpha + lambda_ - 1) * discrepancy + sum(PENALTIES.values())
    parts = {"mmd": torch.full((B,), discrepancy, dtype=F64)}
    assert_terms(terms, loss, -distortion - rate, rate, distortion, parts | PENALTIES)


def test_infovae_of_one_image_goes_without_the_discrepancy():
    latent = group(3, draws=1, images=1)
    vae, x = Fixed(latent, images=1), images(1)
    terms, rate = InfoVAE(0.5)(vae, x), (latent.log_q - latent.log_p)[0]
    assert_terms(terms, distortions(vae, x)[0] + 0.5 * rate, -distortions(vae, x)[0] - rate, rate,
                 distortions(vae, x)[0], {"mmd": torch.zeros(1, dtype=F64)})  # fmt: skip


def test_two_images_are_enough_for_the_discrepancy():
    vae = Fixed(group(3, draws=1, images=2), images=2)
    assert InfoVAE()(vae, images(2)).parts["mmd"].ne(0).all()


def test_the_first_step_is_0():
    """A schedule that nobody tells a step is at its start."""
    vae, x, beta = Fixed(group(3, draws=1)), images(), Linear(5, 1, 4)
    for objective in (ELBO(beta=beta), BetaTCVAE(beta)):
        objective.prepare(9)
        torch.testing.assert_close(objective(vae, x).loss, objective(vae, x, step=0).loss)
        assert (objective(vae, x).loss - objective(vae, x, step=1).loss).abs().min() > 1e-4


@pytest.mark.parametrize("free_bits", [0, 0.4])
def test_each_group_has_a_beta_of_its_own(free_bits):
    """A warm-up per group: each rate with its own weight, at this step."""
    vae, x = Fixed(group(3), group(2, deep=True), group(2, deep=True)), images()
    terms = ELBO(K, beta=[Linear(0, 1, 10), 2, Linear(0, 1, 20)], free_bits=free_bits)(vae, x, step=5)
    rates = [(latent.log_q - latent.log_p).mean(0) for latent in vae.trace.latents]
    if free_bits:
        rates = [rate if rate.mean() > free_bits else torch.full_like(rate, free_bits) for rate in rates]
    expected = terms.distortion + 0.5 * rates[0] + 2 * rates[1] + 0.25 * rates[2]
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(terms.rate, sum((latent.log_q - latent.log_p).mean(0) for latent in vae.trace.latents))
    one = ELBO(K, beta=[2.0], free_bits=free_bits)(vae, x, step=5)
    torch.testing.assert_close(one.loss, terms.distortion + 2 * sum(rates))


@pytest.mark.parametrize("kind", ["flow", "mixture"])
def test_which_priors_the_discrepancy_trains(kind):
    """One that can be reparameterized, by the gradient of the MMD at the same draws; a mixture not at all."""
    prior = (FlowPrior(2, transforms=1, hidden=4) if kind == "flow" else MixtureOfGaussians(2, 2)).double()
    q = normal(B, 2)
    z = q.rsample((1,))
    p = prior(None)
    vae = Fixed(Latent(z, q.log_prob(z), p.log_prob(z), q, p))
    x = images()
    torch.manual_seed(3)
    loss = InfoVAE(1, 10)(vae, x).loss.mean()
    ours = torch.autograd.grad(loss, list(prior.parameters()), allow_unused=True, retain_graph=True)
    if kind == "mixture":
        assert all(gradient is None or not gradient.any() for gradient in ours)
        return
    torch.manual_seed(3)
    by_hand = 10 * mmd(z[0], p.rsample((B,)), "rbf", 1)
    expected = torch.autograd.grad(by_hand, list(prior.parameters()), allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in expected)
    for gradient, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient if wanted is not None else None, wanted)


def test_the_mmd_needs_pairs():
    one, two = torch.randn(1, 2), torch.randn(2, 2)
    for a, b, counts in ((one, two, "1 and 2"), (two, one, "2 and 1")):
        with pytest.raises(ValueError, match=f"^the MMD needs at least two draws in each sample, here are {counts}$"):
            mmd(a, b, "rbf", 1)
    mmd(two, two, "rbf", 1)


# Gradients


def test_a_dimension_at_exactly_free_bits_is_free():
    """Its rate has no gradient up to and at the threshold; above it each image's rate counts as it is."""
    rates = torch.tensor([[0.5, 0.1, 2.0], [0.5, 0.3, 0.0]], dtype=F64, requires_grad=True)
    charged = ELBO(free_bits=0.5)._charge(rates).sum(-1)
    torch.testing.assert_close(charged, torch.tensor([3.0, 1.0], dtype=F64))
    (gradient,) = torch.autograd.grad(charged.sum(), [rates])
    assert gradient.tolist() == [[0, 0, 1], [0, 0, 1]]


def test_dreg_multiplies_the_encoders_gradient_by_the_weights():
    """sum_k v_k^2 (d log w_k / dz_k): that of the draws and that of log q, each times v_k, detached."""
    q, p = normal(B, 2), normal(2)
    leaf, shift = q.rsample((K,)).requires_grad_(), torch.zeros(K, B, dtype=F64, requires_grad=True)
    z = leaf.view_as(leaf)
    latent = Latent(z, q.log_prob(leaf.detach()) + shift, p.log_prob(z), q, p)
    vae, x = Fixed(latent), images()
    IWAE(K, "dreg")(vae, x).loss.sum().backward()
    v = (-distortions(vae, x) - latent.log_q + latent.log_p).softmax(0).detach()
    plain = torch.autograd.grad(p.log_prob(leaf).sum(), [leaf])[0]
    torch.testing.assert_close(leaf.grad, -(v**2)[..., None] * plain)
    torch.testing.assert_close(shift.grad, v**2)


# Errors


def message_of(call):
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


def test_messages_of_what_does_not_go_together():
    single, full = group(2, draws=1), group(2, draws=1)
    full = full._replace(q=MultivariateNormal(torch.zeros(B, 2, dtype=F64), torch.eye(2, dtype=F64)))
    several, x = TwoGroups(), images()
    tcvae = BetaTCVAE()
    tcvae.prepare(5)
    mixture = Fixed(single._replace(p=MixtureOfGaussians(2).double()(None)))
    refused = {
        "objective.kl=closed_form: must be monte_carlo for this posterior and prior (no closed form is known for "
        "Independent and Mixture), or choose two Gaussians": lambda: ELBO(kl="closed_form")(mixture, x),
        "objective.free_bits=0.5: must be 0 unless posterior and prior are independent over the latent dimensions, "
        "as posterior=diagonal_gaussian with prior=standard_normal is": lambda: ELBO(free_bits=0.5)(Fixed(full), x),
        "objective=beta_tcvae: must be another objective, or posterior=diagonal_gaussian: beta_tcvae needs independent "
        "dimensions of q(z|x)": lambda: tcvae(Fixed(full), x),
        f"objective=beta_tcvae: must be one of {SEVERAL}, or another model=: this one has 2 groups of latents": (
            lambda: tcvae(several, x)
        ),
        f"objective=infovae: must be one of {SEVERAL}, or another model=: this one has 2 groups of latents": (
            lambda: InfoVAE()(several, x)
        ),
        "objective.gradient=dreg: must be plain or stl, or another model=: this one has 2 groups of latents": (
            lambda: IWAE(2, "dreg")(several, x)
        ),
        "objective.beta=[3 values]: must be one value, or one for each group of latents, of which there are 2": (
            lambda: ELBO(beta=[1, 1, 1])(several, x)
        ),
        "beta=-1: must be a finite number of at least 0, or a schedule (as in objective/beta=linear)": (
            lambda: ELBO(beta=[1, -1])
        ),
        "alpha=1.5: must be a number of at most 1": lambda: InfoVAE(1.5),
        "lambda_=0.25: must be at least 1 - alpha, 0.5: the MMD would be rewarded": lambda: InfoVAE(0.5, 0.25),
        "kernel=linear: must be one of rbf, imq": lambda: InfoVAE(kernel="linear"),
        "gradient=other: must be one of plain, stl, dreg": lambda: IWAE(gradient="other"),
        "sampling=other: must be one of weighted, stratified": lambda: BetaTCVAE(sampling="other"),
        "kl=other: must be one of monte_carlo, closed_form": lambda: ELBO(kl="other"),
        "num_images=0: must be a positive integer": lambda: BetaTCVAE().prepare(0),
    }
    for message, call in refused.items():
        assert message_of(call) == message
    InfoVAE(0.5, 0.5), InfoVAE(1, 1e-9)  # the ends of what is allowed


def test_beta_tcvae_must_know_the_number_of_images():
    message = "call prepare(num_images) first, the number of training images"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        BetaTCVAE()(Fixed(group(2, draws=1)), images())


# What they share


def test_shared_parts():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert total([a]) is a and total([a, b, b]).tolist() == [21, 42]
    assert rate_of_groups([a]) == {} and list(rate_of_groups([a, b])) == ["rate_1", "rate_2"]
    assert rate_of_groups([a, b])["rate_1"] is a and rate_of_groups([a, b])["rate_2"] is b
    trace = Trace((), None, {})
    assert penalized(a, trace) is a
    assert penalized(a, trace._replace(penalties={"c": b, "d": a})).tolist() == [12, 24]


def test_defaults():
    elbo, iwae, tcvae, info = ELBO(), IWAE(), BetaTCVAE(), InfoVAE()
    assert (elbo.samples, elbo.kl, elbo.betas, elbo.free_bits) == (1, "monte_carlo", [1], 0)
    assert (iwae.samples, iwae.gradient) == (50, "plain")
    assert (tcvae.beta, tcvae.sampling, tcvae.num_images) == (6, "weighted", None)
    assert (info.alpha, info.lambda_, info.kernel, info.bandwidth) == (1, 1000, "rbf", 1)
    with pytest.raises(NotImplementedError):
        Objective()(None, None)
