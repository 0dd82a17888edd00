"""The convolution to one channel against torch's operators."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from cvae.kernels import conv2d_to_one_channel, serves_one_channel


def inputs(kernel, transposed, dtype=torch.float64, size=(4, 6)):
    torch.manual_seed(0)
    weight = (3, 1, kernel, kernel) if transposed else (1, 3, kernel, kernel)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((2, 3, *size), weight, (1,))]


def of_torch(x, weight, bias, transposed):
    operator = F.conv_transpose2d if transposed else F.conv2d
    return operator(x, weight, bias, 1, weight.shape[-1] // 2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(kernel, transposed, bias, layout):
    x, weight, b = inputs(kernel, transposed)
    x = x.detach().to(memory_format=layout).requires_grad_()
    parts, b = ([x, weight, b], b) if bias else ([x, weight], None)
    result, expected = conv2d_to_one_channel(x, weight, b, transposed), of_torch(x, weight, b, transposed)
    assert result.shape == (2, 1, 4, 6)
    torch.testing.assert_close(result, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad(out, parts, grad) for out in (result, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("transposed", [False, True])
def test_derivatives_of_both_orders_are_right(transposed):
    parts = inputs(3, transposed, size=(2, 3))
    assert gradcheck(lambda *parts: conv2d_to_one_channel(*parts, transposed), parts)
    assert gradgradcheck(lambda *parts: conv2d_to_one_channel(*parts, transposed), parts)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_one_input_alone(transposed):
    for index in range(3):
        parts = [part.detach() for part in inputs(3, transposed)]
        parts[index].requires_grad_()
        ours, theirs = (
            torch.autograd.grad(f(*parts, transposed).square().sum(), parts[index])[0]
            for f in (conv2d_to_one_channel, of_torch)
        )
        torch.testing.assert_close(ours, theirs)


def test_it_serves_one_channel_in_full_precision_on_a_cpu():
    x = torch.zeros(1, 2, 4, 4)
    assert serves_one_channel(x, 1)
    assert serves_one_channel(x.double(), 1)
    assert not serves_one_channel(x, 2)
    assert not serves_one_channel(x.bfloat16(), 1)
    assert not serves_one_channel(x.half(), 1)
    assert not serves_one_channel(x.to("meta"), 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not serves_one_channel(x, 1)
