"""Dense networks."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import nn

from cvae.checks import is_int, one_of
from cvae.errors import ConfigError
from cvae.networks.layers import FlattenHWC, UnflattenHWC, keras_init


def mlp(
    image_shape: Sequence[int],
    latent_dim: int,
    num_features: int,
    num_params: int,
    hidden: Sequence[int] = (200, 200),
    activation: str = "tanh",
) -> tuple[nn.Module, nn.Module]:
    """Dense layers, by default those of Burda et al. 2016 ("Importance Weighted Autoencoders", one stochastic layer).

    Args:
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse order; [] makes both linear
        activation: of each hidden layer: "relu", "tanh", or "gated": half of twice the width, times the sigmoid of the
            other half (gated linear units, Dauphin et al. 2017), as in Tomczak and Welling 2018

    Raises:
        ConfigError: `hidden` is not a list of positive integers, or `activation` is none of the three.
    """
    channels, height, width = image_shape
    if not isinstance(hidden, Sequence) or isinstance(hidden, str) or not all(is_int(n) and n > 0 for n in hidden):
        raise ConfigError("hidden", hidden, "a list of positive integers, like [200,200]; [] for a linear network")
    kinds: dict[str, tuple[int, type[nn.Module]]] = {"relu": (1, nn.ReLU), "tanh": (1, nn.Tanh), "gated": (2, nn.GLU)}
    times, nonlinear = kinds[one_of("activation", activation, tuple(kinds))]

    def layers(*widths: int) -> Iterator[nn.Module]:
        for before, after in pairwise(widths[:-1]):
            yield from (nn.Linear(before, times * after), nonlinear())
        yield nn.Linear(widths[-2], widths[-1])

    encoder = nn.Sequential(FlattenHWC(), *layers(channels * height * width, *hidden, num_features))
    decoder = nn.Sequential(
        *layers(latent_dim, *reversed(hidden), height * width * num_params), UnflattenHWC(height, width, num_params)
    )
    return encoder.apply(keras_init), decoder.apply(keras_init)
