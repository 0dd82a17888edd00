"""zuko's flows with a mean, and a start close to the identity."""

import torch
from torch import Tensor, nn
from zuko.distributions import NormalizingFlow


class Flow(NormalizingFlow):
    """zuko's flow, batch (B,), event (D,), with a `mean` for pictures and for the variance of posterior means."""

    @property
    def mean(self) -> Tensor:
        """The point that the flow makes of the base's mean, (B, D): a centre. E[z] itself has no closed form."""
        return self.transform.inv(self.base.mean)


def near_identity(transform: nn.Module) -> nn.Module:
    """Shrink the last layer of one of zuko's lazy transforms, in place: the transform then starts close to z -> z."""
    with torch.no_grad():
        network = getattr(transform, "hyper", None)
        if network is not None:
            network[-1].weight.mul_(0.01)
            network[-1].bias.zero_()
        else:  # in one dimension without context, plain parameters take the place of the network
            for parameter in transform.parameters():
                parameter.mul_(0.01)
    return transform
