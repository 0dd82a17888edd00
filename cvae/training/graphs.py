"""Training steps as CUDA graphs: recorded once, then replayed, so that a GPU does not wait for Python.

A step of the tutorial is about a hundred small kernels. Python needs longer to start each of them than the GPU to run
it. A CUDA graph starts all of them at once (torch's documentation, "CUDA semantics", "Whole-network capture").
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

log = logging.getLogger(__name__)

WARM_UP = 3  # steps before one is recorded, in which torch and its libraries set up what they keep

Step = Callable[..., Tensor]
Recorded = tuple[Callable[[], None], Tensor]  # what replays a step, and the tensor that then has its result


def on_device(value: Tensor | int, device: torch.device) -> Tensor:
    """A number as a tensor (), filled there: `torch.tensor` would copy it to a GPU, and wait. A tensor as it is."""
    return value if isinstance(value, Tensor) else torch.full((), value, device=device)


def record(step: Step, inputs: list[Tensor]) -> Recorded:
    """Record a step on `inputs`, the tensors that each replay reads; nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(*inputs)
    return graph.replay, result


class Graphed:
    """`step`, replayed from a recording that is made after WARM_UP calls with inputs of these sizes.

    Every call takes a step and returns what `step` does, so results are those of `step` itself. All that changes from
    step to step must be in the inputs, in the parameters or in the noise of the device's generator, which may be seeded
    between two calls. The learning rates may change, too: then the step is recorded anew.

    Where a step cannot be recorded, one line says so, and all steps are taken as they come.

    Args:
        step: tensors and integers on the device -> a tensor; takes an optimizer step
        optimizer: whose learning rates a recording holds
        device: a CUDA device
    """

    def __init__(self, step: Step, optimizer: Optimizer, device: torch.device) -> None:
        self.step, self.optimizer, self.device = step, optimizer, device
        self.calls: Counter = Counter()  # sizes -> calls
        self.recordings: dict[Any, tuple[list[Tensor], Recorded]] = {}
        self.rates: list = []
        self.can_record = True

    def __call__(self, *inputs: Tensor | int) -> Tensor:
        tensors = [on_device(part, self.device) for part in inputs]
        sizes = tuple((part.shape, part.dtype) for part in tensors)
        if not self.can_record:
            return self.step(*tensors)
        if self.calls[sizes] < WARM_UP:
            self.calls[sizes] += 1
            return self.warm_up(tensors)
        if (rates := [group["lr"] for group in self.optimizer.param_groups]) != self.rates:
            self.recordings.clear()
            self.rates = rates
        if sizes not in self.recordings and not self.recorded(sizes, tensors):
            return self.step(*tensors)
        held, (replay, result) = self.recordings[sizes]
        for own, new in zip(held, tensors, strict=True):
            own.copy_(new)
        replay()
        return result.clone()  # the next replay writes into it

    def recorded(self, sizes: Any, tensors: list[Tensor]) -> bool:
        """Whether the step could be recorded."""
        held = [part.clone() for part in tensors]
        try:
            self.recordings[sizes] = held, record(self.step, held)
        except RuntimeError as error:
            reason = " ".join(str(error).strip().splitlines()[:1])
            log.warning("Training goes on without CUDA graphs, since this step cannot be recorded: %s", reason)
            self.can_record = False
        return self.can_record

    def warm_up(self, tensors: list[Tensor]) -> Tensor:
        """Take a step as it comes, on a stream of its own as recordings are made on one."""
        side, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = self.step(*tensors)
        current.wait_stream(side)
        return result
