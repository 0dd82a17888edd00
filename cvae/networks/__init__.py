"""Encoders x (B, C, H, W) -> features (B, F) and decoders z (B, D) -> parameters (B, P, H, W), always as a pair.

A network is a function of (image_shape, latent_dim, num_features, num_params) and its own options; it returns the two
modules. The posterior says how many features it reads (F = num_features), the likelihood how many maps of parameters
(P = num_params). With labels, image_shape counts the label planes and latent_dim the one-hot label too.

Images may have any height and width. Where a network halves an odd size, it rounds up, and its decoder makes a map of
exactly the larger size again: the parameters are of the image's pixels alone, and nothing beside them is ever scored.

Every network raises ConfigError for an option that is not allowed, and for an image that is too small to be halved.

Examples:
    >>> import torch
    >>> encoder, decoder = conv((1, 28, 28), latent_dim=2, num_features=4, num_params=1)
    >>> encoder(torch.zeros(5, 1, 28, 28)).shape, decoder(torch.zeros(5, 2)).shape
    (torch.Size([5, 4]), torch.Size([5, 1, 28, 28]))
    >>> conv((1, 6, 30), latent_dim=2, num_features=4, num_params=1)
    Traceback (most recent call last):
    cvae.errors.ConfigError: image_shape=[1, 6, 30]: must be [C, H, W] with H and W at least 7 for this network
"""

from cvae.networks.conv import conv, conv_keras_io, conv_tfp
from cvae.networks.ladder import ladder
from cvae.networks.mlp import mlp
from cvae.networks.resnet import resnet

__all__ = ["conv", "conv_keras_io", "conv_tfp", "ladder", "mlp", "resnet"]
