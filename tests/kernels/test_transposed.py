"""The transposed convolution of our own against torch's operator."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from cvae.kernels import conv_transpose2d_same, transposed

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def cropped(x, weight, bias, stride):
    """TensorFlow: of the k - stride rows too many in the full result, the smaller half goes at the start."""
    extra = weight.shape[-1] - stride
    full = F.conv_transpose2d(x, weight, bias, stride)
    height, width = full.shape[2] - extra, full.shape[3] - extra
    return full[:, :, extra // 2 : extra // 2 + height, extra // 2 : extra // 2 + width]


def inputs(kernel, dtype=torch.float64, device="cpu", size=(3, 5)):
    torch.manual_seed(0)
    shapes = (2, 3, *size), (3, 4, kernel, kernel), (4,)
    return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("kernel", "stride"), [(3, 2), (5, 2), (7, 2), (4, 1), (4, 3), (6, 3), (3, 1), (4, 2), (2, 2), (1, 1)]
)
def test_values_and_gradients_are_those_of_torch_cropped(kernel, stride, device):
    parts = inputs(kernel, device=device)
    result, expected = conv_transpose2d_same(*parts, stride), cropped(*parts, stride)
    assert result.shape == (2, 4, 3 * stride, 5 * stride)
    torch.testing.assert_close(result, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad(out, parts, grad) for out in (result, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (4, 3), (4, 2), (3, 1)])
def test_derivatives_of_both_orders_are_right(kernel, stride):
    parts = inputs(kernel, size=(2, 3))
    assert gradcheck(lambda *parts: conv_transpose2d_same(*parts, stride), parts)
    assert gradgradcheck(lambda *parts: conv_transpose2d_same(*parts, stride), parts)


def test_without_a_bias_and_with_some_gradients_alone():
    x, weight, _ = inputs(3)
    torch.testing.assert_close(conv_transpose2d_same(x, weight, None, 2), cropped(x, weight, None, 2))
    for kept in (x, weight):
        other = weight if kept is x else x
        out = [f(*((kept, other.detach()) if kept is x else (other.detach(), kept)), None, 2) for f in (
            conv_transpose2d_same, cropped)]  # fmt: skip
        ours, theirs = (torch.autograd.grad(o.square().sum(), kept)[0] for o in out)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kernel", "size"), [(3, (7, 11)), (4, (6, 10))])
def test_the_backward_pass_on_a_cpu_is_ours(kernel, size, monkeypatch):
    """It works with the gradient of the result, and a row and a column more where the ends are cropped unequally."""
    seen = []
    monkeypatch.setattr(transposed, "conv2d_grad_weight", lambda x, weight, *_: seen.append(x.shape) or weight * 0)
    conv_transpose2d_same(*inputs(kernel), 2).sum().backward()
    assert seen == [(2, 4, *size)]


def test_other_devices_keep_torchs_backward_pass(monkeypatch):
    monkeypatch.setattr(transposed.ConvTransposeSame, "apply", lambda *_: pytest.fail("it is ours"))
    result = conv_transpose2d_same(*inputs(3, device="meta"), 2)
    assert result.shape == (2, 4, 6, 10) and result.device.type == "meta"


def test_under_autocast_it_computes_in_bfloat16_and_gives_float32_gradients():
    parts = inputs(3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = conv_transpose2d_same(*parts, 2)
    assert result.dtype == torch.bfloat16
    low = [part.detach().bfloat16().float().requires_grad_() for part in parts]
    expected = cropped(*low, 2)
    torch.testing.assert_close(result.float(), expected, rtol=1e-2, atol=1e-2)
    grad = torch.randn_like(expected).bfloat16().float()
    ours = torch.autograd.grad(result, parts, grad.bfloat16())
    for gradient, theirs in zip(ours, torch.autograd.grad(expected, low, grad), strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, theirs, rtol=2e-2, atol=2e-2 * theirs.abs().max().item())


def test_under_autocast_without_a_bias():
    x, weight, _ = inputs(3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = conv_transpose2d_same(x, weight, None, 2)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), cropped(x, weight, None, 2), rtol=2e-2, atol=5e-2)


def test_channels_last_stays_channels_last():
    x, weight, bias = inputs(3, torch.float32)
    x, weight = (part.detach().to(memory_format=torch.channels_last) for part in (x, weight))
    assert conv_transpose2d_same(x, weight, bias, 2).is_contiguous(memory_format=torch.channels_last)
