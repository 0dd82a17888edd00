"""A distance of images in the layers of a network that has learned to name objects."""

import torch
from torch import Tensor, nn

from cvae.distributions.precision import full_precision

LAYERS = (3, 8, 15, 22, 29)  # of torchvision's VGG16, after the ReLUs before each pooling, and the last
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, for which its weights are made
HALVINGS = 4  # before the last layer


class Perceptual(nn.Module):
    """The sum over five layers of VGG16 of the mean over places of |a/|a| - b/|b||^2 (Zhang et al. 2018, eq. 1).

    a and b are the features of two images at a place. The paper weighs the channels by numbers that it learned from
    people's judgements; here all count alike. The network does not learn, and no checkpoint holds it.

    Args:
        features: VGG16's convolutions, ReLUs and poolings (`cvae.runs.vgg.vgg16`)
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        for module in features.modules():  # buffers that are not saved, so that no optimizer and no checkpoint has them
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach(), persistent=False)
        self.features = features
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Images a and b (B, C, H, W) in [0, 1], C = 1 or 3 -> (B,), without a unit."""
        x = (torch.cat([a, b]).expand(-1, 3, -1, -1) - self.mean) / self.std
        distance = x.new_zeros(len(a))
        for number, layer in enumerate(list(self.features.children())[: LAYERS[-1] + 1]):
            x = layer(x)
            if number in LAYERS:
                full = full_precision(x)
                unit = full / (full.square().sum(1, keepdim=True) + 1e-10).sqrt()
                distance = distance + (unit[: len(a)] - unit[len(a) :]).square().sum(1).mean((1, 2))
        return distance
