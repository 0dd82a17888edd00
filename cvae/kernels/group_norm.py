"""GroupNorm of a map in channels_last memory with few channels to a group, in float32 on a CPU.

Why: torch's forward pass reads such a map group by group, and the few channels that a group has at a pixel fill a part
of a vector register. Here whole rows of channels are summed over the pixels, then the few sums of each group. The
backward pass is torch's, which is as fast.

Gain (one thread with AVX-512, 128 images of 32 channels in 8 groups): forward 28x28 4.5 -> 1.6 ms, 14x14 0.56 -> 0.28
ms. With 8 channels to a group or more torch's own is as fast.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 8  # channels to a group


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """torch's, (B, C, H, W) -> the same; weight and bias (C,)."""
    pixels = x.shape[2] * x.shape[3]
    if x.device.type != "cpu" or pixels == 1 or x.shape[1] >= FEW * groups:
        return F.group_norm(x, groups, weight, bias, eps)
    return GroupNorm.apply(x, weight, bias, groups, eps)


class GroupNorm(torch.autograd.Function):
    """For the pixels of an image as rows (N, C): scale * x + shift, with a scale and a shift for each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, C), which moves no data in channels_last memory
        mean, square = (part.mean(1).unflatten(1, (groups, -1)).mean(2) for part in (rows, rows * rows))  # (B, groups)
        rstd = ((square - mean * mean).clamp(min=0) + eps).rsqrt()
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        mean, rstd = (part.repeat_interleave(x.shape[1] // groups, 1)[:, None] for part in (mean, rstd))  # (B, 1, C)
        scale = weight * rstd
        return torch.addcmul(bias - mean * scale, rows, scale).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # derivatives of these gradients are wanted: those of torch's operator
            parts = [part if part.requires_grad else part.detach().requires_grad_() for part in (x, weight, bias)]
            result = F.group_norm(parts[0], ctx.groups, *parts[1:], ctx.eps)
            return *torch.autograd.grad(result, parts, grad, create_graph=True), None, None
        sizes, wanted = (len(x), x.shape[1], x[0, 0].numel(), ctx.groups), ctx.needs_input_grad[:3]
        grads = torch.ops.aten.native_group_norm_backward(grad, x, mean, rstd, weight, *sizes, wanted)
        return *grads, None, None
