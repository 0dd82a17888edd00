"""Steps that are recorded and replayed. The CUDA graph itself needs a GPU; what is around it is tested without one."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from tiny import QUIET, tiny

from cvae.errors import ConfigError
from cvae.training import graphs
from cvae.training.engine import graphs_of
from cvae.training.graphs import WARM_UP, Graphed
from cvae.training.train import assemble, train


class Recorder:
    """Stands in for CUDA graphs: a replay takes the step with what the recording's inputs hold by then."""

    def __init__(self, error=None):
        self.recorded, self.replays, self.error = 0, 0, error

    def __call__(self, step, inputs):
        if self.error:
            raise self.error
        self.recorded += 1
        result = torch.empty(0, dtype=torch.float64)

        def replay():
            self.replays += 1
            result.set_(step(*inputs).double())

        return replay, result


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    monkeypatch.setattr(graphs, "record", lambda *arguments: made(*arguments))
    monkeypatch.setattr(Graphed, "warm_up", lambda self, tensors: self.step(*tensors))  # no streams on a CPU
    return made


def graphed(step, lr=1.0):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    return Graphed(step, optimizer, torch.device("cpu")), optimizer


def test_a_step_is_recorded_after_the_warm_up_and_gets_its_own_inputs(recorder):
    seen = []

    def step(x, number):
        seen.append((x.tolist(), number.item()))
        return x * 2

    take, _ = graphed(step)
    given = [torch.tensor([float(number)]) for number in range(6)]
    results = [take(x, 10 * number) for number, x in enumerate(given)]
    assert [result.item() for result in results] == [0, 2, 4, 6, 8, 10]  # each is kept, whatever came after it
    assert seen == [([float(number)], 10 * number) for number in range(6)]
    assert (recorder.recorded, recorder.replays) == (1, 3)
    assert [x.item() for x in given] == [0, 1, 2, 3, 4, 5]  # the inputs are copied, not kept


def test_each_size_has_a_recording_of_its_own(recorder):
    take, _ = graphed(lambda x: x.sum())
    for _ in range(WARM_UP + 2):
        assert take(torch.ones(4)).item() == 4
        assert take(torch.ones(2)).item() == 2
    assert (recorder.recorded, recorder.replays) == (2, 4)


def test_each_kind_of_number_has_a_recording_of_its_own(recorder):
    take, _ = graphed(lambda x: x + 1)
    for _ in range(WARM_UP + 1):
        for dtype in (torch.float32, torch.float64):
            assert take(torch.ones(2, dtype=dtype)).tolist() == [2, 2]
    assert (recorder.recorded, recorder.replays) == (2, 2)


def test_integers_become_tensors_on_the_device(recorder):
    seen = []
    take, _ = graphed(lambda x, number: seen.append(number) or x)
    take.device = torch.device("meta")
    take(torch.ones(1), 5)
    assert seen[0].device.type == "meta" and seen[0].shape == ()


def test_what_is_recorded_is_the_step_with_the_inputs_that_it_will_read(monkeypatch):
    """What CUDA would do is left out: a graph that notes what happens while it is open."""
    events = []

    class Graph:
        def replay(self):
            events.append("replayed")

    @contextmanager
    def recording(graph):
        events.append(f"begins with a {type(graph).__name__}")
        yield
        events.append("ends")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    replay, result = graphs.record(lambda x, y: events.append((x, y)) or x + y, [1, 2])
    replay()
    assert result == 3 and events == ["begins with a Graph", (1, 2), "ends", "replayed"]


def test_the_warm_up_has_a_stream_of_its_own_that_waits_and_is_waited_for(monkeypatch):
    events = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            events.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream):
        events.append(f"on {stream.name}")
        yield
        events.append(f"off {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"a new one of {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(f"that of {device}"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    take, _ = graphed(lambda x: events.append(x.item()) or x + 1)
    assert take(torch.ones(1)).item() == 2
    new, current = "a new one of cpu", "that of cpu"
    assert events == [f"{new} waits for {current}", f"on {new}", 1, f"off {new}", f"{current} waits for {new}"]


def test_another_learning_rate_is_recorded_anew(recorder):
    take, optimizer = graphed(lambda x: x * optimizer.param_groups[0]["lr"])
    for _ in range(WARM_UP + 2):
        take(torch.ones(1))
    assert recorder.recorded == 1
    optimizer.param_groups[0]["lr"] = 0.5
    assert [take(torch.ones(1)).item() for _ in range(3)] == [0.5] * 3
    assert recorder.recorded == 2
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 3.0})
    for number, rate in enumerate((3.0, 4.0)):  # of the second group alone
        optimizer.param_groups[1]["lr"] = rate
        take(torch.ones(1)), take(torch.ones(1))
        assert recorder.recorded == 3 + number


def test_what_cannot_be_recorded_is_taken_as_it_comes_with_one_line(recorder, caplog):
    recorder.error = RuntimeError("operation not permitted when stream is capturing\nmore")
    calls = []
    take, _ = graphed(lambda x: calls.append(x) or x + 1)
    assert [take(torch.ones(1)).item() for _ in range(WARM_UP + 4)] == [2] * (WARM_UP + 4)
    assert len(calls) == WARM_UP + 4
    (line,) = [record.getMessage() for record in caplog.records]
    assert "without CUDA graphs" in line and line.endswith("operation not permitted when stream is capturing")


CALLBACKS = "pytorch_lightning.callbacks"
OVERRIDES = {
    "plain": [],
    "drawn images": ["data.binarization=stochastic"],
    "schedules": ["scheduler=cosine", "objective/beta=linear"],
    "whole minibatches": ["data.source.train_size=8"],
    "clipped": ["trainer.gradient_clip_val=5"],
    "codes": ["posterior=vq", "prior=autoregressive"],
}


def weights(folder, *overrides):
    train(tiny(folder, *QUIET, "trainer.max_epochs=5", *overrides))
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint | {"figures": json.loads((folder / "metrics.json").read_text())}


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_training_of_replayed_steps_is_the_same(name, recorder, tmp_path, monkeypatch):
    plain = weights(tmp_path / "plain", *OVERRIDES[name])
    assert recorder.recorded == 0
    monkeypatch.setattr("cvae.training.train.graphs_of", lambda trainer, wanted: wanted)
    replayed = weights(tmp_path / "replayed", *OVERRIDES[name])
    assert recorder.replays >= 5 * 2 - WARM_UP
    torch.testing.assert_close(replayed["state_dict"], plain["state_dict"], rtol=1e-6, atol=1e-7)
    assert replayed["global_step"] == plain["global_step"]
    for name, figure in plain["figures"].items():
        assert replayed["figures"][name] == pytest.approx(figure, rel=1e-5) or name == "train/seconds_per_epoch"


def test_graphs_are_for_one_gpu_and_can_be_turned_off(tmp_path):
    def on(device, wanted, processes=1, precision="32-true"):
        strategy = SimpleNamespace(root_device=torch.device(device))
        return graphs_of(SimpleNamespace(strategy=strategy, world_size=processes, precision=precision), wanted)

    assert [on("cuda", True), on("cuda", False), on("cpu", True), on("mps", True)] == [True, False, False, False]
    assert [on("cuda", True, 2), on("cuda", True, 1, "16-mixed"), on("cuda", True, 1, "bf16-mixed")] == [False] * 2 + [
        True
    ]
    assert assemble(tiny(tmp_path))[1].graphs is False
    with pytest.raises(ConfigError, match=r"trainer\.cuda_graphs=yes: must be one of False, True"):
        assemble(tiny(tmp_path, "trainer.cuda_graphs=yes"))


@pytest.mark.parametrize(
    ("words", "alike"),
    [
        ([], True),
        (["+trainer.max_steps=3"], True),
        (["+trainer.accumulate_grad_batches=2"], False),
        ([f"+callbacks.own={{_target_: {CALLBACKS}.GradientAccumulationScheduler, scheduling: {{1: 2}}}}"], False),
        ([f"+callbacks.own={{_target_: {CALLBACKS}.EMAWeightAveraging}}"], False),
    ],
)
def test_steps_that_differ_or_are_watched_are_no_graphs(words, alike, tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.training.train.graphs_of", lambda trainer, wanted: wanted)
    assert assemble(tiny(tmp_path, *words)).module.graphs is alike


@pytest.mark.parametrize("wanted", [True, False])
def test_the_optimizer_is_told_whether_it_is_recorded(wanted, recorder, tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.training.train.graphs_of", lambda trainer, wanted: wanted)
    groups = weights(tmp_path, f"trainer.cuda_graphs={str(wanted).lower()}")["optimizer_states"][0]["param_groups"]
    assert [group["capturable"] for group in groups] == [wanted]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", OVERRIDES)
def test_cuda_graphs_train_the_same_model(name, precision, tmp_path):
    overrides = [*OVERRIDES[name], "trainer=gpu", f"trainer.precision={precision}"]
    plain = weights(tmp_path / "plain", *overrides, "trainer.cuda_graphs=false")
    replayed = weights(tmp_path / "graphs", *overrides)
    torch.testing.assert_close(replayed["state_dict"], plain["state_dict"], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_recorded_step_draws_new_noise_from_the_seed_that_was_set():
    device = torch.device("cuda")
    take, _ = graphed(lambda x: x + torch.rand(4, device=device))
    take.device = device
    drawn = []
    for seed in [*range(WARM_UP + 3), WARM_UP + 2]:
        torch.cuda.manual_seed(seed)
        drawn.append(take(torch.zeros(4, device=device)).tolist())
    assert drawn[-1] == drawn[-2] != drawn[-3]
    torch.cuda.manual_seed(WARM_UP + 2)
    assert drawn[-1] == torch.rand(4, device=device).tolist()
