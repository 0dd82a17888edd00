"""Training steps as CUDA graphs: recorded once, then replayed, so that a GPU does not wait for Python.

A step of the tutorial is about a hundred small kernels. Python needs longer to start each of them than the GPU to run
it. A CUDA graph starts all of them at once (torch's documentation, "CUDA semantics", "Whole-network capture").

A replay repeats the kernels of one step with the numbers that Python gave them then. So nothing is taken on trust: two
steps before a recording must call the same operators with the same numbers, and its first replays, whose seed and step
number are others, must do what the step itself does. Where one of these fails, or a recording, or a replay, one line
says why, and steps are taken as they come.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cvae.training.step_state import Kept, Operators, StepState, difference, shares

log = logging.getLogger(__name__)

WARM_UP = 4  # steps before one is recorded, in which torch and its libraries set up what they keep
# The two of them whose operators are compared. torch.compile is off while they are noted, and compiles in the first.
NOTED = (2, 3)
CHECKED = 2  # replays of a recording that are held against the step itself
TOLERANCE = 0.01  # of the change that a step makes
NOISE = 10  # times the difference of two steps that should be the same: kernels may add up in any order

FIGURES = "the sums of the figures"  # what a step returns, as a log line names it

Step = Callable[..., Tensor]


def on_device(value: Tensor | int | float, device: torch.device) -> Tensor:
    """A number as a tensor () that is filled on the device: `torch.tensor` would copy and wait. A tensor as it is."""
    return value if isinstance(value, Tensor) else torch.full((), value, device=device)


def capturable(optimizer: Optimizer, wanted: bool) -> None:
    """Tell an optimizer whether its steps are recorded, so that it counts them on the device.

    A checkpoint may come from another device. Some optimizers have no such option; their steps on the device
    can be recorded if they are fused, which the operators of two steps show.
    """
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = wanted
        counts_there = group.get("capturable") or group.get("fused")
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and not value.dim() and (counts_there or key == "step"):
                    optimizer.state[parameter][key] = value.to(parameter.device if counts_there else "cpu")
    optimizer._warned_capturable_if_run_uncaptured = True  # the first steps are not recorded, and that is meant


def record(step: Step, inputs: list[Tensor], stream: Any) -> tuple[Callable[[], None], Tensor]:
    """Record a step on `inputs`, the tensors that each replay reads; nothing is computed yet.

    Returns the function that replays the step, and the tensor that it writes the result to.
    """
    graph = torch.cuda.CUDAGraph()
    # torch's own stream is on the first device that recorded. What other threads do (pin a batch) is their affair.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = step(*inputs)
    return graph.replay, result


def cause(error: BaseException) -> str:
    """The first line of the first error: a failed recording raises another one at its end."""
    while error.__context__:
        error = error.__context__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Recording:
    """The steps with inputs of the same sizes: what they called before they were recorded, then the recording."""

    def __init__(self) -> None:
        self.calls, self.replays = 0, 0
        self.operators: list = []
        self.inputs: list[Tensor] = []
        self.replay: Callable[[], None] | None = None
        self.result = torch.empty(0)


class Graphed:
    """`step`, replayed from a recording that is made after WARM_UP calls with inputs of these sizes.

    Every call takes a step and returns what `step` does, so results are those of `step` itself. All that changes from
    step to step must be in the inputs, in tensors that are changed in place, or in the noise of the device's generator,
    which may be seeded between two calls. The learning rates may change, too: a recording reads them from tensors, or
    is made anew where the optimizer does not.

    Args:
        step: tensors and integers on the device -> a tensor; takes an optimizer step
        optimizer: the one that it uses, see `capturable`
        device: a CUDA device
        module: what the step trains
    """

    def __init__(self, step: Step, optimizer: Optimizer, device: torch.device, module: nn.Module) -> None:
        self.step, self.optimizer, self.device = step, optimizer, device
        self.state = StepState(module, optimizer, device)
        self.recordings: dict[Any, Recording] = {}
        self.rates: list[float] = []
        self.read: list[Tensor | float] = []  # what steps read as learning rates
        self.recorded = True  # whether steps are

    def __call__(self, *inputs: Tensor | int) -> Tensor:
        tensors = [on_device(part, self.device) for part in inputs]
        if not self.recorded:
            return self.step(*tensors)
        with self.apart():
            self.follow_rates()
            sizes = tuple((part.shape, part.dtype) for part in tensors)
            recording = self.recordings.setdefault(sizes, Recording())
            if recording.calls < WARM_UP:
                return self.warm_up(recording, tensors)
            if not recording.replay and not self.record(recording, tensors):
                return self.step(*tensors)
            for own, new in zip(recording.inputs, tensors, strict=True):
                own.copy_(new)
            if recording.replays < CHECKED:
                recording.replays += 1
                return self.check(recording, tensors)
            return self.replay(recording, tensors)

    @cached_property
    def stream(self) -> Any:
        return torch.cuda.Stream(self.device)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside this context all work is on a separate stream of the module's device, as recording requires."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)

    def follow_rates(self) -> None:
        """Write a changed learning rate to where the recordings read it; drop the recordings if they cannot read it."""
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        if rates == self.rates:
            return
        tensors = [rate for rate in self.read if isinstance(rate, Tensor)]
        if len(rates) == len(self.read) == len(tensors):
            for read, rate in zip(tensors, rates, strict=True):
                read.fill_(rate)
        else:
            self.recordings.clear()
            # Others make a number of a tensor, and so wait for it.
            taken = all("capturable" in group or group.get("fused") for group in groups)
            self.read = [on_device(float(rate), self.device) if taken else rate for rate in rates]
        self.rates = rates

    def take(self, *tensors: Tensor) -> Tensor:
        """The step, whose optimizer finds tensors in place of its learning rates; schedules and checkpoints do not."""
        groups = self.optimizer.param_groups
        for group, read in zip(groups, self.read, strict=True):
            group["lr"] = read
        try:
            return self.step(*tensors)
        finally:
            for group, rate in zip(groups, self.rates, strict=True):
                group["lr"] = rate

    def warm_up(self, recording: Recording, tensors: list[Tensor]) -> Tensor:
        """Take the step; two of these steps must do the same."""
        recording.calls += 1
        if recording.calls not in NOTED:
            return self.take(*tensors)
        with Operators() as operators:
            result = self.take(*tensors)
        if not recording.operators:
            recording.operators = operators.seen
        elif reason := difference(recording.operators, operators.seen):
            self.give_up(reason)
        return result

    def record(self, recording: Recording, tensors: list[Tensor]) -> bool:
        """Record the step; returns whether that worked. If not, everything is as before."""
        recording.inputs = [part.clone() for part in tensors]
        objects, noise, reason = self.state.objects(), self.state.noise(), ""
        try:
            recording.replay, recording.result = record(self.take, recording.inputs, self.stream)
        except Exception as error:  # torch raises several kinds, and a part of the user's any
            reason = cause(error)
            torch.clear_autocast_cache()
            self.state.renew_generators(noise)
        moved = self.state.put_back_objects(objects)
        if reason or moved:
            self.optimizer.zero_grad()  # the gradients were in the recording's memory
            self.give_up(reason or f"a step puts another object in the place of {moved}")
        return self.recorded

    def replay(self, recording: Recording, tensors: list[Tensor]) -> Tensor:
        """Replay the step; if that fails, take it."""
        noise = self.state.noise()
        assert recording.replay is not None
        try:
            recording.replay()
        except Exception as error:
            self.state.renew_generators(noise)
            self.give_up(cause(error))
            return self.step(*tensors)
        return recording.result.clone()  # the next replay writes into it

    def check(self, recording: Recording, tensors: list[Tensor]) -> Tensor:
        """Replay the step, put everything back, take the step, and give up if the two differ."""
        before = self.state.keep()
        assert recording.replay is not None
        try:
            recording.replay()
            found = self.outcome(recording.result)
        except Exception as error:
            self.state.put_back(before)
            self.give_up(cause(error))
            return self.step(*tensors)
        result, expected = self.take_from(before, tensors)
        start = before.tensors | {FIGURES: torch.zeros_like(result)}
        off = {name: share for name, share in shares(found, expected, start).items() if not share <= TOLERANCE}
        if off:  # would the step itself do the same twice?
            result, again = self.take_from(before, tensors)
            noise = shares(again, expected, start)
            off = {name: share for name, share in off.items() if not share <= NOISE * noise[name]}
        for name, share in sorted(off.items())[:1]:
            self.give_up(f"a replay does not do what the step does, {name} is off by {share:.0%} of its change")
        return result

    def take_from(self, before: Kept, tensors: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Take the step from a kept state; returns its result and the state after it."""
        self.state.put_back(before)
        result = self.take(*tensors)
        return result, self.outcome(result)

    def outcome(self, result: Tensor) -> dict[str, Tensor]:
        """The state after a step, and what the step returned."""
        return self.state.copies() | {FIGURES: result.detach().clone()}

    def give_up(self, reason: str) -> None:
        """Stop recording: from here on steps are taken one by one."""
        log.warning("Training goes on without CUDA graphs: %s", reason)
        self.recorded = False
        self.recordings.clear()
