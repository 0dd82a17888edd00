"""Steps that are recorded and replayed. The CUDA graph itself needs a GPU; what is around it is tested without one."""

import importlib
import json
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, config
from tiny import QUIET, tiny
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from cvae.build import make
from cvae.errors import ConfigError
from cvae.training import graphs
from cvae.training.engine import graphs_of
from cvae.training.graphs import CHECKED, WARM_UP, Graphed, capturable
from cvae.training.module import VAEModule
from cvae.training.step_state import Operators, difference
from cvae.training.train import assemble, train


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


class Baked(Recorder):
    """A step with a Python number in it: a replay has the inputs of the recording."""

    def __call__(self, step, inputs, stream=None):
        return super().__call__(step, [part.clone() for part in inputs])


class SameNoise(Recorder):
    """A replay draws what was drawn when it was recorded."""

    def __call__(self, step, inputs, stream=None):
        self.noise = torch.get_rng_state()
        return super().__call__(step, inputs)

    def repeat(self, step, inputs):
        torch.set_rng_state(self.noise)
        return step(*inputs)


class Skips(Recorder):
    """A replay leaves one tensor as it is."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def repeat(self, step, inputs):
        before = self.tensor().detach().clone()
        result = step(*inputs)
        self.tensor().detach().copy_(before)
        return result


class Raises(Recorder):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def repeat(self, step, inputs):
        if self.replays == self.number:
            torch.rand(1)
            raise RuntimeError("an illegal memory access was encountered")
        return step(*inputs)


class Toy:
    """A step with all that can go wrong: noise, the step's number, weights, a buffer, an optimizer with a state."""

    def __init__(self):
        self.module = nn.Module()
        self.module.weight, self.module.bias = nn.Parameter(torch.ones(50)), nn.Parameter(torch.zeros(1))
        self.module.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=0.01, fused=True)
        self.take = Graphed(self.step, self.optimizer, torch.device("cpu"), self.module)
        self.uneven = 0.0  # what another order of a sum would add

    def step(self, x, number):
        self.optimizer.zero_grad()
        noise = torch.randn(50)
        loss = ((self.module.weight * x + self.module.bias - noise) ** 2).mean() * (1 + number)
        loss.backward()
        self.module.weight.grad += self.uneven * torch.rand(50, generator=UNSEEDED)
        self.optimizer.step()
        self.module.steps += 1
        return loss.detach()

    def run(self, steps=10, plain=False):
        """All that they leave, and what they returned."""
        results = []
        for number in range(steps):
            torch.manual_seed(number)
            x = torch.linspace(0, 1, 50) + number
            results.append(self.step(x, torch.tensor(number)) if plain else self.take(x, number))
        state = [value for kept in self.optimizer.state.values() for value in kept.values()]
        return [*self.module.state_dict().values(), *state, torch.stack([result.double() for result in results])]


UNSEEDED = torch.Generator()
HOSTILE = {  # -> the recorder, and what the log line names
    "a number is baked in": (lambda toy: Baked(), "the step does, "),
    "the noise is baked in": (lambda toy: SameNoise(), "the step does, "),
    "a weight is left out": (lambda toy: Skips(lambda: toy.module.bias), "bias is off by 100%"),
    "a buffer is left out": (lambda toy: Skips(lambda: toy.module.steps), "steps is off by 100%"),
    "a moment is left out": (
        lambda toy: Skips(lambda: toy.optimizer.state[toy.module.weight]["exp_avg"]),
        "optimizer's weight.exp_avg is off by 100%",
    ),
    "the first replay fails": (lambda toy: Raises(1), "illegal memory access"),
    "a later replay fails": (lambda toy: Raises(4), "illegal memory access"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recording_that_does_something_else_is_found_out_and_the_run_goes_on_right(name, monkeypatch, caplog):
    toy = Toy()
    recorder = without_gpu(monkeypatch, HOSTILE[name][0](toy))
    found, expected = toy.run(), Toy().run(plain=True)
    torch.testing.assert_close(found, expected)
    assert not toy.take.recorded and recorder.recorded == 1 and recorder.replays <= 5
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Training goes on without CUDA graphs: ") and HOSTILE[name][1] in line


def test_a_recording_that_does_the_same_stays(recorder, caplog):
    toy = Toy()
    torch.testing.assert_close(toy.run(), Toy().run(plain=True))
    assert toy.take.recorded and recorder.replays == 10 - WARM_UP and not caplog.records


def test_steps_that_differ_by_themselves_are_no_reason(recorder, caplog):
    """Kernels may add up in another order each time."""
    toy = Toy()
    toy.uneven = 0.5
    toy.run()
    assert toy.take.recorded and not caplog.records


def test_a_step_that_puts_another_tensor_in_the_place_of_one_is_not_recorded(recorder, monkeypatch, caplog):
    """While it is recorded nothing is computed: that tensor would have no values."""
    toy, seen = Toy(), []
    plain = toy.take.step

    def step(x, number):
        result = plain(x, number)
        seen.append(toy.module.steps)
        toy.module.steps = toy.module.steps.clone()
        return result

    def record(take, inputs, stream):
        take(*inputs)
        return lambda: None, inputs[0]

    toy.take.step = step
    monkeypatch.setattr(graphs, "record", record)
    toy.run(WARM_UP + 1)
    assert not toy.take.recorded and "another object in the place of steps" in caplog.text
    assert len(seen) == WARM_UP + 2 and seen[-1] is seen[-2]


def test_torch_compile_has_compiled_before_operators_are_noted(recorder):
    """Where they are noted it does not, and while a step is recorded it must not."""
    noting = []
    take, _ = graphed(lambda x: noting.append(len(_get_current_dispatch_mode_stack())) or x + 1)
    for _ in range(WARM_UP + 1):
        take(torch.ones(1))
    assert noting[0] == noting[WARM_UP - 1] == 0 and max(noting) == 1


def test_a_number_of_pythons_that_changes_from_step_to_step_is_not_recorded(recorder, caplog):
    calls = []
    take, _ = graphed(lambda x: calls.append(0) or x * float(len(calls)))
    assert [take(torch.ones(1)).item() for _ in range(WARM_UP + 3)] == list(range(1, WARM_UP + 4))
    assert recorder.recorded == 0 and "aten.mul.Tensor with 2.0, the next one with 3.0" in caplog.text


OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
NUMBERS = {"adagrad": ["optimizer.lr_decay=0.1"]}  # what an optimizer would count by


def steps_of(name, *words):
    """(the optimizer, the operators of its fifth and sixth step, told that they are recorded)"""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimizer, seen = make(config(f"optimizer={name}", *words), "optimizer")(weights), []
    capturable(optimizer, True)
    for _ in range(6):
        with Operators() as operators:
            optimizer.zero_grad()
            sum(weight.square().sum() for weight in weights).backward()
            optimizer.step()
        seen.append(operators.seen)
    return optimizer, *seen[-2:]


@pytest.fixture
def capturable_here(monkeypatch):
    """torch lets optimizers be captured on a CPU, too."""
    for name in OPTIMIZERS:
        module = importlib.import_module(f"torch.optim.{name}")
        if hasattr(module, "_get_capturable_supported_devices"):
            monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_of_every_optimizer_are_the_same(name, capturable_here):
    _, fifth, sixth = steps_of(name, *NUMBERS.get(name, []))
    assert len(fifth) > 5 and difference(fifth, sixth) == ""


def test_an_optimizer_that_counts_in_python_is_seen():
    _, fifth, sixth = steps_of("adagrad", *NUMBERS["adagrad"], "optimizer.fused=false")
    assert "addcdiv" in difference(fifth, sixth) or "_foreach" in difference(fifth, sixth)


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
