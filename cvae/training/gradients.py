"""Average gradients over the processes of a run, and clip them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins import Precision
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import Tensor
from torch.optim import Optimizer

from cvae.training.shared_memory import shared_sum

Add = Callable[[Tensor], Any]  # adds up a tensor of each process, in place
Clip = Callable[[Optimizer], Any]  # changes the gradients of the optimizer's parameters


def clipping(precision: Precision, value: float | None, algorithm: str | None) -> Clip | None:
    """The function that clips gradients before an optimizer step, without a wait for the device. None if value is None.

    It calls Lightning's functions, as Lightning's trainer does not clip if the module takes the steps.

    Args:
        value: the largest norm of all gradients together, or with algorithm="value" the largest size of each number in
            them
    """
    if value is None:
        return None
    clip = precision.clip_grad_by_value if algorithm == "value" else precision.clip_grad_by_norm
    return lambda optimizer: clip(optimizer, value)


def sum_over_processes(strategy: Strategy) -> Add | None:
    """What adds up a tensor of each process, in place; None where there is one process. All processes must call it."""
    if not several_processes():
        return None
    if strategy.root_device.type == "cpu":
        look = getattr(strategy.launcher, "require_all", lambda: None)
        patience: Any = getattr(strategy, "_timeout")  # noqa: B009, of DDP's alone
        if shared := shared_sum(look, patience.total_seconds()):
            return shared
    return dist.all_reduce


def average(optimizer: Optimizer, add: Add) -> None:
    """Average the gradients over the processes, of which each must call it; a parameter without one counts as zero.

    One sum of one tensor: all processes get the same numbers to the last bit.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    add(flat)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])


def as_in_first_process(tensors: Iterable[Tensor]) -> None:
    """Copy the first process's values to the others, in place; every process must call it."""
    if several_processes():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            dist.broadcast(values, 0)
            tensor.detach().copy_(values)


def several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def without_wrapper(strategy: DDPStrategy) -> None:
    """Let Lightning copy the initial weights to all processes, and no more: our loop averages the gradients.

    torch's DDP wrapper would average after each `backward`, also within an accumulated step.
    """

    def configure_ddp() -> None:
        model: Any = strategy.model
        as_in_first_process([*model.parameters(), *model.buffers()])

    strategy.configure_ddp = configure_ddp  # type: ignore[method-assign]
