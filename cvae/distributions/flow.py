"""zuko's flows with a mean, stable at the start and in half precision."""

import torch
from torch import Tensor, nn
from zuko.distributions import NormalizingFlow

from cvae.distributions.precision import full_precision


class Flow(NormalizingFlow):
    """zuko's flow, batch (B,), event (D,), with a `mean` for pictures and for the variance of posterior means."""

    @property
    def mean(self) -> Tensor:
        """The point that the flow makes of the base's mean, (B, D): a centre. E[z] itself has no closed form."""
        return self.transform.inv(self.base.mean)


def stable(transform: nn.Module) -> nn.Module:
    """Prepare one of zuko's lazy transforms, in place: it starts close to z -> z, as its last layer is shrunk.

    Under autocast its network alone is in half precision: a spline between knots in bfloat16 has gaps.
    """
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


def _full_precision(network: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return full_precision(output)
