"""Residual codes: each quantizer codes what those before it have left."""

import copy

import pytest
import torch
from code_vaes import OF_CODES, M, binary, vae_of
from conftest import config
from tiny import trained

from cvae.build import build_vae
from cvae.errors import ConfigError
from cvae.pictures import code_maps
from cvae.posteriors import VQ

F64 = torch.float64


def residual(quantizers=3, **options):
    """Codebooks without dead codes, the later ones finer."""
    vq = VQ(M, codes=4, width=2, quantizers=quantizers, **options).double()
    for depth in range(quantizers):
        vq.codebook(vq.vectors, depth).mul_(0.4**depth)
    vq.counts.fill_(2.0), vq.sums.copy_(2 * vq.vectors)
    return vq


def by_hand(vq, features):
    """The codes (B, quantizers, M), and what is left before each quantizer: (quantizers + 1, B, M, width)."""
    rest = features.view(len(features), vq.width, vq.latent_dim).mT
    codes, left = [], [rest]
    for vectors in vq.vectors.view(vq.quantizers, vq.num_codes, vq.width):
        codes.append((rest[..., None, :] - vectors).square().sum(-1).argmin(-1))
        rest = rest - vectors[codes[-1]]
        left.append(rest)
    return torch.stack(codes, 1), torch.stack(left)


def test_codes_of_what_is_left():
    vq, features = residual().eval(), torch.randn(10, 6, dtype=F64)
    codes, left = by_hand(vq, features)
    q = vq(features)
    assert torch.equal(vq.read(q.z), codes.flatten(1)) and torch.equal(vq.write(codes.flatten(1)), q.z)
    total = (features.view(10, 2, 3).mT - left[-1]).mT.flatten(1)  # the sum of the vectors
    torch.testing.assert_close(vq.decoder_input(q.z), total)
    torch.testing.assert_close(vq.decoder_input(q.rsample((2,))), total.expand(2, -1, -1))
    assert (left[1:].square().sum((1, 2, 3)).diff() < 0).all()  # each leaves less


def test_the_gradient_goes_straight_to_the_features_once():
    vq = residual().eval()
    features, weight = torch.randn(10, 6, dtype=F64, requires_grad=True), torch.randn(4, 10, 6, dtype=F64)
    z = vq(features).rsample((4,))
    (gradient,) = torch.autograd.grad((vq.decoder_input(z) * weight).sum(), features)
    torch.testing.assert_close(gradient, weight.sum(0))


def test_the_commitment_is_to_each_partial_sum():
    vq, features = residual(commitment=0.7).eval(), torch.randn(10, 6, dtype=F64, requires_grad=True)
    _, left = by_hand(vq, features.detach())
    penalty = vq.penalties(vq(features))["commitment"]
    torch.testing.assert_close(penalty, 0.7 * left[1:].square().sum((0, 2, 3)))
    (gradient,) = torch.autograd.grad(penalty.sum(), features)
    torch.testing.assert_close(gradient, 1.4 * left[1:].sum(0).mT.flatten(1))


def test_each_codebook_learns_from_what_is_left_to_it():
    vq, features = residual(decay=0.9), torch.randn(10, 6, dtype=F64)
    alone = []
    codes, left = by_hand(vq, features)
    for depth in range(3):
        one = VQ(M, codes=4, width=2, decay=0.9).double()
        for mine, whole in zip((one.vectors, one.counts, one.sums), (vq.vectors, vq.counts, vq.sums), strict=True):
            mine.copy_(vq.codebook(whole, depth))
        one(left[depth].mT.flatten(1))
        alone.append(one)
    before, q = vq.vectors.clone(), vq(features)
    assert torch.equal(vq.vectors, before) and torch.equal(q.z, vq.write(codes.flatten(1)))  # of before the update
    for depth, one in enumerate(alone):
        torch.testing.assert_close(vq.codebook(vq.counts, depth), one.counts)
        torch.testing.assert_close(vq.codebook(vq.sums, depth), one.sums)
    with torch.no_grad():
        kept = copy.deepcopy(vq.state_dict())
        vq(features)
    assert all(torch.equal(kept[name], value) for name, value in vq.state_dict().items())


def test_one_quantizer_is_a_plain_codebook():
    """To the last digit, with the names and shapes that saved runs have."""
    vq, features = residual(1), torch.randn(10, 6, dtype=F64, requires_grad=True)
    assert {name: tuple(part.shape) for name, part in vq.state_dict().items()} == {
        "vectors": (4, 2), "counts": (4,), "sums": (4, 2)
    }  # fmt: skip
    q = vq(features)
    assert torch.equal(q.near, features) and torch.equal(q.z, vq.vectors[vq.read(q.z)].mT.flatten(-2))
    assert vq.decoder_input(q.z) is q.z
    assert torch.equal(vq.penalties(q)["commitment"], vq.commitment * (features - q.z).square().sum(-1))


def test_codebooks_start_at_what_is_left():
    torch.manual_seed(0)
    vq, features = VQ(M, codes=6, width=2, quantizers=2, decay=0.5), torch.randn(400, 6) + 20
    for _ in range(30):
        vq(features)
    first, second = (vq.codebook(vq.vectors, depth) for depth in range(2))
    assert (first > 15).all() and second.abs().max() < 5


@pytest.mark.parametrize("prior", OF_CODES)
def test_the_prior_is_over_places_and_quantizers(prior):
    vae = vae_of(lambda places: VQ(places, codes=2, width=3, quantizers=2), OF_CODES[prior])
    assert vae.p_z().codes.event_shape == (2 * M,) and vae.shapes[0] == (2 * 3 * M,)
    trace = vae(binary(5), samples=2)
    torch.testing.assert_close(trace.latents[0].log_p, vae.p_z().codes.log_prob(vae.posterior.read(trace.latents[0].z)))
    assert vae.decode(vae.p_z().sample((4,))).mean.shape == vae.sample(4).shape == (4, 1, 2, 2)


def test_a_map_of_codes_has_a_row_for_each_quantizer():
    words = ["data=synthetic", "posterior=vq", "posterior.quantizers=3", "posterior.codes=4", "posterior.width=2"]
    vae = build_vae(config(*words, "prior=autoregressive", "model=resnet", "model.width=8", "model.depth=1",
                           "model.latent_map=true", "model.latent_dim=49")).eval()  # fmt: skip
    x = torch.rand(2, 1, 28, 28)
    assert code_maps(vae, x).shape == (1 + 3 + 1, 2, 3, 28, 28)
    with pytest.raises(ConfigError, match="^quantizers=0: must be a positive integer"):
        VQ(2, quantizers=0)


def test_a_run_and_the_commands_after_it(tmp_path, call):
    run = tmp_path / "run"
    words = ["posterior=vq", "posterior.codes=4", "posterior.width=2", "posterior.quantizers=2", "prior=uniform"]
    trained(run, *words, "evaluation.samples=2")
    assert (run / "latent_codes.png").is_file()
    for words in (
        ["encode", run, "--split", "test", "--out", tmp_path / "codes.csv"],
        ["sample", run],
        ["reconstruct", run, next((run / "images").glob("*.png"))],
        ["fit-prior", run, "prior=autoregressive", "prior.hidden=8", "prior.heads=2", "--rounds", 2, "--samples", 1],
    ):  # fmt: skip
        code, printed = call(*words)
        assert code == 0, printed
    assert (tmp_path / "codes.csv").read_text().splitlines()[0].startswith("name,label,code0,code1,code2,code3,z0")
