"""Posteriors of codes: true for each, by listing all codes."""

import copy
import io
import math
from types import SimpleNamespace

import pytest
import torch
from code_vaes import CODES, OF_CODES, M, all_codes, binary, vae_of
from conftest import config
from torch.distributions import Independent, Normal, kl_divergence

from cvae.build import build_vae
from cvae.commands.fitted_prior import fitted
from cvae.distributions import Codes, OneHots, is_discrete, rsample_and_log_prob
from cvae.errors import ConfigError, UserError
from cvae.evaluation import Settings, evaluate
from cvae.evaluation.units import code_sums, figures_of_codes
from cvae.objectives import ELBO, IWAE, BetaTCVAE, InfoVAE
from cvae.posteriors import FSQ, VQ, Categorical, DiagonalGaussian
from cvae.schedules import Cyclical, Linear

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


# Categorical


def test_categorical_by_hand():
    """Features are (classes, M) flattened."""
    posterior = Categorical(2, classes=3).eval()
    features = torch.randn(1, 6)
    q = posterior(features)
    for codes in ([0, 2], [1, 1]):
        z = posterior.write(torch.tensor([codes]))
        expected = sum(features[0, m::2].log_softmax(0)[code] for m, code in enumerate(codes))
        torch.testing.assert_close(q.log_prob(z), expected[None])
    torch.testing.assert_close(q.mean.view(3, 2), features.view(3, 2).softmax(0))
    assert posterior.write(torch.tensor([2, 0])).tolist() == [0, 1, 0, 0, 1, 0]


def test_straight_through_gradient_by_its_definition():
    """That of softmax((logits + g) / temperature) at the same noise, for a one-hot draw."""
    logits, weight = torch.randn(1, 4, 2, dtype=F64, requires_grad=True), torch.randn(8, dtype=F64)
    torch.manual_seed(1)
    hard = OneHots(logits, 0.7).rsample((5,))
    torch.manual_seed(1)
    gumbel = -torch.empty(5, 1, 4, 2, dtype=F64).exponential_().log()
    soft = ((logits.log_softmax(-2) + gumbel) / 0.7).softmax(-2).flatten(-2)
    assert torch.equal(hard.unflatten(-1, (4, 2)).argmax(-2), soft.unflatten(-1, (4, 2)).argmax(-2))
    assert set(hard.unique().tolist()) == {0, 1}
    ours, expected = (torch.autograd.grad((z * weight).sum(), logits)[0] for z in (hard, soft))
    torch.testing.assert_close(ours, expected)
    torch.manual_seed(1)
    torch.testing.assert_close(OneHots(logits, 0.7, relaxed=True).rsample((5,)), soft)


def test_relaxed_draws_are_for_training_alone():
    posterior = Categorical(2, classes=3, gradient="relaxed", temperature=2.0)
    features = torch.randn(4, 6)
    assert posterior(features).rsample().unique().numel() > 2
    assert posterior(features).sample().unique().tolist() == [0, 1]
    assert posterior.eval()(features).rsample().unique().tolist() == [0, 1]
    assert Categorical(2, classes=3)(features).rsample().unique().tolist() == [0, 1]


def test_the_temperature_follows_the_training_steps():
    posterior, features = Categorical(2, temperature=Linear(1.0, 0.5, 4)), torch.randn(3, 20)
    assert [posterior(features).temperature.item() for _ in range(6)] == [1, 0.875, 0.75, 0.625, 0.5, 0.5]
    with torch.no_grad():
        posterior(features)
    posterior.eval()(features)
    assert posterior.steps == 6, "only training counts"
    again = Categorical(2, temperature=Linear(1.0, 0.5, 4))
    again.load_state_dict(posterior.state_dict())
    assert again(features).temperature == 0.5


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("classes", 0, "a positive integer"),
        ("gradient", "hard", "one of straight_through, relaxed"),
        ("temperature", 0, "a finite number above 0"),
        ("temperature", Cyclical(1.0, 0.0, 1000), "a finite number above 0"),
        ("temperature", "hot", r"a finite number of at least 0, or a schedule \(as in posterior/temperature=linear\)"),
        ("temperature", Linear(1.0, 0, 10), "a finite number above 0"),
        ("temperature", Linear(0, 1.0, 10), "a finite number above 0"),
    ],
)
def test_impossible_options_are_refused(key, value, allowed):
    with pytest.raises(ConfigError, match=rf"^{key}=.*: must be {allowed}$"):
        Categorical(2, **{key: value})


def test_no_closed_form_for_codes_that_depend_on_each_other():
    p = Codes(Independent(Normal(torch.zeros(2), 1.0), 1), None, None, 6, 3)
    with pytest.raises(NotImplementedError):
        kl_divergence(OneHots(torch.zeros(1, 3, 2)), p)


# A point: vq and fsq


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


def test_fsq_by_hand():
    """Levels -1, 0, 1 for three, -1 and 1 for two; the columns of the map are the codes."""
    posterior = FSQ(2, levels=[3, 2]).double()
    features = torch.tensor([[9.0, 0.3, -9.0, 0.1]], dtype=F64)  # (2 numbers, 2 codes)
    q = posterior(features)
    assert q.z.tolist() == [[1, 0, -1, 1]] and posterior.read(q.z).tolist() == [[2 * 2 + 0, 1 * 2 + 1]]
    torch.testing.assert_close(q.near, 1.001 * features.tanh())


@pytest.mark.parametrize("levels", [2, 1001, 1002])
def test_fsq_never_leaves_its_levels(levels):
    """1.001 tanh goes past the last of a thousand levels."""
    posterior = FSQ(1, levels=[levels])
    assert posterior.read(posterior(torch.tensor([[-20.0], [20.0]])).z).tolist() == [[0], [levels - 1]]
    assert posterior(torch.tensor([[-20.0], [20.0]])).z.tolist() == [[-1], [1]]


def test_fsq_passes_on_what_is_not_finite():
    """So that a run which diverges ends with the error for that."""
    posterior = FSQ(2)
    z = posterior(torch.tensor([[math.nan] * 6, [0.0] * 6])).rsample()
    assert z[0].isnan().all() and z[1].isfinite().all()


def test_fsq_reaches_every_level_and_no_other():
    posterior = FSQ(1, levels=[8, 5])
    reach = torch.linspace(-6, 6, 201)
    z = posterior(torch.cartesian_prod(reach, reach)).z
    assert len(z.unique(dim=0)) == posterior.num_codes == 40
    for number, levels in enumerate((8, 5)):
        torch.testing.assert_close(z[:, number].unique(), torch.linspace(-1, 1, levels))
    # The nearest one: half a step away at most, but for the reach.
    near = 1.001 * torch.cartesian_prod(reach, reach).tanh()
    assert ((z - near).abs() <= torch.tensor([1 / 7, 1 / 4]) + 1e-6).all()


@pytest.mark.parametrize("levels", [[], [1], [8, 0], 8, "8", [2.0], [True, 2], [300, 300], None])
def test_fsq_refuses_impossible_levels(levels):
    with pytest.raises(ConfigError, match=r"^levels=.*: must be a list of integers of at least 2, like \[8,6,5\]"):
        FSQ(2, levels)


def averaged(vq, features):
    """The paper's equations, code by code, for a codebook without dead codes."""
    columns, decay = features.view(-1, vq.width, vq.latent_dim).mT.reshape(-1, vq.width), vq.decay
    near = [min(range(vq.num_codes), key=lambda i: (row - vq.vectors[i]).norm().item()) for row in columns]
    counts, sums = vq.counts.clone(), vq.sums.clone()
    for i in range(vq.num_codes):
        own = columns[[n == i for n in near]]
        counts[i] = decay * counts[i] + (1 - decay) * len(own)
        sums[i] = decay * sums[i] + (1 - decay) * own.sum(0)
    return torch.tensor(near).view(-1, vq.latent_dim), counts, sums, sums / counts[:, None]


def trained_vq():
    """A codebook without dead codes."""
    vq = VQ(3, codes=4, width=2, decay=0.9, commitment=0.7).double()
    vq.counts.fill_(2.0), vq.sums.copy_(2 * vq.vectors)
    return vq


def test_moving_averages_by_the_papers_equations():
    vq, features = trained_vq(), torch.randn(10, 6, dtype=F64)
    before, (codes, *expected) = vq.vectors.clone(), averaged(vq, features)
    q = vq(features)
    for ours, by_hand in zip((vq.counts, vq.sums), expected[:2], strict=True):
        torch.testing.assert_close(ours, by_hand)
    assert torch.equal(vq.vectors, before) and torch.equal(q.z, before[codes].mT.flatten(-2))  # of before the update
    vq(torch.randn(10, 6, dtype=F64))  # the next step begins with it
    torch.testing.assert_close(vq.vectors, expected[2])
    vq.vectors.copy_(before)
    distance = (features - q.z).square().sum(-1)
    torch.testing.assert_close(vq.penalties(q), {"commitment": 0.7 * distance})
    (gradient,) = torch.autograd.grad(
        vq.penalties(vq.eval()(f := features.clone().requires_grad_()))["commitment"].sum(), f
    )
    torch.testing.assert_close(gradient, 1.4 * (features - vq.eval()(features).z))


def test_a_codebook_learns_in_training_alone():
    vq, features = trained_vq(), torch.randn(10, 6, dtype=F64)
    before = copy.deepcopy(vq.state_dict())
    with torch.no_grad():
        vq(features)
    vq.eval()(features)
    assert all(torch.equal(before[name], value) for name, value in vq.state_dict().items())
    assert {"vectors", "counts", "sums"} == set(before), "a checkpoint has them"
    buffers = [vq.vectors.data_ptr(), vq.counts.data_ptr(), vq.sums.data_ptr()]
    vq.train()(features)
    assert buffers == [vq.vectors.data_ptr(), vq.counts.data_ptr(), vq.sums.data_ptr()], "in place, for CUDA graphs"


def test_dead_codes_move_to_features_drawn_by_the_seed():
    """30 features for 4 codes, decay 0.9: at most 0.1 exp(-10 * 0.1 / 7.5) = 0.08752 uses."""
    vq, features = trained_vq(), torch.randn(10, 6, dtype=F64)
    vq.counts[1], vq.counts[2] = 0.0875, 0.0876
    vq.sums.copy_(vq.counts[:, None] * vq.vectors)
    other = copy.deepcopy(vq)
    torch.manual_seed(5)
    rows = features.view(10, 2, 3).mT.reshape(-1, 2)
    drawn = rows[torch.randint(30, (4,))]
    expected = copy.deepcopy(vq)
    expected.vectors[1] = expected.sums[1] = drawn[1]
    expected.counts[1] = 1
    _, *by_hand = averaged(expected, features)
    for each in (vq, other):
        torch.manual_seed(5)
        each(features)
        for ours, value in zip((each.counts, each.sums, each.vectors), (*by_hand[:2], expected.vectors), strict=True):
            torch.testing.assert_close(ours, value)


def test_a_code_that_moves_weighs_as_its_expected_use():
    """2 features for 8 codes: a quarter of a use. The features are alike, and so are the codes that move to them."""
    vq = VQ(1, codes=8, width=2, decay=0.5)
    vq(torch.tensor([[3.0, 4.0]] * 2))
    assert vq.vectors.tolist() == [[3.0, 4.0]] * 8
    assert sorted(vq.counts.tolist()) == [0.125] * 7 + [0.125 + 1]
    torch.testing.assert_close(vq.sums, vq.counts[:, None] * torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize(("codes", "rows", "decay"), [(128, 16, 0.99), (128, 16, 0.9), (40, 400, 0.9)])
def test_codes_that_are_used_as_often_as_expected_stay(codes, rows, decay):
    """However few features a minibatch has: each feature is near the vector of a code, all codes alike."""
    torch.manual_seed(0)
    vq, centres = VQ(1, codes=codes, width=4, decay=decay), 10 * torch.randn(codes, 4)
    vq.vectors.copy_(centres), vq.counts.fill_(rows / codes), vq.sums.copy_(vq.counts[:, None] * centres)
    for _ in range(400):
        vq(centres[torch.randint(codes, (rows,))] + 0.1 * torch.randn(rows, 4))
    assert (vq.vectors - centres).norm(dim=1).max() < 1


def test_codes_that_are_never_used_move_however_few_features_there_are():
    """16 features for 128 codes, all of them near one of 4 places: those that are nowhere near move there."""
    torch.manual_seed(0)
    vq, places = VQ(1, codes=128, width=4, decay=0.99), 10 * torch.randn(4, 4)
    vq.vectors.copy_(100 + torch.randn(128, 4)), vq.counts.fill_(16 / 128), vq.sums.copy_(vq.vectors * 16 / 128)
    for _ in range(400):
        vq(places[torch.randint(4, (16,))] + 0.1 * torch.randn(16, 4))
    assert (torch.cdist(vq.vectors, places).min(1).values < 1).float().mean() > 0.95


@pytest.mark.parametrize("far", [0.0, 300.0, 1e4])
def test_the_nearest_code_wherever_the_features_are(far):
    vq, features = VQ(1, codes=128, width=16), torch.randn(2000, 16) + far
    vq.vectors.copy_(torch.randn(128, 16) + far)
    exactly = torch.cdist(features.double(), vq.vectors.double())
    found = exactly.gather(1, vq.nearest(features)[:, None])[:, 0]
    assert (found - exactly.min(1).values).max() < 1e-4


def test_a_codebook_learns_the_same_under_autocast():
    """Sums in bfloat16 have too few digits, and another dtype than the averages."""
    plain = VQ(5, codes=4, width=2, decay=0.9)
    plain.counts.fill_(3.0), plain.sums.normal_()
    half, features = copy.deepcopy(plain), torch.randn(30, 10)
    with torch.autocast("cpu", torch.bfloat16):
        q = half(features)
    assert torch.equal(q.z, plain(features).z)
    torch.testing.assert_close(half.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_code_without_a_feature_has_no_mean_without_averages():
    posterior = VQ(1, codes=2, width=1, decay=0.0)
    posterior.counts.fill_(1.0), posterior.sums.copy_(torch.tensor([[1.0], [9.0]]))
    posterior(torch.tensor([[0.0], [3.0]]))
    assert posterior.vectors.tolist() == [[1.0], [9.0]] and posterior.counts.tolist() == [2, 0]
    posterior(torch.tensor([[0.0], [3.0]]))
    first, second = posterior.vectors.flatten().tolist()
    assert first == 1.5 and second in (0.0, 3.0)  # the other moves to a feature


def test_a_codebook_starts_at_features():
    """All codes are dead at the start."""
    vq, features = VQ(3, codes=4, width=2, decay=0.0).double(), torch.randn(50, 6, dtype=F64) + 20
    vq(features)
    assert (vq.vectors > 15).all() and vq.counts.sum() == 150


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("codes", 0, "a positive integer"),
        ("width", 1.5, "a positive integer"),
        ("decay", 1, "at least 0 and below 1"),
        ("decay", -0.1, "a finite number of at least 0"),
        ("commitment", 0, "a finite number above 0"),
    ],
)
def test_vq_refuses_impossible_options(key, value, allowed):
    with pytest.raises(ConfigError, match=rf"^{key}={value}: must be {allowed}$"):
        VQ(2, **{key: value})


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
