"""Which latents say something of the image, and how codes are used: against closed forms and sums over all codes."""

import math

import pytest
import torch
from code_vaes import CODES, OF_CODES, binary, vae_of
from code_vaes import ladder_of_codes as ladder
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from toys import F64, TwoGroups, eye

from cvae.distributions import Codes, OneHots, Point
from cvae.evaluation import Settings, evaluate
from cvae.evaluation.units import Means, Spread, code_sums, figures_of_codes, information_of_codes, shift
from cvae.models.trace import Latent

MANY = 4000  # images of a linear model, whose variances are known


def spread_of(means, codes=None):
    spread = Spread()
    spread.add(means if codes is None else means._replace(codes=codes))
    return spread


# Numbers


class Collapsed(TwoGroups):
    """Its lower group says nothing of x: q(z1|z2, x) is p(z1|z2), whose mean follows z2."""

    def q1(self, x, z2, A, W):
        return torch.distributions.MultivariateNormal(z2 @ A.T + self.apart, eye(3) / 4)

    apart = 0.0  # how far it is from p, the same for all images


@pytest.mark.parametrize("apart", [0.0, 2.0])
def test_a_collapsed_group_is_not_active_though_its_mean_follows_the_one_above(apart):
    vae, x = Collapsed(), torch.randn(60, 1, 2, 3, dtype=F64) * 3
    vae.apart = apart
    draws = vae(x, None, 500).latents[1].z.mean(0)
    assert (draws.var(0) > 0.03).all()  # well above the threshold for the variance of a mean, 0.01
    figures = evaluate(vae, [(x, None)], Settings(samples=40))
    assert figures["active_units"][:3] == (2, None, "of 5 latents")
    assert evaluate(TwoGroups(), [(x, None)], Settings(samples=40))["active_units"].value == 5


def test_the_variance_of_a_latent_below_is_that_of_its_shift_in_closed_form():
    """q(z1|z2, x) has the mean C (4 A z2 + 4 W^T x), p(z1|z2) A z2 and a deviation of 1/2."""
    vae, x = TwoGroups(), torch.randn(MANY, 1, 2, 3, dtype=F64)
    with torch.no_grad():
        latent = vae(x, None, 20).latents[1]
        z2 = vae.q2(x.flatten(1), vae.A, vae.W, vae.shift)
        C = torch.linalg.inv(4 * eye(3) + 4 * vae.W.T @ vae.W)
        of_z2, of_x = (4 * C - eye(3)) @ vae.A * 2, C @ vae.W.T * 8  # of the shift, in deviations of p
        gain = z2.mean.T @ torch.linalg.pinv(x.flatten(1).T)  # z2 = gain x + noise
        whole = of_z2 @ gain + of_x
        expected = (whole @ whole.T + of_z2 @ z2.covariance_matrix[0] @ of_z2.T).diagonal()
        moved = shift(latent)
        mean, square = moved.mean(0), moved.square().mean(0)
        variance = spread_of(Means(mean, square, torch.zeros_like(mean), None)).variance()
    torch.testing.assert_close(variance, expected, rtol=0.08, atol=1e-3)


def test_with_a_standard_normal_above_it_is_the_variance_of_the_mean():
    q = Independent(Normal(torch.randn(4, 5, 3), torch.rand(4, 5, 3)), 1)
    p = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    assert torch.equal(shift(Latent(torch.zeros(4, 5, 3), *[torch.zeros(4, 5)] * 2, q, p)), q.mean)


def test_active_units_without_the_noise_of_their_means():
    """The variance over the images has no correction; the mean of the estimates' own variances is subtracted."""
    mean = torch.tensor([[-0.11, -0.11, 5], [0.11, 0.11, 5]], dtype=F64)  # variances of 0.0121 and 0
    error = torch.tensor([[0.001, 0.0, 0.0], [0.0025, 0.0062, 0.0]], dtype=F64)  # 0.01035 is left, and 0.009
    for parts in ([2], [1, 1]):  # in whatever blocks
        spread = Spread()
        for block in zip(mean.split(parts), (mean**2).split(parts), error.split(parts), strict=True):
            spread.add(Means(*block, None))
        torch.testing.assert_close(spread.variance(), torch.tensor([0.01035, 0.009, 0.0], dtype=F64))
    assert spread.active() == (1, 3)
    error[1, 0] = torch.nan
    spread.add(Means(mean, mean**2, error, None))
    assert spread.active() == (None, 3)


def test_exactly_the_threshold_is_not_above_it():
    spread = Spread()
    spread.variance = lambda: torch.tensor([0.01, 0.0100001], dtype=F64)
    assert spread.active() == (1, 2)


# Codes


def one_hots(logits):
    """A group of M variables of C classes, (B, C, M), under a uniform prior, with one draw an image."""
    q, (classes, count) = OneHots(logits), logits.shape[1:]
    uniform = Independent(Categorical(logits=torch.zeros(count, classes, dtype=F64)), 1)
    read = lambda z: z.unflatten(-1, (classes, count)).argmax(-2)
    p = Codes(
        uniform, lambda codes: torch.eye(classes, dtype=F64)[codes].mT.flatten(-2), read, classes * count, classes
    )
    z = q.sample((1,))
    return Latent(z, q.log_prob(z), p.log_prob(z), q, p)


def certain(codes, classes):
    """The same of posteriors of one code, from their numbers (B, M)."""
    latent = one_hots(torch.zeros(len(codes), classes, codes.shape[1], dtype=F64))
    z = latent.p.write(codes)
    q = Point(z, z)
    return latent._replace(z=z[None], q=q)


def test_information_and_perplexity_by_a_sum_over_all_values():
    """I(x; z_m) = mean over images of KL(q(z_m|x) || q(z_m)), variable by variable, in batches."""
    logits = torch.randn(7, 4, 3, dtype=F64) * 2
    sums = sum(code_sums(one_hots(part)) for part in logits.split([3, 4]))
    torch.testing.assert_close(sums, code_sums(one_hots(torch.cat([logits, logits[:2]])), 7))
    q = Categorical(logits=logits.mT)  # batch (7, 3)
    marginal = Categorical(q.probs.mean(0))
    torch.testing.assert_close(information_of_codes(sums), kl_divergence(q, marginal).mean(0))
    pooled = Categorical(q.probs.mean((0, 1)))
    assert figures_of_codes(sums) == {
        "perplexity": pytest.approx(marginal.entropy().exp().mean().item()),
        "code_information": pytest.approx(kl_divergence(q, marginal).mean().item()),
        "codebook_perplexity": pytest.approx(pooled.entropy().exp().item()),
    }


def test_a_posterior_of_one_code_is_one_without_entropy():
    codes = torch.randint(4, (9, 3))
    counted, soft = code_sums(certain(codes, 4)), code_sums(one_hots(800.0 * torch.eye(4, dtype=F64)[codes].mT))
    torch.testing.assert_close(counted, soft)
    figures = figures_of_codes(counted)
    each = [Categorical(codes[:, m].bincount(minlength=4) / 9.0).entropy() for m in range(3)]
    assert figures["code_information"] == pytest.approx(sum(each).item() / 3)
    assert figures["perplexity"] == pytest.approx(sum(entropy.exp() for entropy in each).item() / 3)


def test_what_uses_a_codebook_and_says_nothing():
    """Each variable always its own class, and a posterior that is collapsed to the prior."""
    own = code_sums(certain(torch.arange(8).expand(20, 8), 8))
    expected = {"perplexity": 1, "code_information": 0, "codebook_perplexity": 8}
    assert figures_of_codes(own) == pytest.approx(expected, abs=1e-12)
    collapsed = figures_of_codes(code_sums(one_hots(torch.zeros(20, 10, 2, dtype=F64))))
    expected = {"perplexity": 10, "code_information": 0, "codebook_perplexity": 10}
    assert collapsed == pytest.approx(expected, abs=1e-12)
    none = Means(*torch.zeros(3, 20, 0, dtype=F64), None)
    assert spread_of(none, own).active() == (0, 8)
    telling = torch.stack([torch.zeros(20), torch.arange(20) % 2], 1).long()
    assert spread_of(none, code_sums(certain(telling, 8))).active() == (1, 2)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_active_codes_do_not_depend_on_the_scale_of_the_codebook(scale):
    vae, x = vae_of(CODES["vq"], OF_CODES["uniform"]), binary(40)
    codes = vae.posterior.read(vae.encode(x).mean)
    telling = sum(len(codes[:, m].unique()) > 1 for m in range(3))
    assert telling > 0
    with torch.no_grad():
        vae.posterior.vectors.mul_(scale), vae.encoder[1].weight.mul_(scale), vae.encoder[1].bias.mul_(scale)
    assert evaluate(vae, [(x, None)], Settings(samples=2))["active_units"][:3] == (telling, None, "of 3 latents")


# Codes on top of a hierarchy


def test_a_bound_of_codes_is_one_that_the_groups_below_tighten():
    """E log p(x, z1, code) / q(z1|x, code): samples of z1 tell how far it is off, and other codes are never drawn."""
    vae, x = ladder(), torch.randint(2, (3, 1, 4, 6)).double()
    with torch.no_grad():
        for parameter in vae.decoder.groups[0].q.parameters():  # so that q is near p, but not p
            parameter.mul_(0.3)
    few, many = (evaluate(vae, [(x, None)], Settings(samples, memory=1e-9)) for samples in (1, 600))
    for figures in (few, many):
        assert figures["nll"].meaning == "-log p(x), at most"
        assert figures["effective_samples"].value is not None
    assert many["few_effective"].value is not None  # so that the table can say that it is loose
    with torch.no_grad():  # log p(x, code) by brute force: many draws of the group below from its prior
        top, log_px = vae(x).latents[0], []
        for _ in range(10):
            px = vae.decode_noise(top.z[0].repeat(500, 1), None, [torch.randn(1500, 18, dtype=torch.float64)])
            log_px.append(px.log_prob(x.repeat(500, 1, 1, 1)).unflatten(0, (500, 3)))
        exact = -(torch.cat(log_px).logsumexp(0) - math.log(5000) + top.log_p[0]).mean().item()
    assert many["nll"].value == pytest.approx(exact, abs=0.1)
    assert few["nll"].value > exact + 0.5


def test_codes_on_top_are_the_ones_that_are_counted():
    vae, x = ladder(), torch.randint(2, (30, 1, 4, 6)).double()
    figures = evaluate(vae, [(x, None)], Settings(samples=3))
    codes = vae.posterior.read(vae.encode(x).mean)
    each = [Categorical(codes[:, m].bincount(minlength=5) / 30.0).entropy() for m in range(3)]
    assert figures["code_information"].value == pytest.approx(sum(each).item() / 3, abs=1e-6)
    assert figures["used_codes"].value == len(codes.unique())
    below = vae.groups - 1
    assert below == 1 and figures["active_units"].unit == f"of {3 + 18} latents"
