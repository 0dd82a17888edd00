"""Recordings of steps, without a GPU: what is replayed is called again."""

from contextlib import nullcontext

import pytest
import torch
from conftest import ROOT
from torch import nn

from cvae.training import graphs
from cvae.training.graphs import Graphed

OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))


class Recorder:
    """Stands in for CUDA graphs: a replay takes the step with what the recording's inputs hold by then."""

    def __init__(self):
        self.recorded, self.replays = 0, 0

    def __call__(self, step, inputs, stream=None):
        self.recorded += 1
        result = torch.empty(0, dtype=torch.float64)

        def replay():
            self.replays += 1
            result.set_(self.repeat(step, inputs).double())

        return replay, result

    def repeat(self, step, inputs):
        return step(*inputs)


def without_gpu(monkeypatch, recorder):
    monkeypatch.setattr(graphs, "record", recorder)
    monkeypatch.setattr(Graphed, "apart", lambda self: nullcontext())  # no streams on a CPU
    monkeypatch.setattr(Graphed, "stream", None)
    return recorder


@pytest.fixture
def recorder(monkeypatch):
    return without_gpu(monkeypatch, Recorder())


def graphed(step, lr=1.0):
    module = nn.ParameterList([torch.zeros(1)])
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)
    return Graphed(step, optimizer, torch.device("cpu"), module), optimizer
