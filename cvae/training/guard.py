"""Steps that are left out because their gradient is too large, decided on the device."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cvae.errors import ConfigError
from cvae.runs.directory import first_process

log = logging.getLogger(__name__)
aten = torch.ops.aten


class Guard(nn.Module):
    """The norm of a gradient, and a limit above which a step changes nothing (Child 2021, "skip threshold").

    A step is left out where the norm is above the limit or no number (a loss that is no number ends the run). All
    processes have the same gradient, and so decide alike. Parameters, the optimizer's state and averages of weights
    stay as they were. Buffers that the model changes while it is evaluated (codebooks by moving averages) follow the
    images, not the gradient: they do change.

    Its buffers are in no state_dict: a checkpoint has them as numbers.

    Args:
        above: the limit, of the gradient of all weights before it is clipped, nats an image; None: no step is left out
    """

    norm: Tensor  # () of the last gradient that was measured
    skipped: Tensor  # () int64, steps left out

    def __init__(self, above: float | None) -> None:
        super().__init__()
        self.above = above
        self.fresh = False  # whether the norm was measured since it was last read
        self.register_buffer("norm", torch.zeros(()), persistent=False)
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long), persistent=False)

    def decides_on(self, device: torch.device) -> bool:
        """Whether all that a step changes must be on this device, since it decides whether the step is taken."""
        return self.above is not None and device.type == "cuda"

    def prepare(self, optimizer: Optimizer) -> None:
        """Before the first step: it may be left out, and the next one must find what the first would have found."""
        if self.above is not None and not optimizer.state:
            prepare_state(optimizer)

    def wants(self, step: int, every: int) -> bool:
        """Whether to measure in step `step`, counted from 1, where a point is drawn after so many."""
        return self.above is not None or step % every == 0

    def measure(self, optimizer: Optimizer) -> None:
        """Note the norm of the gradient; waits for nothing."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.norm.copy_(nn.utils.get_total_norm(gradients))

    def watching(self, optimizer: Optimizer, others: Iterable[Tensor]) -> AbstractContextManager[None]:
        """What happens inside to parameters, the optimizer's state and `others` is undone if the norm is too large."""
        return nullcontext() if self.above is None else self.undoing(self.above, optimizer, others)

    @contextmanager
    def undoing(self, above: float, optimizer: Optimizer, others: Iterable[Tensor]) -> Iterator[None]:
        tensors = [*of_optimizer(optimizer), *others]
        before = [tensor.detach().clone() for tensor in tensors]
        yield
        keep = self.norm.le(above)
        for tensor, old in zip(tensors, before, strict=True):
            tensor.detach().copy_(torch.where(keep.to(tensor.device), tensor.detach(), old))
        self.skipped.add_(keep.logical_not())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; waits for the device."""
        return {"norm": self.norm.item(), "fresh": self.fresh, "skipped": int(self.skipped)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.norm.fill_(state.get("norm", 0.0))
        self.skipped.fill_(state.get("skipped", 0))
        self.fresh = state.get("fresh", False)

    def curves(self) -> dict[str, float]:
        """Points to draw: the norm if there is a new one, how many steps were left out. Waits for the device."""
        new, self.fresh = self.fresh, False
        norm = {"train/gradient_norm": self.norm.item()} if new else {}
        return norm | self.counted()

    def of_epoch(self, steps: int) -> dict[str, float]:
        """How many steps were left out up to an epoch's end; a warning if they are most of all `steps`."""
        if self.above is not None and 2 * (skipped := int(self.skipped)) > steps and first_process():
            counts = f"{skipped} of {steps} steps were skipped; the last gradient's norm was {self.norm.item():.4g}"
            log.warning("trainer.skip_above=%g: %s. Choose a higher limit", self.above, counts)
        return self.counted()

    def counted(self) -> dict[str, float]:
        return {} if self.above is None else {"train/skipped_steps": float(self.skipped)}


def of_optimizer(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of an optimizer and what it keeps of them."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [value for p in parameters for value in optimizer.state.get(p, {}).values() if isinstance(value, Tensor)]
    return [*parameters, *kept]


class Undone(TorchDispatchMode):
    """Keeps each tensor that an operator changes in place as it was before; new tensors begin as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if operator._schema.is_mutable:
            for part in tree_leaves((args, kwargs)):
                if isinstance(part, Tensor) and id(part) not in self.before:
                    self.before[id(part)] = (part, part.clone())
        result = operator(*args, **(kwargs or {}))
        return result.zero_() if operator.overloadpacket in (aten.empty_like, aten.empty) else result

    def put_back(self) -> None:
        for tensor, old in reversed(self.before.values()):  # several of them may be views of the same numbers
            tensor.copy_(old)


@torch.no_grad()
def prepare_state(optimizer: Optimizer) -> None:
    """Let an optimizer have the state that it begins with, which torch's make within their first step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    decays = [group.get("weight_decay") for group in optimizer.param_groups]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:  # SGD's momentum would begin with it
        group["weight_decay"] = 0
    with Undone() as undone:
        optimizer.step()
    undone.put_back()
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for p in parameters:
        p.grad = None


def require_exact(above: float, make: Callable, name: str) -> None:
    """Raise ConfigError unless an optimizer takes its steps as if those that are left out had never been there.

    Not exact are SGD with dampening, whose first step differs from the others, and an optimizer that counts in Python.

    Args:
        above: trainer.skip_above
        make: parameter groups -> the optimizer
        name: of its class
    """
    ends = []
    for gradients in ((0.5, 0.25), (9.0, 0.5, 9.0, 0.25)):  # of which 9 is left out
        weight = nn.Parameter(torch.ones(1))
        optimizer, guard = make([{"params": [weight]}]), Guard(1.0)
        if 9.0 in gradients:
            guard.prepare(optimizer)
        for gradient in gradients:
            weight.grad = torch.full_like(weight, gradient)
            guard.measure(optimizer)
            with guard.watching(optimizer, ()):
                optimizer.step()
        ends.append(weight.detach())
    if not torch.equal(*ends):
        why = "its first step differs, as with dampening, or it keeps numbers that are no tensors"
        allowed = f"null with {name} and these values, which cannot go on exactly after a step that is left out: {why}"
        raise ConfigError("trainer.skip_above", above, allowed)
