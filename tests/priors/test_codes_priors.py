"""Priors of codes: masses that sum to one, draws that have them, and what each code depends on."""

import pytest
import torch
from code_vaes import OF_CODES, M
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode

from cvae.errors import ConfigError
from cvae.priors import AutoregressiveCodes, UniformCodes

C = 4


def every():
    return torch.cartesian_prod(*[torch.arange(C)] * M)


def shaken(name):
    """A prior off its start, in float64."""
    prior = OF_CODES[name](M, None, C).double().eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


@pytest.mark.parametrize("name", OF_CODES)
def test_masses_sum_to_one_and_draws_have_them(name):
    p = shaken(name)(None)
    assert (p.batch_shape, p.event_shape) == ((), (M,))
    masses = p.log_prob(every()).exp()
    assert masses.shape == (C**M,) and masses.sum().item() == pytest.approx(1)
    draws = p.sample((20000,))
    assert draws.shape == (20000, M) and draws.dtype == torch.long
    share = (draws @ torch.tensor([C**2, C, 1])).bincount(minlength=C**M) / 20000
    assert ((share - masses).abs() < 5 * (masses * (1 - masses) / 20000).sqrt()).all()
    assert p.sample().shape == (M,) and p.sample((2, 3)).shape == (2, 3, M)
    torch.testing.assert_close(p.log_prob(every()[:6].view(2, 3, M)), masses[:6].log().view(2, 3))


def test_a_new_prior_is_uniform():
    for prior in (UniformCodes(M, None, C), AutoregressiveCodes(M, None, C)):
        log_masses = prior(None).log_prob(every())
        torch.testing.assert_close(log_masses, torch.full((C**M,), -M * torch.tensor(float(C)).log()))


def test_each_code_depends_on_all_before_it_and_none_after():
    """By the gradient of each position's logits with respect to the embedding of each code."""
    prior, codes = shaken("autoregressive"), torch.tensor([[1, 0, 2]])
    seen = []

    def keep(module, inputs, output):
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    prior.embedding.register_forward_hook(keep)
    logits = prior.logits(codes[:, :-1])
    assert logits.shape == (1, M, C)
    depends = torch.stack(
        [torch.autograd.grad(logits[0, m].square().sum(), seen, retain_graph=True)[0][0] for m in range(M)]
    )
    # The first place holds no code; place m holds code m - 1.
    assert torch.equal(depends.abs().sum(-1) > 1e-9, torch.ones(M, M).tril().bool())


def test_the_next_code_by_what_is_kept_is_the_next_code_by_all():
    """Place after place, with several heads and layers and one row unlike the others."""
    prior = AutoregressiveCodes(6, None, C, hidden=8, layers=3, heads=2).double().eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    codes, past = torch.randint(C, (5, 6)), None
    for m in range(6):
        logits, past = prior.next(codes[:, :m], past)
        assert logits.shape == (5, C)
        torch.testing.assert_close(logits, prior.logits(codes[:, :m])[:, -1])
    assert [seen.shape for seen in past] == [(2, 5, 2, 6, 4)] * 3, (
        "each layer's keys and values, of each head and place"
    )


def test_nothing_waits_for_the_device():
    """Neither a density nor a draw reads a number, which a recorded step could not do either."""

    class Reads(TorchDispatchMode):
        names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.name())
            return func(*args, **(kwargs or {}))

    p = shaken("autoregressive")(None)
    with Reads():
        p.log_prob(every())
        p.sample((3,))
    assert "aten::embedding" in Reads.names and "aten::_local_scalar_dense" not in Reads.names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_have_the_digits_of_the_model(dtype):
    """Under autocast too."""
    prior, codes = shaken("autoregressive").to(dtype), torch.tensor([[3, 1]])
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            all_of_them, (last, _) = prior.logits(codes[:, :0]), prior.next(codes[:, :0], None)
        assert (all_of_them.dtype, last.dtype) == (dtype, dtype)


def test_autoregressive_by_the_chain_rule():
    prior, codes = shaken("autoregressive"), torch.tensor([[3, 1, 2]])
    expected = sum(Categorical(logits=prior.logits(codes[:, :m])[:, -1]).log_prob(codes[:, m]) for m in range(M))
    torch.testing.assert_close(prior(None).log_prob(codes), expected)
    assert (prior.embedding.num_embeddings, prior.position.shape) == (C + 1, (M, 8))
    permuted = prior(None).log_prob(codes.flip(1))
    assert (permuted - expected).abs() > 1e-3, "positions and order matter"


@pytest.mark.parametrize("key", ["hidden", "layers", "heads"])
@pytest.mark.parametrize("value", [0, 1.5, "two", True, None])
def test_impossible_options_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}=.*must be a positive integer"):
        AutoregressiveCodes(2, None, 3, **{key: value})
    with pytest.raises(ConfigError, match="^heads=3: must be a divisor of hidden, 128$"):
        AutoregressiveCodes(2, None, 3, heads=3)
