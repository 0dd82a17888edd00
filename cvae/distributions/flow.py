"""zuko's flows with a mean, stable at the start and in half precision, whose tensors are freed after use."""

import itertools
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import AffineTransform
from torch.distributions.transforms import _InverseTransform
from zuko.distributions import NormalizingFlow
from zuko.flows import MaskedAutoregressiveTransform
from zuko.nn import MaskedLinear
from zuko.transforms import AutoregressiveTransform, MonotonicAffineTransform, MonotonicRQSTransform
from zuko.utils import unpack

from cvae.distributions.precision import full_precision


class Flow(NormalizingFlow):
    """zuko's flow, batch (B,), event (D,), with a `mean` for pictures and for the variance of posterior means."""

    @property
    def mean(self) -> Tensor:
        """The point that the flow makes of the base's mean, (B, D): a centre. E[z] itself has no closed form."""
        return self.transform.inv(self.base.mean)


# torch's transforms keep the inverse that they make, and it keeps them. In such a circle all tensors of a step outlive
# it, until Python looks for garbage: on a GPU that is memory, and it must not be freed while a CUDA graph is recorded.
new_inverse = property(lambda transform: _InverseTransform(transform))  # torch.compile reads no class here


class Affine(MonotonicAffineTransform):
    """zuko's, which keeps no inverse."""

    inv = new_inverse
    kept = (3, 0)  # about how many floats for the backward pass: for each of its parameters, and besides


class Spline(MonotonicRQSTransform):
    """zuko's, which keeps no inverse."""

    inv = new_inverse
    kept = (5, 32)


class Located(AffineTransform):
    """torch's: loc + scale x (B, D), which keeps no inverse and has the shape of x alone, as zuko's have."""

    inv = new_inverse

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return shape

    inverse_shape = forward_shape


class Autoregressive(AutoregressiveTransform):
    """zuko's y_i = f_i(x_i; x_<i, c), of a lazy transform with its `Stages`, for a context c (..., C) or None.

    It keeps no inverse. Where zuko passes through the whole network for each of the D dimensions to invert it, here
    every unit is computed once, as soon as the dimensions that it depends on are known: the work of one pass. Under
    autocast zuko's way stays, as half precision rounds sums in another order to other values than f's own.
    """

    inv = new_inverse

    def __init__(self, lazy: Any, context: Tensor | None = None) -> None:
        super().__init__(partial(lazy.meta, context), lazy.passes)
        self.lazy, self.context = lazy, context

    def _inverse(self, y: Tensor) -> Tensor:
        if in_autocast(y.device.type):
            return super()._inverse(y)
        lazy, c, stages = self.lazy, self.context, self.lazy.stages
        (w, b), *inner, (w_out, b_out) = stages.sorted(lazy.hyper)
        leading = y.shape[:-1] if c is None else torch.broadcast_shapes(y.shape[:-1], c.shape[:-1])
        of_context = b if c is None else F.linear(c, w[:, : c.shape[-1]], b)  # (..., H), once for all y
        of_context, w = of_context.expand(*leading, -1), w[:, w.shape[-1] - len(stages.dims) :]
        x: list[Tensor] = []  # (..., 1) each, in the order in which they are found
        units: list[list[Tensor]] = [[] for _ in stages.ends]  # of each hidden layer, those found so far
        for stage, dim in enumerate(stages.dims):
            rows = [slice(ends[stage - 1] if stage else 0, ends[stage]) for ends in stages.ends]
            found = of_context[..., rows[0]]
            if x:
                found = found + F.linear(torch.cat(x, -1), w[rows[0], :stage])
            units[0].append(stages.activation(found))
            for (below, above), (weight, bias), row in zip(itertools.pairwise(units), inner, rows[1:], strict=True):
                inputs = torch.cat(below, -1)
                above.append(stages.activation(F.linear(inputs, weight[row, : inputs.shape[-1]], bias[row])))
            inputs, row = torch.cat(units[-1], -1), slice(stage * lazy.total, (stage + 1) * lazy.total)
            phi = F.linear(inputs, w_out[row, : inputs.shape[-1]], b_out[row])
            f = lazy.univariate(*unpack(phi.unsqueeze(-2), lazy.shapes))
            x.append(f.inv(y[..., dim : dim + 1]))
        return torch.cat([x[stage] for stage in stages.of_dims], -1)


class Stages(nn.Module):
    """The order in which the units of a masked autoregressive network are computed while it is inverted.

    Stage k finds the k-th dimension, from the units that depend on the k - 1 before it and on the context.

    Attributes:
        dims: of each stage, the dimension that it finds; of_dims: of each dimension, the stage
        ends: of each hidden layer, for each stage, how many of its units are known then
    """

    def __init__(self, lazy: MaskedAutoregressiveTransform) -> None:
        super().__init__()
        *hidden, out = linear(lazy.hyper)
        self.activation, order, num = lazy.hyper[1], lazy.order, len(lazy.order)
        self.dims, self.of_dims = order.argsort().tolist(), order.tolist()
        first = torch.cat([order + 1, order.new_zeros(hidden[0].in_features - num)])  # of inputs: the stage that has it
        self.register_buffer("order_0", first.argsort(stable=True), persistent=False)
        self.ends = []
        for number, layer in enumerate(hidden, 1):
            first = (layer.mask * first).amax(1)
            self.ends.append([int((first <= stage).sum()) for stage in range(num)])
            self.register_buffer(f"order_{number}", first.argsort(stable=True), persistent=False)
        outputs = torch.arange(out.out_features).unflatten(0, (num, -1))[order.argsort()]
        self.register_buffer(f"order_{len(hidden) + 1}", outputs.flatten(), persistent=False)

    def sorted(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer, its inputs and outputs in the order in which they are found."""
        orders = [self.get_buffer(f"order_{number}") for number in range(len(self.ends) + 2)]
        return [
            ((layer.mask * layer.weight)[after][:, before], layer.bias[after])
            for layer, before, after in zip(linear(network), orders, orders[1:], strict=False)
        ]


def in_autocast(device: str) -> bool:
    """Whether operations on this type of device are under autocast."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def scratch(transforms: nn.ModuleList) -> int:
    """About how many floats of 4 bytes log_prob of one z keeps for the backward pass, with what is in force now.

    transforms: zuko's lazy ones, prepared by `stable`, of which z goes through the inverses
    """
    above = 2 * next(transforms[0].parameters()).element_size() / 4  # what a Gaussian base keeps, and a mixture
    return round(above + sum(map(_scratch, transforms)))


def _scratch(lazy: Any) -> float:
    """Of one transform: z is inverted, and the result passes through the network once more, for the determinant."""
    weight = next(lazy.parameters())
    device, size = weight.device.type, weight.element_size() / 4
    each, besides = getattr(lazy.univariate, "func", lazy.univariate).kept
    if not isinstance(lazy, MaskedAutoregressiveTransform):  # one dimension: no parameter depends on z
        return size * max(1, 2 * besides)
    dims, layers = len(lazy.order), linear(lazy.hyper)
    univariate = size * dims * (each * lazy.total + besides)  # also under autocast, see `stable`
    hidden = sum(layer.out_features for layer in layers[:-1])
    # ReLU's backward pass reads the output, which the next layer keeps anyway; that of others reads the input, too.
    network = layers[0].in_features + (1 if isinstance(lazy.hyper[1], nn.ReLU) else 2) * hidden
    if in_autocast(device):
        return (lazy.passes + 1) * (torch.get_autocast_dtype(device).itemsize / 4 * network + univariate)
    stages = dims * (dims - 1) / 2 + hidden + sum(map(sum, lazy.stages.ends))  # the inputs of each stage, and the units
    return size * (network + stages) + 2 * univariate


def linear(network: nn.Module) -> list[MaskedLinear]:
    """The layers of a masked network that have weights."""
    return [layer for layer in network.children() if isinstance(layer, MaskedLinear)]


FREED = {MonotonicAffineTransform: Affine, MonotonicRQSTransform: Spline}


def stable(transform: Any) -> nn.Module:
    """Prepare one of zuko's lazy transforms, in place: it starts close to z -> z, as its last layer is shrunk.

    Under autocast its network alone is in half precision: a spline between knots in bfloat16 has gaps. The transforms
    that it makes are freed after use.
    """
    if isinstance(transform, MaskedAutoregressiveTransform):
        transform.stages = Stages(transform)
    kind = transform.univariate  # of the transforms of single dimensions: a class, or one with some arguments
    transform.univariate = partial(FREED[kind.func], **kind.keywords) if isinstance(kind, partial) else FREED[kind]
    transform.register_forward_hook(_freed)
    with torch.no_grad():
        network = getattr(transform, "hyper", None)
        if network is not None:
            network[-1].weight.mul_(0.01)
            network[-1].bias.zero_()
            network.register_forward_hook(_full_precision)
        else:  # in one dimension without context, plain parameters take the place of the network
            for parameter in transform.parameters():
                parameter.mul_(0.01)
    return transform


def _freed(transform: nn.Module, inputs: tuple, made: Any) -> Any:
    return Autoregressive(transform, *inputs) if isinstance(made, AutoregressiveTransform) else made


def _full_precision(network: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return full_precision(output)
