"""zuko's flows with a mean, stable at the start and in half precision, whose tensors are freed after use."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform
from torch.distributions.transforms import _InverseTransform
from zuko.distributions import NormalizingFlow
from zuko.transforms import AutoregressiveTransform, MonotonicAffineTransform, MonotonicRQSTransform

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


class Spline(MonotonicRQSTransform):
    """zuko's, which keeps no inverse."""

    inv = new_inverse


class Located(AffineTransform):
    """torch's: loc + scale x (B, D), which keeps no inverse and has the shape of x alone, as zuko's have."""

    inv = new_inverse

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return shape

    inverse_shape = forward_shape


class Autoregressive(AutoregressiveTransform):
    """zuko's, which keeps no inverse."""

    inv = new_inverse


FREED = {MonotonicAffineTransform: Affine, MonotonicRQSTransform: Spline}


def stable(transform: Any) -> nn.Module:
    """Prepare one of zuko's lazy transforms, in place: it starts close to z -> z, as its last layer is shrunk.

    Under autocast its network alone is in half precision: a spline between knots in bfloat16 has gaps. The transforms
    that it makes are freed after use.
    """
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
    return Autoregressive(made.meta, made.passes) if isinstance(made, AutoregressiveTransform) else made


def _full_precision(network: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return full_precision(output)
