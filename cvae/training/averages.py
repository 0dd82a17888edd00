"""Exponential moving averages of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cvae.errors import UserError


class Averages(nn.Module):
    """Exponential moving averages of the parameters of `model`: d * average + (1 - d) * parameter at each step.

    d = min(decay, (1 + t) / (10 + t)) after t steps, as in TensorFlow's `ExponentialMovingAverage` with `num_updates`:
    so averages are over about the last ninth of the steps until that is 1 / (1 - decay) of them, and a short training
    forgets its initial weights, too. t is a function of the step, so a checkpoint needs no count.

    torch's AveragedModel reads a counter in each step, which waits for a GPU and can't be recorded. They are buffers,
    as all that a step changes, and in no state_dict.

    Args:
        model: its parameters are averaged, its buffers (codebooks) are not
        decay: from 0 to 1; in the long run about the last 1 / (1 - decay) steps are averaged
        state: averages of a checkpoint, to go on with

    Raises:
        UserError: `state` is not of such a model.
    """

    def __init__(self, model: nn.Module, decay: float, state: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.names, self.trained = zip(*model.named_parameters(), strict=True)  # a tuple: they are the model's
        for number, parameter in enumerate(self.trained):
            self.register_buffer(str(number), parameter.detach().clone(), persistent=False)
        self.decay, self.inside = decay, False
        if state is not None:
            self.load(state)

    def update(self, step: int | Tensor) -> None:
        """Take the parameters into the averages. It is part of a training step, so it never waits for the device.

        step: the optimizer steps before this one; a tensor () in a CUDA graph, which repeats the numbers that it was
            recorded with
        """
        averages, trained = list(self.buffers()), [parameter.detach() for parameter in self.trained]
        share = 9 / (10 + step)  # 1 - (1 + t) / (10 + t)
        if not isinstance(share, Tensor):
            torch._foreach_lerp_(averages, trained, max(share, 1 - self.decay))
            return
        change = torch._foreach_sub(trained, averages)  # torch's lerp takes no single tensor for all
        torch._foreach_mul_(change, share.clamp(min=1 - self.decay))
        torch._foreach_add_(averages, change)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside this context the model's parameters are the averages. Nothing is copied."""
        if self.inside:
            yield
            return
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        self.to(self.trained[0].device)  # after a training the model alone may have moved
        for parameter, average in zip(self.trained, self.buffers(), strict=True):
            parameter.data, average.data = average.data, parameter.data
        self.inside = not self.inside

    def of_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The averages, and the weights that the steps change, by the names of the parameters."""
        pair = list(self.buffers()), [parameter.detach() for parameter in self.trained]
        averages, trained = reversed(pair) if self.inside else pair
        return dict(zip(self.names, averages, strict=True)), dict(zip(self.names, trained, strict=True))

    def load(self, state: dict[str, Tensor]) -> None:
        if state.keys() != set(self.names):
            raise UserError("the checkpoint's cvae.averages are of another model")
        for name, own in zip(self.names, self.buffers(), strict=True):
            if state[name].shape != own.shape or state[name].dtype != own.dtype:
                raise UserError(f"the checkpoint's cvae.averages.{name} is of another size or type than this model's")
            own.copy_(state[name])
