"""Save and restore everything that a training step changes, and compare what two steps do."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUNDING = 8  # times the distance between two numbers next to each other: differences below it say nothing

PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


class Operators(TorchDispatchMode):
    """Records each operator with its arguments, but without the values in tensors: what a CUDA graph repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[str]]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if operator.namespace != "profiler":  # which marks where a step of an optimizer begins and ends
            self.seen.append((str(operator), [as_given(part) for part in tree_leaves((args, kwargs or {}))]))
        return operator(*args, **(kwargs or {}))


def as_given(part: Any) -> str:
    """An argument of an operator, without the values in a tensor; of objects (generators) the kind."""
    if isinstance(part, Tensor):
        return f"{part.dtype} {tuple(part.shape)}"
    return repr(part) if part is None or isinstance(part, PLAIN) else type(part).__name__


def difference(one: list, other: list) -> str:
    """The first difference of two steps' operators, in words; empty where there is none."""
    for first, second in zip_longest(one, other):
        if first is None or second is None or first[0] != second[0]:
            names = [step[0] if step else "nothing" for step in (first, second)]
            return f"where one step calls {names[0]}, the next one calls {names[1]}"
        if first[1] != second[1]:
            given = next(pair for pair in zip_longest(first[1], second[1]) if pair[0] != pair[1])
            return f"one step calls {first[0]} with {given[0]}, the next one with {given[1]}"
    return ""


class Kept(NamedTuple):
    """Copies of all that a step changes."""

    tensors: dict[str, Tensor]
    noise: list[Tensor]  # of each generator


class StepState:
    """All that a step changes: the tensors of a module and of its optimizer, and the generators of random numbers."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
        self.module, self.optimizer, self.device = module, optimizer, device

    def places(self) -> Iterator[tuple[str, dict]]:
        """The dictionaries that hold the tensors, by name."""
        for name, part in self.module.named_modules():
            yield name, part._parameters
            yield name, part._buffers
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.module.named_parameters()}
        for parameter, state in self.optimizer.state.items():
            yield f"the optimizer's {names.get(parameter, 'parameter')}", state

    def tensors(self) -> dict[str, Tensor]:
        """name -> the tensor itself."""
        found = ((name, key, value) for name, place in self.places() for key, value in place.items())
        return {f"{name}.{key}".lstrip("."): value for name, key, value in found if isinstance(value, Tensor)}

    def copies(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}

    def generators(self) -> list[torch.Generator]:
        """Those that a step draws from: the device's last."""
        if self.device.type != "cuda":
            return [torch.default_generator]
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        return [torch.default_generator, torch.cuda.default_generators[index]]

    def noise(self) -> list[Tensor]:
        """The states of the generators."""
        return [generator.get_state() for generator in self.generators()]

    def keep(self) -> Kept:
        return Kept(self.copies(), self.noise())

    @torch.no_grad()
    def put_back(self, kept: Kept) -> None:
        """Restore everything in place, where a recording reads it."""
        for name, tensor in self.tensors().items():
            if name in kept.tensors:
                tensor.copy_(kept.tensors[name])
        for generator, state in zip(self.generators(), kept.noise, strict=True):
            generator.set_state(state)

    def objects(self) -> list[tuple[str, dict, dict]]:
        """The object at each place, not its value."""
        return [(name, place, dict(place)) for name, place in self.places()]

    def put_back_objects(self, before: list[tuple[str, dict, dict]]) -> str:
        """The objects of before, where they were; returns the name of one that was another, empty where none was.

        While a CUDA graph is recorded nothing is computed: a tensor that took another's place then has no values.
        """
        moved = ""
        for name, place, held in before:
            changed = [key for key in {**held, **place} if place.get(key) is not held.get(key)]
            if changed:
                moved = moved or f"{name}.{changed[0]}".lstrip(".")
                place.clear()
                place.update(held)
        return moved

    def renew_generators(self, noise: list[Tensor]) -> None:
        """Generators as they were before a recording that failed.

        torch 2.11 and 2.12 leave the state of the device's generator in the middle of the recording, where it gives no
        numbers any more: it gets another one.
        """
        for generator, state in zip(self.generators(), noise, strict=True):
            if generator.device.type == "cuda":
                generator.graphsafe_set_state(torch.Generator(generator.device))
            generator.set_state(state)


def shares(found: dict[str, Tensor], expected: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, float]:
    """name -> how far a tensor is from what was expected, as a share of how far that is from what it was before.

    0 where there is no difference but that of rounding. Waits for the device.
    """
    result = {}
    for name in expected.keys() & found.keys() & before.keys():
        one, other, first = (tensors[name].cpu().double() for tensors in (found, expected, before))
        kind = expected[name].dtype
        rounding = ROUNDING * torch.finfo(kind).eps if kind.is_floating_point else 0
        off = (one - other).norm()
        result[name] = 0.0 if off <= rounding * other.norm() else (off / (other - first).norm()).item()
    return result
