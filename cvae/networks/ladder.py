"""A ladder: an encoder that keeps a map at each size, and a top-down path that makes group after group of latents."""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cvae.checks import positive_int
from cvae.distributions.precision import full_precision
from cvae.errors import ConfigError
from cvae.networks.layers import Conv2dSame, ConvTranspose2dSame, FlattenHWC, Size, UnflattenHWC, layers_of
from cvae.networks.resnet import he_init, normed_silu, residual_blocks, sizes_with_attention


def ladder(
    image_shape: Sequence[int],
    latent_dim: int,
    num_features: int,
    num_params: int,
    groups: Sequence[str] | None = None,
    channels: int = 4,
    width: int = 32,
    depth: int = 1,
    attention: Sequence[int] = (),
    checkpointing: bool = False,
) -> tuple["BottomUp", "TopDown"]:
    """A residual ladder (Sonderby et al. 2016; Kingma et al. 2016; Vahdat and Kautz 2020; Child 2021).

    The top group of latents is a vector of `latent_dim` numbers, as in every other network; below it come `groups`.
    The encoder halves the image down to the sizes of the groups. The decoder makes a map of the top group's z, then
    group after group: each puts its z into the map, and its distributions depend on the map above it. Groups of size 1
    are dense; with these alone the whole network is.

    Args:
        groups: from the top down, SIZExCOUNT: 7x3 are three groups of 7x7 positions (7 is the height of the map); None:
            as the image has them, see `groups_of`
        channels: latents at each position of a group
        width: channels of all maps
        depth: residual blocks at each size of the encoder, and after each group of the decoder
        attention: heights of the maps with a self-attention after each of these blocks
        checkpointing: whether the inside of residual blocks and of the groups' distributions is computed again in the
            backward pass, which saves memory

    Raises:
        ConfigError: a number is not a positive integer, `width` is 1, or `groups` is not as above: sizes rise, and each
            is the image's after some halvings, rounded up, or 1.
    """
    for key, value in {"channels": channels, "width": width, "depth": depth}.items():
        positive_int(key, value)
    if width < 2:
        raise ConfigError("width", width, "an integer of at least 2, as a single number can't be normalized")
    planes, *image = image_shape
    counts = counts_of(groups_of(image[0], image[1]) if groups is None else groups, (image[0], image[1]))
    sizes = [*counts]
    top = width * math.prod(sizes[0])  # numbers in the smallest map

    downwards = list(pairwise([(image[0], image[1]), *reversed(sizes)]))
    maps = [size for way in downwards for size in sizes_behind(*way)]
    attended = sizes_with_attention(attention, [size for size in maps if size != (1, 1)])
    inputs = [planes] + [width] * (len(sizes) - 1)
    ways = zip(inputs, downwards, strict=True)
    parts = [shrink(n, width, large, small, depth, checkpointing, attended) for n, (large, small) in ways]
    features = nn.Sequential(normed_silu(width, kernel_at(sizes[0])), FlattenHWC(), nn.Linear(top, num_features))

    stages = []
    for before, (size, count) in zip([None, *sizes], counts.items(), strict=False):
        members = [
            Group(width, channels, depth, kernel_at(size), checkpointing, size in attended) for _ in range(count)
        ]
        stages.append(Stage(enlarge(width, before, size) if before else nn.Identity(), members))
    start = nn.Sequential(nn.Linear(latent_dim, top), UnflattenHWC(*sizes[0], width))
    end = enlarge(width, sizes[-1], (image[0], image[1]), num_params)

    encoder, decoder = BottomUp(parts, features).apply(he_init), TopDown(start, stages, end).apply(he_init)
    for group in decoder.groups:
        group.start_small(len(decoder.groups))
    return encoder, decoder


class Group(nn.Module):
    """A group of latents, `channels` at each position of a map: it reads the state of the path and changes it."""

    def __init__(
        self, width: int, channels: int, depth: int, kernel: int, checkpointing: bool = False, attention: bool = False
    ) -> None:
        super().__init__()
        self.p, self.q = (head(n, width, 2 * channels, kernel, checkpointing) for n in (width, 2 * width))
        self.put = Conv2dSame(channels, width, 1)
        self.blocks = nn.Sequential(*residual_blocks(depth, width, kernel, checkpointing, attention))

    def start_small(self, groups: int) -> None:
        """At the start p(z|above) = q(z|x, above) = N(0, I), and the draws of all `groups` change the state little."""
        with torch.no_grad():
            for layer in (self.p[-1], self.q[-1]):
                for parameter in layer.parameters():
                    parameter.zero_()
            self.put.weight.mul_(groups**-0.5)

    def prior(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (N, channels, h, w) of p(z|above) for the state (N, width, h, w)."""
        mean, logvar = full_precision(self.p(state)).chunk(2, 1)
        return mean, bounded(logvar)

    def posterior(self, state: Tensor, seen: Tensor, prior: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x, above), relative to p's (Vahdat and Kautz 2020, section 3.2).

        seen: the encoder's map (N, width, h, w).
        """
        shift, change = full_precision(self.q(torch.cat([state, seen], 1))).chunk(2, 1)
        mean, logvar = prior
        return mean + shift, logvar + bounded(change)

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """The state (N, width, h, w) with z in it: a map (N, channels, h, w), or flattened, as (K, B, D)."""
        return self.blocks(state + self.put(z.reshape(-1, self.put.in_channels, *state.shape[2:])))


class Stage(nn.Module):
    """The groups of one size, and the way to it from the size above."""

    groups: Iterable[Group]

    def __init__(self, enlarge: nn.Module, groups: Sequence[Group]) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.groups = nn.ModuleList(groups)  # type: ignore[assignment] # torch's list knows no type of its modules


class Step(NamedTuple):
    """One group on the way down: enlarge the state, choose z by the group's distributions, put it into the state."""

    enlarge: nn.Module  # the state after the group above -> (N, width, h, w), this group's size
    group: Group
    stage: int  # which of the encoder's maps this group sees


class BottomUp(nn.Module):
    """The encoder: x (B, C, H, W) -> features (B, F) for the top group; `features_and_maps` has maps for the rest."""

    def __init__(self, parts: Sequence[nn.Module], features: nn.Module) -> None:
        super().__init__()
        self.parts, self.features = nn.ModuleList(parts), features

    def forward(self, x: Tensor) -> Tensor:
        return self.features_and_maps(x)[0]

    def features_and_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (B, F), and a map (B, width, h, w) of each stage of the decoder, from the top down."""
        maps = []
        for part in self.parts:
            x = part(x)
            maps.append(x)
        return self.features(x), maps[::-1]


class TopDown(nn.Module):
    """The decoder: z (N, D) of the top group -> parameters (N, P, H, W), with group after group on the way."""

    stages: Iterable[Stage]

    def __init__(self, start: nn.Module, stages: Sequence[Stage], end: nn.Module) -> None:
        super().__init__()
        self.start, self.end = start, end
        self.stages = nn.ModuleList(stages)  # type: ignore[assignment] # as above

    @property
    def steps(self) -> list[Step]:
        """A step for each group below the top one, from the top down."""
        return [
            Step(nn.Identity() if place else stage.enlarge, group, number)
            for number, stage in enumerate(self.stages)
            for place, group in enumerate(stage.groups)
        ]

    @property
    def groups(self) -> list[Group]:
        """From the top down, without the top group."""
        return [step.group for step in self.steps]

    def forward(
        self, z: Tensor, draws: Sequence[Tensor] | None = None, maps: Sequence[Tensor] = ()
    ) -> Tensor | list[tuple[Tensor, Tensor]]:
        """The parameters, with each group at the mean of p(z|above).

        Given z of every group, `draws`, and the encoder's `maps` (N, width, h, w), it returns mean and log-variance of
        q for each group at these draws instead. `functional_call` can then hold the weights constant, as it knows no
        method of a module but `forward`.
        """
        state, posteriors = self.start(z), []
        for number, step in enumerate(self.steps):
            state = step.enlarge(state)
            prior = step.group.prior(state)
            if draws is not None:
                posteriors.append(step.group.posterior(state, maps[step.stage], prior))
            state = step.group(state, prior[0] if draws is None else draws[number])
        return self.end(state) if draws is None else posteriors


def groups_of(height: int, width: int) -> list[str]:
    """Two groups at each of the two smallest sizes of at least 4 positions a side: 28 -> 7x2, 14x2; 64 -> 4x2, 8x2."""
    sizes = [(height, width)]
    while min(sizes[0]) >= 8:
        sizes.insert(0, half(sizes[0]))
    return [f"{size}x2" for size, _ in sizes[:2]]


def counts_of(groups: Sequence[str], image: Size) -> dict[Size, int]:
    """{size of the map: how many groups}, from the top down."""
    maps, size = {1: (1, 1)}, image
    while size[0] > 1:
        maps[size[0]], size = size, half(size)
    listed = groups if isinstance(groups, Sequence) and not isinstance(groups, str) else [groups]
    found = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", str(entry)) for entry in listed]
    pairs = [(int(match[1]), int(match[2])) for match in found if match]
    rising = all(above < below for (above, _), (below, _) in pairwise(pairs))
    if not pairs or len(pairs) < len(found) or not rising or any(size not in maps for size, _ in pairs):
        sizes = ", ".join(map(str, sorted(maps)))
        allowed = "a list of SIZExCOUNT, sizes rising, like [7x3,14x2]: three groups at 7x7, then two at 14x14"
        raise ConfigError("groups", list(listed), f"{allowed}. Sizes for images of {image[0]}x{image[1]}: {sizes}")
    return {maps[size]: count for size, count in pairs}


def kernel_at(size: Size) -> int:
    """The kernel of the convolutions at this size: a single position has no neighbours."""
    return 1 if size == (1, 1) else 3


def half(size: Size) -> Size:
    """Half of both sides, rounded up."""
    return -(-size[0] // 2), -(-size[1] // 2)


def sizes_between(large: Size, small: Size) -> list[Size]:
    """Those that `large` has before each halving until it is `small`."""
    return [] if large == small else [large, *sizes_between(half(large), small)]


def sizes_behind(large: Size, small: Size) -> list[Size]:
    """Those that maps have after each halving from `large` to `small`; one dense layer leads to 1x1."""
    return [small] if small == (1, 1) else [*sizes_between(large, small)[1:], small]


def shrink(
    inputs: int,
    width: int,
    large: Size,
    small: Size,
    depth: int,
    checkpointing: bool = False,
    attended: Sequence[Size] = (),
) -> nn.Sequential:
    """Maps (B, inputs, *large) -> (B, width, *small), with `depth` residual blocks after each halving.

    attended: the sizes of maps with self-attention
    """
    layers: list[nn.Module] = []
    for number, size in enumerate(sizes_behind(large, small)):
        if size == (1, 1):
            layers += [FlattenHWC(), nn.Linear(inputs * math.prod(large), width), UnflattenHWC(1, 1, width)]
        else:
            kernel, stride = (3, 1) if large == small else (4, 2)
            layers.append(Conv2dSame(width if number else inputs, width, kernel, stride))
        layers += residual_blocks(depth, width, kernel_at(size), checkpointing, size in attended)
    return nn.Sequential(*layers)


def enlarge(width: int, small: Size, large: Size, outputs: int | None = None) -> nn.Sequential:
    """Maps (B, width, *small) -> (B, width, *large), or (B, outputs, *large) through one more convolution."""
    if small == (1, 1):
        last = outputs or width
        dense = nn.Linear(width, last * math.prod(large))
        return nn.Sequential(normed_silu(width, 1), FlattenHWC(), dense, UnflattenHWC(*large, last))
    layers: list[nn.Module] = []
    for size in reversed(sizes_between(large, small)):
        layers += [normed_silu(width), ConvTranspose2dSame(width, width, 4, stride=2, size=size)]
    return nn.Sequential(*layers, *([normed_silu(width), Conv2dSame(width, outputs, 3)] if outputs else []))


def head(inputs: int, hidden: int, outputs: int, kernel: int, checkpointing: bool = False) -> nn.Sequential:
    """Two convolutions, from maps to the parameters of a distribution."""
    return layers_of(checkpointing)(
        normed_silu(inputs, kernel),
        Conv2dSame(inputs, hidden, kernel),
        normed_silu(hidden, kernel),
        Conv2dSame(hidden, outputs, kernel),
    )


def bounded(logvar: Tensor) -> Tensor:
    """Between -10 and 10, and close to `logvar` where that is small."""
    return 10 * (logvar / 10).tanh()
