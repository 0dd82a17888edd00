"""Random numbers that repeat themselves."""

import torch

from cvae.noise import fixed_noise

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
