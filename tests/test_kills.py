"""Real processes, killed at random moments and resumed: they end as if nothing had happened. Slow, run by .ci/run."""

import random

import pytest
import soak

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["images drawn anew, warm-up", "two processes"])
def test_a_training_that_was_killed_twice_ends_as_one_that_was_not(kind, tmp_path):
    """`python tests/soak.py` tries every kind, with twenty kills."""
    assert len(soak.soak(tmp_path, kind, 2, random.Random(3))) > 0
