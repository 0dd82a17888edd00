"""The networks of a ladder: sizes of maps, kernels, how it starts, what is refused."""

import pytest
import torch
from torch import nn

from cvae.errors import ConfigError
from cvae.networks.ladder import Group, bounded, counts_of, enlarge, groups_of, ladder, shrink


@pytest.mark.parametrize(
    ("groups", "image", "sizes"),
    [
        (["7x3", "14x2"], (28, 28), {(7, 7): 3, (14, 14): 2}),
        (["1x12"], (5, 9), {(1, 1): 12}),
        (["5x1"], (5, 9), {(5, 9): 1}),
        (["1x1", "2x1", "16x10"], (16, 24), {(1, 1): 1, (2, 3): 1, (16, 24): 10}),
        (["1x2", "8x1"], (8, 8), {(1, 1): 2, (8, 8): 1}),
        (["3x1", "9x2", "33x1"], (33, 17), {(3, 2): 1, (9, 5): 2, (33, 17): 1}),
    ],
)
def test_groups_are_sizes_and_counts_from_the_top_down(groups, image, sizes):
    assert list(counts_of(groups, image).items()) == list(sizes.items())


@pytest.mark.parametrize(
    "groups",
    [[], "7", ["7"], ["7x0"], ["0x1"], ["14x2", "7x3"], ["7x1", "7x1"], ["5x1"], ["7x1x1"], [7], ["7x1", "x"]],
)
def test_groups_that_are_none(groups):
    with pytest.raises(ConfigError) as error:
        ladder((1, 28, 28), 2, 4, 1, groups=groups)
    assert error.value.key == "groups"
    assert error.value.allowed == (
        "a list of SIZExCOUNT, sizes rising, like [7x3,14x2]: three groups at 7x7, then two at 14x14. Sizes for images "
        "of 28x28: 1, 2, 4, 7, 14, 28"
    )


@pytest.mark.parametrize("key", ["channels", "width", "depth"])
def test_numbers_that_are_none(key):
    with pytest.raises(ConfigError, match=f"^{key}=0: must be a positive integer"):
        ladder((1, 28, 28), 2, 4, 1, **{key: 0})


def test_a_map_of_one_pixel_is_normalized_over_all_channels():
    encoder, decoder = ladder((1, 8, 8), 2, 5, 1, groups=["1x1", "4x1"], width=16)
    norms = lambda part: [layer.num_groups for layer in part.modules() if isinstance(layer, nn.GroupNorm)]
    assert set(norms(encoder.features)) == set(norms(decoder.groups[0])) == {1}
    assert (
        set(norms(decoder.groups[1])) == {8}
        and norms(decoder.stages[1].enlarge) == [1]
        and norms(decoder.end) == [8, 8]
    )
    with pytest.raises(ConfigError, match="^width=1: must be an integer of at least 2"):
        ladder((1, 8, 8), 2, 5, 1, groups=["1x1"], width=1)


@pytest.mark.parametrize(
    ("groups", "maps"),
    [
        (["4x2", "8x1"], [(6, 4, 6), (6, 8, 12)]),
        (["1x1"], [(6, 1, 1)]),
        (["1x1", "16x1"], [(6, 1, 1), (6, 16, 24)]),
        (["2x1", "8x3"], [(6, 2, 3), (6, 8, 12)]),
    ],
)
def test_maps_of_each_stage_and_groups_in_their_order(groups, maps):
    encoder, decoder = ladder((3, 16, 24), 2, 5, 4, groups=groups, channels=2, width=6)
    features, found = encoder.features_and_maps(torch.rand(7, 3, 16, 24))
    assert features.shape == (7, 5) and [part.shape[1:] for part in found] == maps
    state, seen = decoder.start(torch.randn(9, 2)), []
    for larger, group, stage in decoder.steps:
        state = larger(state)
        assert state.shape == (9, *maps[stage])
        mean, logvar = group.prior(state)
        assert mean.shape == logvar.shape == (9, 2, *maps[stage][1:])
        seen.append((group, stage))
        state = group(state, mean)
    assert decoder.end(state).shape == (9, 4, 16, 24)
    counts = [int(entry.split("x")[1]) for entry in groups]
    assert [stage for _, stage in seen] == [stage for stage, count in enumerate(counts) for _ in range(count)]
    assert [group for group, _ in seen] == decoder.groups and len(set(decoder.groups)) == sum(counts)


def test_a_plain_decoder_has_every_group_at_the_mean_of_p():
    _, decoder = ladder((1, 8, 8), 2, 5, 1, groups=["4x2"], width=4)
    away_from_zero(decoder)
    z = torch.randn(3, 2)

    def at(shift):
        state = decoder.start(z)
        for larger, group, _ in decoder.steps:
            state = larger(state)
            state = group(state, group.prior(state)[0] + shift)
        return decoder.end(state)

    torch.testing.assert_close(decoder(z), at(0))
    assert not torch.allclose(decoder(z), at(1))


def away_from_zero(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def test_at_the_start_p_and_q_are_standard_normal_and_change_the_state_little():
    _, decoder = ladder((1, 8, 8), 2, 5, 1, groups=["4x3", "8x6"], channels=50, width=40)
    group, state, seen = decoder.groups[4], torch.randn(2, 40, 8, 8), torch.randn(2, 40, 8, 8)
    prior = group.prior(state)
    assert all(not part.any() for part in (*prior, *group.posterior(state, seen, prior)))
    # He's initialization keeps 2 / fan-in; nine groups share it.
    assert group.put.weight.std().item() == pytest.approx((2 / 50 / 9) ** 0.5, rel=0.1)
    z = torch.randn(2, 50, 8, 8)
    torch.testing.assert_close(group(state, z), state + group.put(z))  # the block is the identity


def test_q_is_relative_to_p():
    group = Group(6, 2, depth=1, kernel=3)
    state, seen = torch.randn(3, 6, 4, 5), torch.randn(3, 6, 4, 5)
    mean, logvar = group.p(state).chunk(2, 1)
    prior = group.prior(state)
    torch.testing.assert_close(prior, (mean, 10 * (logvar / 10).tanh()))
    shift, change = group.q(torch.cat([state, seen], 1)).chunk(2, 1)
    q = group.posterior(state, seen, prior)
    torch.testing.assert_close(q, (mean + shift, prior[1] + 10 * (change / 10).tanh()))


def test_log_variances_are_bounded():
    given = torch.tensor([-1e6, -10.0, -0.1, 0.0, 0.1, 10.0, 1e6], dtype=torch.float64)
    ours = bounded(given)
    assert ours.abs().max() <= 10 and ours[2:5].tolist() == pytest.approx([-0.1, 0, 0.1], abs=1e-5)
    assert (ours.diff() > 0).all()


def kinds(module):
    """Kernel or "dense", of each layer with weights."""
    found = []
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            found.append((layer.kernel_size[0], layer.stride[0]))
        elif isinstance(layer, nn.Linear):
            found.append("dense")
    return found


def test_ways_between_the_sizes():
    """Halvings with 4x4 convolutions, `depth` blocks of two 3x3 convolutions after each; dense to and from 1x1."""
    three, one = (3, 1), (1, 1)
    assert kinds(shrink(1, 6, (8, 8), (8, 8), 2)) == [three] * 5
    assert kinds(shrink(1, 6, (8, 8), (2, 2), 1)) == [(4, 2), three, three] * 2
    assert kinds(shrink(1, 6, (8, 8), (1, 1), 1)) == ["dense", one, one]
    assert kinds(enlarge(6, (2, 2), (8, 8))) == [(4, 2), (4, 2)]
    assert kinds(enlarge(6, (4, 4), (8, 8), 3)) == [(4, 2), three]
    assert kinds(enlarge(6, (8, 8), (8, 8), 3)) == [three]
    assert kinds(enlarge(6, (1, 1), (4, 4))) == ["dense"] and kinds(enlarge(6, (1, 1), (8, 8), 3)) == ["dense"]
    group = Group(6, 2, depth=2, kernel=1)
    assert (
        kinds(group.p) == kinds(group.q) == [one] * 2 and kinds(group.put) == [one] and kinds(group.blocks) == [one] * 4
    )
    _, decoder = ladder((1, 8, 8), 2, 5, 1, groups=["1x1", "4x1"], width=4)
    assert [kinds(group.p) for group in decoder.groups] == [[one] * 2, [three] * 2]


def test_parameters_of_a_group():
    group = Group(5, 3, depth=2, kernel=3)
    conv = lambda inputs, outputs: 9 * inputs * outputs + outputs
    norm = lambda channels: 2 * channels
    count = lambda module: sum(p.numel() for p in module.parameters())
    assert count(group.p) == norm(5) + conv(5, 5) + norm(5) + conv(5, 6)
    assert count(group.q) == norm(10) + conv(10, 5) + norm(5) + conv(5, 6)
    assert count(group.put) == 3 * 5 + 5 and count(group.blocks) == 2 * (2 * norm(5) + 2 * conv(5, 5))


@pytest.mark.parametrize(
    ("image", "groups"),
    [
        ((28, 28), ["7x2", "14x2"]), ((8, 8), ["4x2", "8x2"]), ((64, 64), ["4x2", "8x2"]), ((48, 32), ["6x2", "12x2"]),
        ((27, 30), ["7x2", "14x2"]), ((33, 17), ["9x2", "17x2"]), ((30, 50), ["4x2", "8x2"]), ((4, 4), ["4x2"]),
    ],
)  # fmt: skip
def test_groups_that_the_image_decides(image, groups):
    assert groups_of(*image) == groups
    encoder, decoder = ladder((1, *image), 2, 5, 1, groups=None, width=8)
    assert len(decoder.groups) == 2 * len(groups)
    assert decoder(encoder(torch.rand(2, 1, *image))[:, :2]).shape == (2, 1, *image)
