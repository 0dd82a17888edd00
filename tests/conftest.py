"""What every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for each test, whatever ran before it."""
    torch.manual_seed(0)
