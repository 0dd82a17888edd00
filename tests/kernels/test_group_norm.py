"""GroupNorm of our own against torch's operator."""

from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from cvae.kernels import group_norm
from cvae.kernels.group_norm import GroupNorm

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def inputs(channels=6, size=(3, 5), dtype=torch.float64, device="cpu"):
    torch.manual_seed(0)
    x = 2 + 3 * torch.randn((2, channels, *size), dtype=dtype, device=device)
    return [part.requires_grad_() for part in (x, *torch.randn(2, channels, dtype=dtype, device=device))]


def ours(x, weight, bias, groups, eps=0.1):
    return group_norm(x, groups, weight, bias, eps)


def of_torch(x, weight, bias, groups, eps=0.1):
    return F.group_norm(x, groups, weight, bias, eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (6, 6), (6, 1), (20, 2), (32, 8)])
@pytest.mark.parametrize("size", [(3, 5), (4, 4), (1, 7)])
def test_values_and_gradients_are_those_of_torch(channels, groups, size, layout, device):
    x, weight, bias = inputs(channels, size, device=device)
    x = x.detach().to(memory_format=layout).requires_grad_()
    result, expected = (f(x, weight, bias, groups) for f in (ours, of_torch))
    torch.testing.assert_close(result, expected)
    grad = torch.randn_like(expected)
    for one, other in zip(*(torch.autograd.grad(f, (x, weight, bias), grad) for f in (result, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_derivatives_of_both_orders_are_right():
    parts = inputs(4, (2, 3))
    assert gradcheck(lambda *parts: ours(*parts, 2), parts)
    assert gradgradcheck(lambda *parts: ours(*parts, 2), parts)


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_one_input_alone(index, create_graph):
    parts = [part.detach() for part in inputs()]
    parts[index].requires_grad_()
    one, other = (
        torch.autograd.grad(f(*parts, 3).square().sum(), parts[index], create_graph=create_graph)[0]
        for f in (ours, of_torch)
    )
    torch.testing.assert_close(one, other)


def test_channels_last_stays_channels_last_in_both_passes():
    x, weight, bias = inputs(dtype=torch.float32)
    x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    result = ours(x, weight, bias, 2)
    (grad,) = torch.autograd.grad(result, x, torch.randn_like(result))
    for maps in (result, grad):
        assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    """As near to float64 as torch's operator."""
    parts = [part.detach().to(dtype) for part in inputs()]
    exact = of_torch(*(part.double() for part in parts), 2)
    differences = [(f(*parts, 2).double() - exact).abs().max().item() for f in (ours, of_torch)]
    assert differences[0] < 2 * differences[1] + 1e-6


def test_a_constant_map_has_no_variance_below_zero():
    """In float32 the mean of the squares can be less than the square of the mean."""
    x = torch.linspace(1000, 1001, 40)[:, None, None, None].expand(40, 2, 5, 5)
    square, mean = x.square().mean((1, 2, 3)), x.mean((1, 2, 3))
    assert (square < mean * mean).any()
    torch.testing.assert_close(
        ours(x, torch.ones(2), torch.zeros(2), 1, 1e-3), torch.zeros(40, 2, 5, 5), rtol=0, atol=1
    )


@pytest.mark.parametrize(
    ("channels", "groups", "size", "device", "own"),
    [
        (14, 2, (3, 5), "cpu", True),
        (16, 2, (3, 5), "cpu", False),  # as fast by torch
        (14, 2, (1, 1), "cpu", False),
        (14, 2, (1, 2), "cpu", True),
        (14, 2, (3, 5), "meta", False),
    ],
)
def test_where_it_is_ours(channels, groups, size, device, own, monkeypatch):
    apply = Mock(side_effect=lambda x, *_: x)
    monkeypatch.setattr(GroupNorm, "apply", apply)
    ours(*(part.detach().to(device) for part in inputs(channels, size)), groups)
    assert apply.called is own
