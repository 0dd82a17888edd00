"""Encoders x (B, C, H, W) -> features (B, F) and decoders z (B, D) -> parameters (B, P, H, W), always as a pair.

A network is a function of (image_shape, latent_dim, num_features, num_params) and its own options that returns the two
modules. How many features the posterior reads and how many parameter maps the likelihood reads is theirs to say.

Every network raises ConfigError for an option that is not allowed, and for an image whose height or width is no multiple of
the network's total stride; the message names sizes that work.
"""

from cvae.networks.conv import conv, conv_keras_io, conv_tfp
from cvae.networks.mlp import mlp
from cvae.networks.resnet import resnet

__all__ = ["conv", "conv_keras_io", "conv_tfp", "mlp", "resnet"]
