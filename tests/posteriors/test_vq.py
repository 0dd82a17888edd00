"""A learned codebook: moving averages, dead codes and the nearest code."""

import copy

import pytest
import torch

from cvae.errors import ConfigError
from cvae.posteriors import VQ

F64 = torch.float64


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
