"""Steps that are recorded and replayed. The CUDA graph itself needs a GPU; what is around it is tested without one."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from conftest import config
from recorded import OPTIMIZERS, Recorder, graphed, recorder, without_gpu  # noqa: F401, fixtures
from tiny import QUIET, tiny
from torch import nn

from cvae.build import make
from cvae.errors import ConfigError
from cvae.training import graphs
from cvae.training.engine import graphs_of
from cvae.training.graphs import CHECKED, WARM_UP, Graphed, capturable
from cvae.training.module import VAEModule
from cvae.training.train import assemble, train


def test_a_step_is_recorded_after_the_warm_up_and_gets_its_own_inputs(recorder):
    seen = []

    def step(x, number):
        seen.append((x.tolist(), number.item()))
        return x * 2

    take, _ = graphed(lambda x, number: step(x, number))
    given = [torch.tensor([float(number)]) for number in range(9)]
    results = [take(x, 10 * number) for number, x in enumerate(given)]
    assert [result.item() for result in results] == [2 * number for number in range(9)]  # whatever came after each
    checked = range(WARM_UP, WARM_UP + CHECKED)  # replayed and taken
    assert seen == [([float(n)], 10 * n) for n in range(9) for _ in range(1 + (n in checked))]
    assert (recorder.recorded, recorder.replays) == (1, 9 - WARM_UP)
    assert [x.item() for x in given] == list(range(9))  # the inputs are copied, not kept


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
    def recording(graph, stream, capture_error_mode):
        events.append(f"begins with a {type(graph).__name__} on {stream}, {capture_error_mode}")
        yield
        events.append("ends")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    replay, result = graphs.record(lambda x, y: events.append((x, y)) or x + y, [1, 2], "a stream")
    replay()
    assert result == 3
    assert events == ["begins with a Graph on a stream, thread_local", (1, 2), "ends", "replayed"]


def test_all_is_on_one_stream_of_the_modules_device_that_waits_and_is_waited_for(monkeypatch):
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

    def record(step, inputs, stream):
        events.append(f"records on {stream.name}")
        return lambda: events.append("replays"), inputs[0]

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"the one of {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(f"the usual of {device}"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(graphs, "record", record)
    take, _ = graphed(lambda x: x + 0)
    for _ in range(WARM_UP + CHECKED + 1):
        take(torch.ones(1))
    own, usual = "the one of cpu", "the usual of cpu"
    before, after = [f"{own} waits for {usual}", f"on {own}"], [f"off {own}", f"{usual} waits for {own}"]
    replayed = [*before, "replays", *after]
    recorded = [*before, f"records on {own}", "replays", *after]
    assert events == [*(before + after) * WARM_UP, *recorded, *replayed * CHECKED]


def test_another_learning_rate_is_recorded_anew_where_the_optimizer_takes_a_number(recorder):
    take, optimizer = graphed(lambda x: x * optimizer.param_groups[0]["lr"])
    for _ in range(WARM_UP + 2):
        take(torch.ones(1))
    assert recorder.recorded == 1
    optimizer.param_groups[0]["lr"] = 0.5
    assert [take(torch.ones(1)).item() for _ in range(WARM_UP + 2)] == [0.5] * (WARM_UP + 2)
    assert recorder.recorded == 2
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 3.0})
    for number, rate in enumerate((3.0, 4.0)):  # of the second group alone
        optimizer.param_groups[1]["lr"] = rate
        for _ in range(WARM_UP + 1):
            take(torch.ones(1))
        assert recorder.recorded == 3 + number


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_a_recording_reads_the_learning_rate_of_a_fused_optimizer_from_a_tensor(kind, recorder):
    """Sizes that are rare, as an epoch's last minibatch, are recorded too. Outside of a step the rate is a number."""
    module = nn.ParameterList([torch.ones(3)])
    optimizer = kind(module.parameters(), lr=0.5, fused=True)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    read = []

    def step(x):
        read.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        loss = (module[0] * x.sum()).square().sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    take = Graphed(step, optimizer, torch.device("cpu"), module)
    for epoch in range(8):
        for size in (4, 4, 2):
            take(torch.ones(size))
            assert read[-1].item() == optimizer.param_groups[0]["lr"] == 0.5**epoch * 0.5
        scheduler.step()
    assert type(optimizer.param_groups[0]["lr"]) is type(scheduler.get_last_lr()[0]) is float
    assert recorder.recorded == 2 and len({id(rate) for rate in read}) == 1


def test_what_cannot_be_recorded_is_taken_as_it_comes_with_one_line(monkeypatch, caplog):
    """The line has what was raised first. Everything is as it was before."""

    def fails(step, inputs, stream):
        with torch.autocast("cpu", torch.bfloat16):
            torch.rand(1)
            step(*inputs)
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    without_gpu(monkeypatch, fails)
    take, optimizer = graphed(lambda x: calls.append(x) or optimizer.state[parameter].update(n=torch.ones(1)) or x + 1)
    (parameter,) = optimizer.param_groups[0]["params"]
    calls, held = [], optimizer.state[parameter]
    noise, state, kept = torch.get_rng_state(), dict(held), []
    monkeypatch.setattr(take, "give_up", lambda reason: kept.append(dict(held)) or Graphed.give_up(take, reason))
    for _ in range(WARM_UP):
        take(torch.ones(1))
    state = dict(held)
    assert [take(torch.ones(1)).item() for _ in range(4)] == [2] * 4
    assert len(calls) == WARM_UP + 5 and torch.equal(torch.get_rng_state(), noise)
    assert all(before["n"] is state["n"] for before in kept) and len(kept) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert "without CUDA graphs" in line and line.endswith("operation not permitted when stream is capturing")


def test_a_generator_that_a_failed_recording_has_left_broken_gets_another_state(monkeypatch):
    """As torch 2.11 and 2.12 leave it: it takes no seed, and gives no numbers."""
    events = []

    class Generator:
        device = torch.device("cuda:1")

        def __init__(self, device=None):
            self.new = device

        def graphsafe_set_state(self, other):
            events.append(f"the state of a new one on {other.new}")

        def set_state(self, state):
            events.append(state)

    take, _ = graphed(lambda x: x)
    monkeypatch.setattr(take.state, "generators", lambda: [torch.default_generator, Generator()])
    monkeypatch.setattr(torch, "Generator", Generator)
    take.state.renew_generators([torch.get_rng_state(), "as it was"])
    assert events == ["the state of a new one on cuda:1", "as it was"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("words", [[], ["optimizer.fused=false"]])
def test_a_checkpoint_of_a_cpu_goes_on_on_a_gpu_and_back(name, words):
    """What is on the GPU is on "meta" here."""
    if words and "fused" not in config(f"optimizer={name}").optimizer:
        words = []
    made = make(config(f"optimizer={name}", *words), "optimizer")
    weight = nn.Parameter(torch.ones(3))
    optimizer = made([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    there = nn.Parameter(torch.ones(3, device="meta"))
    moved = made([there])
    moved.load_state_dict(optimizer.state_dict())
    capturable(moved, True)
    if "capturable" in moved.param_groups[0] or moved.param_groups[0].get("fused"):
        assert {value.device.type for value in moved.state[there].values() if value is not None} <= {"meta"}
    content = optimizer.state_dict()
    for group in content["param_groups"]:
        group["capturable"] = True  # as it comes from a GPU
    back = made([weight])
    back.load_state_dict(content)
    capturable(back, False)
    before = weight.detach().clone()
    back.step()
    assert not torch.equal(weight, before) and not back.param_groups[0].get("capturable")


CALLBACKS = "pytorch_lightning.callbacks"
OVERRIDES = {
    "plain": [],
    "drawn images": ["data.binarization=stochastic"],
    "schedules": ["scheduler=cosine", "objective/beta=linear"],
    "whole minibatches": ["data.source.train_size=8"],
    "clipped": ["trainer.gradient_clip_val=5"],
    "left out, averages, one cycle": [
        "trainer.skip_above=7",
        "averaging.decay=0.9",
        "scheduler=one_cycle",
        "scheduler.warmup_steps=4",
    ],
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
    for state in (replayed["state_dict"], plain["state_dict"]):  # the keys' biases have no gradient but rounding
        state.pop("vae.prior.layers.layers.0.self_attn.in_proj_bias", None)
        state.pop("vae.prior.layers.layers.1.self_attn.in_proj_bias", None)
    torch.testing.assert_close(replayed["state_dict"], plain["state_dict"], rtol=1e-4, atol=1e-5)
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
        (["trainer.max_steps=3"], True),
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


def test_recordings_are_dropped_before_the_test_and_the_evaluation(recorder, tmp_path, monkeypatch):
    """Their memory is free for these. Between epochs they stay."""
    seen = []

    def noted(self):
        seen.append((self.trainer.testing, isinstance(self.step, Graphed)))
        start(self)

    start = VAEModule.on_validation_epoch_start
    monkeypatch.setattr("cvae.training.train.graphs_of", lambda trainer, wanted: wanted)
    monkeypatch.setattr(VAEModule, "on_validation_epoch_start", noted)
    monkeypatch.setattr(VAEModule, "on_test_epoch_start", noted)
    train(tiny(tmp_path, *QUIET))
    assert seen == [(False, True), (False, True), (True, False)]


@pytest.mark.gpu
def test_a_step_that_reads_a_number_is_found_out_and_the_next_one_is_recorded(caplog):
    from benchmarks.gpu import falls_back

    assert "captur" in falls_back(torch.device("cuda"))


@pytest.mark.gpu
def test_a_recorded_step_draws_new_noise_from_the_seed_that_was_set():
    device = torch.device("cuda")
    module = nn.ParameterList([torch.zeros(1, device=device)])
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    take = Graphed(lambda x: x + torch.rand(4, device=device), optimizer, device, module)
    drawn = []
    for seed in [*range(WARM_UP + 3), WARM_UP + 2]:
        torch.cuda.manual_seed(seed)
        drawn.append(take(torch.zeros(4, device=device)).tolist())
    assert drawn[-1] == drawn[-2] != drawn[-3]
    torch.cuda.manual_seed(WARM_UP + 2)
    assert drawn[-1] == torch.rand(4, device=device).tolist()
