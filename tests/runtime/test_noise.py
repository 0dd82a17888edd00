"""Random numbers that repeat themselves."""

import torch

from cvae.runtime.noise import fixed_noise, seed_step

CPU = torch.device("cpu")


def test_fixed_noise_repeats_itself_and_leaves_the_stream_alone():
    torch.manual_seed(3)
    expected = [torch.randn(2), torch.randn(2)]
    torch.manual_seed(3)
    first = torch.randn(2)
    with fixed_noise(7, CPU):
        inside = torch.randn(2)
    second = torch.randn(2)
    with fixed_noise(7, CPU):
        assert torch.equal(torch.randn(2), inside)
    with fixed_noise(8, CPU):
        assert not torch.equal(torch.randn(2), inside)
    assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])


def test_the_stream_goes_on_after_an_error():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    try:
        with fixed_noise(7, CPU):
            torch.randn(2)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), state)


def drawn(*numbers):
    seed_step(*numbers, device=CPU)
    return torch.randn(3)


def test_noise_is_a_function_of_each_number_whatever_was_drawn_before():
    first = drawn(0, 0, 3, 17)
    torch.randn(5)
    assert torch.equal(drawn(0, 0, 3, 17), first)
    others = [drawn(1, 0, 3, 17), drawn(0, 1, 3, 17), drawn(0, 0, 4, 17), drawn(0, 0, 3, 18), drawn(0, 0, 17, 3)]
    assert len({first[0].item(), *(other[0].item() for other in others)}) == 6
    seed_step(2**32 - 1, 0, 0, 0, device=CPU)  # the largest seed of a config


def test_steps_do_not_share_their_noise():
    """Nor are they alike: the first draws of 4,000 steps are uncorrelated with those of the next."""
    values = torch.stack([drawn(0, 0, 0, number) for number in range(4000)])[:, 0]
    assert len(values.unique()) == 4000
    assert abs((values[:-1] * values[1:]).mean().item()) < 4 / 4000**0.5 and abs(values.mean().item()) < 4 / 4000**0.5
