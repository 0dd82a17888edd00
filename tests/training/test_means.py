"""Sums over images: exact means whatever the batches were."""

import math
from types import SimpleNamespace

import pytest
import torch
from code_vaes import CODES, OF_CODES, binary, ladder_of_codes, vae_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Categorical

from cvae.objectives import Terms
from cvae.training.means import CodeCounts, Totals, counted_codes, named, of_training, selection, summed


def terms(values, **parts):
    """Terms whose figures are multiples of the values (B,), each of another."""
    values = torch.as_tensor(values)
    return Terms(values * 4, values * 5, values * 2, values * 3, parts)


def test_means_are_over_images_whatever_the_batches():
    """Unlike the tutorial's mean of batch means, in which a short last batch weighs as much as a full one."""
    values = torch.randn(10)
    whole, parts, merged = Totals(), Totals(), Totals()
    whole.add(terms(values))
    for part in (values[:7], values[7:]):
        parts.add(terms(part))
        one = Totals()
        one.add(terms(part))
        merged.merge(one)
    expected = values.double().mean().item()
    factors = {"elbo": -5, "rate": 2, "distortion": 3, "loss": 4, "bound": 5}
    for totals in (whole, parts, merged):
        assert totals.count == 10
        assert totals.means() == pytest.approx({name: f * expected for name, f in factors.items()}, abs=1e-6)
        assert totals.means_of_all_processes() == totals.means()  # of one process


def test_parts_have_means_too():
    totals = Totals()
    totals.add(terms([1.0, 2.0], mmd=torch.tensor([5.0, 7.0])))
    totals.add(terms([3.0], mmd=torch.tensor([9.0])))
    assert totals.means()["mmd"] == pytest.approx(7) and list(totals.means())[-1] == "mmd"


def test_sums_keep_small_differences_of_large_figures():
    """60,000 figures near 1e4: a float32 sum of that size has no digits left for the third decimal."""
    totals, value = Totals(), torch.tensor(10000.123)
    for _ in range(600):
        totals.add(terms(value.repeat(100)))
    assert totals.means()["rate"] == pytest.approx((2 * value).item(), abs=1e-7)
    in_float32 = sum((2 * value).repeat(100).sum() for _ in range(600)) / 60000
    assert abs(in_float32.item() - (2 * value).item()) > 1e-4  # the test can fail


def test_nothing_is_kept_after_a_reset_nor_of_the_graph():
    totals, values = Totals(), torch.ones(3, requires_grad=True)
    totals.add(terms(values))
    assert not totals.total().requires_grad
    totals.reset()
    assert totals.count == 0 and totals.sums == [] and totals.not_finite() is None
    totals.add(terms([2.0]))
    assert totals.means()["rate"] == 4
    empty = Totals()
    empty.merge(Totals())
    assert empty.count == 0
    empty.merge(totals)
    assert empty.means() == totals.means()


def test_processes_are_summed_before_the_mean(monkeypatch):
    """Two processes, one with 1 image and one with 3: the all-reduce adds sums and counts."""
    other = Totals()
    other.add(terms([10.0, 20.0, 30.0]))

    def all_reduce(both):
        both += torch.cat([other.total(), other.total().new_tensor([other.count])])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    totals = Totals()
    totals.add(terms([4.0]))
    assert totals.means_of_all_processes()["rate"] == pytest.approx(2 * 16)
    assert totals.count == 4


def test_nothing_to_merge_changes_nothing():
    totals = Totals()
    totals.add(terms([2.0, 4.0]))
    totals.merge(Totals())
    assert totals.count == 2 and totals.means()["rate"] == 6


def test_a_torch_without_several_processes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: pytest.fail("such a build has no such function"))
    totals = Totals()
    totals.add(terms([2.0]))
    assert totals.means_of_all_processes()["rate"] == 4


def test_sums_are_named_and_in_float64():
    names, sums = summed(terms([1.0, 2.5], mmd=torch.tensor([5.0, 7.0])))
    assert names == ("elbo", "rate", "distortion", "loss", "bound", "mmd")
    assert sums.tolist() == [-17.5, 7, 10.5, 14, 17.5, 12] and sums.dtype == torch.float64


def test_the_first_batch_that_is_not_finite_is_named():
    totals = Totals()
    for values in ([1.0], [2.0, 3.0]):
        totals.add(terms(values))
        assert totals.not_finite() is None
    totals.add(terms([1.0], mmd=torch.tensor([math.inf])))
    totals.add(terms([math.nan]))
    totals.names, totals.sums[2] = totals.names[:5], totals.sums[2][1:]  # the infinite one is the fifth now
    assert totals.not_finite() == (2, {"bound": math.inf})


def test_a_state_has_every_batch():
    """Not their sum alone: added up later with others it would differ in the last bits."""
    totals, other = Totals(), Totals()
    totals.add(terms([1.0, 2.0]))
    totals.add(terms([4.0]))
    state = totals.state_dict()
    totals.add(terms([5.0]))  # the state stays as it was
    other.load_state_dict(state, torch.device("cpu"))
    assert other.count == 3 and other.names == totals.names
    assert [sums.tolist() for sums in other.sums] == [sums.tolist() for sums in totals.sums[:2]]
    other.add(terms([5.0]))
    assert other.means() == totals.means() and len(state["sums"]) == 2
    other.load_state_dict(state, torch.device("meta"))
    assert other.sums[0].device.type == "meta"


@pytest.mark.parametrize("processes", [1, 2])
def test_how_the_codes_of_a_set_are_used(monkeypatch, processes):
    """Over all batches, code by code: exp(entropy) of how often each value came, and what it says of the image."""
    vae, x, counted = vae_of(CODES["vq"], OF_CODES["uniform"]), binary(7), CodeCounts()
    vae.register_forward_hook(counted)
    for part in x.split(4):
        vae(part, samples=3)
    codes = vae.posterior.read(vae.encode(x).mean)  # (7, 3)
    if processes == 2:  # the other one has 9 images with code 3 alone
        other = torch.zeros(3, 6, dtype=torch.float64)
        other[:, 3] = 9
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(other))
        codes = torch.cat([codes, torch.full((9, 3), 3)])
    entropy = lambda codes: Categorical(codes.flatten().bincount(minlength=5) / codes.numel()).entropy().item()
    each = [entropy(column) for column in codes.T]
    assert max(each) > 0.5
    assert counted.figures_of_all_processes() == {
        "perplexity": pytest.approx(sum(map(math.exp, each)) / 3),
        "code_information": pytest.approx(sum(each) / 3),
        "codebook_perplexity": pytest.approx(math.exp(entropy(codes))),
    }


def test_of_a_hierarchy_the_codes_on_top_are_counted():
    vae, x, counted = ladder_of_codes(), torch.randint(2, (20, 1, 4, 6)).double(), CodeCounts()
    vae.register_forward_hook(counted)
    vae(x, samples=2)
    codes = vae.posterior.read(vae.encode(x).mean)
    expected = [column.bincount(minlength=5).tolist() for column in codes.T]
    assert counted.sums[:, :-1].tolist() == expected and counted.sums[:, -1].eq(0).all()


def test_sums_are_sent_to_other_processes_in_main_memory():
    """A process that unpickles a tensor of a GPU takes some hundred megabytes of that GPU's memory."""
    with FakeTensorMode():
        totals = Totals()
        totals.add_sums(("elbo",), torch.ones(1, dtype=torch.float64, device="cuda"), 3)
        state = totals.state_dict()
    assert [sums.device.type for sums in state["sums"]] == ["cpu"] and state["count"] == 3


def test_sums_of_a_checkpoint_are_of_the_type_that_the_device_has(monkeypatch):
    """A run that began on a CPU and goes on with MPS, which has no float64; and back."""
    asked, to = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda sums, device, dtype: asked.append(device.type) or to(sums, dtype))
    totals = Totals()
    for device, before, after in (("mps", torch.float64, torch.float32), ("cpu", torch.float32, torch.float64)):
        state = {"names": ["elbo"], "sums": [torch.ones(1, dtype=before)], "count": 3}
        totals.load_state_dict(state, torch.device(device))
        assert totals.sums[0].dtype == after and asked[-1] == device


def test_what_means_of_training_images_are_called():
    """Relaxed draws have an ELBO of their own; models are chosen by the bound, or minus the loss."""
    means = {"elbo": -3.0, "rate": 1.0, "loss": 3.0, "bound": -3.0}
    plain, relaxed = (SimpleNamespace(posterior=SimpleNamespace(relaxed=value)) for value in (False, True))
    assert of_training(means, plain) == means
    assert of_training(means, relaxed) == {"relaxed_elbo": -3.0, "relaxed_rate": 1.0, "loss": 3.0}
    assert selection(means) == {"selection/bound": -3.0} and selection({"minus_loss": 2.0}) == {
        "selection/minus_loss": 2.0
    }
    assert named("test", means | {"minus_loss": -3.0}) == {"test/elbo": -3.0, "test/rate": 1.0, "test/loss": 3.0}


def test_codes_are_counted_within_the_context_alone():
    vae, x = vae_of(CODES["vq"], OF_CODES["uniform"]), binary(7)
    with counted_codes(vae) as codes:
        vae(x)
    before = codes.sums.clone()
    vae(x)
    assert torch.equal(codes.sums, before) and not vae._forward_hooks


def test_an_objective_without_a_bound_has_minus_its_loss():
    names, sums = summed(Terms(torch.tensor([1.0, 2.5]), None, torch.tensor([2.0, 3.0]), torch.tensor([4.0, 5.0]), {}))
    assert dict(zip(names, sums.tolist(), strict=True))["minus_loss"] == -3.5 and "bound" not in names
