"""Finite scalar quantization: a code is the nearest level of each number."""

import math

import pytest
import torch

from cvae.errors import ConfigError
from cvae.posteriors import FSQ

F64 = torch.float64


def test_fsq_by_hand():
    """Levels -1, 0, 1 for three, -1 and 1 for two; the columns of the map are the codes."""
    posterior = FSQ(2, levels=[3, 2]).double()
    features = torch.tensor([[9.0, 0.3, -9.0, 0.1]], dtype=F64)  # (2 numbers, 2 codes)
    q = posterior(features)
    assert q.z.tolist() == [[1, 0, -1, 1]] and posterior.read(q.z).tolist() == [[2 * 2 + 0, 1 * 2 + 1]]
    torch.testing.assert_close(q.near, 1.001 * features.tanh())


@pytest.mark.parametrize("levels", [2, 1001, 1002])
def test_fsq_never_leaves_its_levels(levels):
    """1.001 tanh goes past the last of a thousand levels."""
    posterior = FSQ(1, levels=[levels])
    assert posterior.read(posterior(torch.tensor([[-20.0], [20.0]])).z).tolist() == [[0], [levels - 1]]
    assert posterior(torch.tensor([[-20.0], [20.0]])).z.tolist() == [[-1], [1]]


def test_fsq_passes_on_what_is_not_finite():
    """So that a run which diverges ends with the error for that."""
    posterior = FSQ(2)
    z = posterior(torch.tensor([[math.nan] * 6, [0.0] * 6])).rsample()
    assert z[0].isnan().all() and z[1].isfinite().all()


def test_fsq_reaches_every_level_and_no_other():
    posterior = FSQ(1, levels=[8, 5])
    reach = torch.linspace(-6, 6, 201)
    z = posterior(torch.cartesian_prod(reach, reach)).z
    assert len(z.unique(dim=0)) == posterior.num_codes == 40
    for number, levels in enumerate((8, 5)):
        torch.testing.assert_close(z[:, number].unique(), torch.linspace(-1, 1, levels))
    # The nearest one: half a step away at most, but for the reach.
    near = 1.001 * torch.cartesian_prod(reach, reach).tanh()
    assert ((z - near).abs() <= torch.tensor([1 / 7, 1 / 4]) + 1e-6).all()


@pytest.mark.parametrize("levels", [[], [1], [8, 0], 8, "8", [2.0], [True, 2], [300, 300], None])
def test_fsq_refuses_impossible_levels(levels):
    with pytest.raises(ConfigError, match=r"^levels=.*: must be a list of integers of at least 2, like \[8,6,5\]"):
        FSQ(2, levels)
