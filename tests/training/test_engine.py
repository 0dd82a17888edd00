"""Several minibatches to a step of Lightning's loop, clipping, compile: the same results as step by step."""

import csv
from datetime import timedelta

import pytest
import pytorch_lightning as L
import torch
from command_line import train_py
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from tiny import QUIET, TINY, tiny

from cvae.build import build_data, build_vae, make
from cvae.errors import ConfigError
from cvae.runtime.noise import seed_step
from cvae.training import engine
from cvae.training.progress import EpochLines, ProgressBar
from cvae.training.train import assemble, train

SAME = {
    "plain": [],
    "drawn images": ["data.binarization=stochastic"],
    "bfloat16": ["trainer.precision=bf16-mixed"],
    "schedules by step and by epoch": ["scheduler=cosine", "objective/beta=linear"],
    "whole minibatches": ["data.source.train_size=8"],
    "accumulated": ["+trainer.accumulate_grad_batches=2"],
    "an epoch without evaluation": ["trainer.check_val_every_n_epoch=2"],
    "clipped by norm": ["trainer.gradient_clip_val=5"],
    "clipped by value, in bfloat16": [
        "trainer.gradient_clip_val=0.1", "+trainer.gradient_clip_algorithm=value", "trainer.precision=bf16-mixed"
    ],
}  # fmt: skip


def outcome(folder, minibatches, monkeypatch, *overrides):
    """(checkpoint, rows of the curves, no times) of a run with so many minibatches to a step of Lightning's loop."""
    monkeypatch.setattr(engine, "MINIBATCHES", minibatches)
    cfg = tiny(folder, "~callbacks.pictures", "~callbacks.progress", "logger=csv", *overrides)
    train(cfg)
    (curves,) = folder.glob("**/metrics.csv")
    rows = [row for row in csv.DictReader(curves.open()) if not row.pop("train/images_per_second")]
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True), rows


@pytest.mark.parametrize("name", SAME)
def test_the_same_weights_curves_and_counts_as_step_by_step(name, tmp_path, monkeypatch):
    overrides = [*SAME[name], "trainer.max_epochs=3"]
    one, rows = outcome(tmp_path / "one", 1, monkeypatch, *overrides)
    for minibatches in (2, 10):
        several, others = outcome(tmp_path / str(minibatches), minibatches, monkeypatch, *overrides)
        torch.testing.assert_close(several["state_dict"], one["state_dict"], rtol=0, atol=0)
        torch.testing.assert_close(several["optimizer_states"], one["optimizer_states"], rtol=0, atol=0)
        assert several["lr_schedulers"][0]["last_epoch"] == 3
        assert (
            several["global_step"] == one["global_step"] == (6 if name in ("whole minibatches", "accumulated") else 9)
        )
        counted = several["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]["total"]
        assert counted == {"ready": several["global_step"], "completed": several["global_step"]}
        assert others == rows


class Watching(L.Callback):
    def on_after_backward(self, trainer, module):
        pass


@pytest.mark.parametrize(
    ("callback", "watches"),
    [
        (Watching(), True),
        (ModelCheckpoint(), False),
        (ModelCheckpoint(every_n_train_steps=3), True),
        (ModelCheckpoint(train_time_interval=timedelta(hours=1)), True),
        (ProgressBar(), False),
        (EpochLines(), False),
        (LearningRateMonitor(), True),
    ],
)
def test_callbacks_that_watch_minibatches(callback, watches):
    assert engine.watches_minibatches(callback) is watches


@pytest.mark.parametrize(
    "hook",
    ["on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward",
     "on_before_optimizer_step"],
)  # fmt: skip
def test_every_hook_of_a_minibatch_is_known(hook):
    assert hasattr(L.Callback, hook)
    assert engine.watches_minibatches(type("One", (L.Callback,), {hook: lambda *_: None})())


@pytest.mark.parametrize(
    ("overrides", "minibatches"),
    [
        ([], 10),
        (["trainer.precision=bf16-mixed", "+trainer.limit_val_batches=1", "+trainer.deterministic=true"], 10),
        (["+trainer.limit_test_batches=1", "trainer.check_val_every_n_epoch=2", "+trainer.benchmark=true"], 10),
        (["trainer.gradient_clip_val=0.25", "+trainer.accumulate_grad_batches=2", "+trainer.detect_anomaly=true"], 10),
        (["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1"], 10),
        (["+trainer.limit_train_batches=2"], 1),
        (["+trainer.overfit_batches=2"], 1),
        (["trainer.max_steps=3"], 1),
        (["+trainer.min_steps=3"], 1),
        (["trainer.max_steps=-1", "trainer.max_time=00:00:01:00"], 10),
        (["+trainer.val_check_interval=2"], 1),
        (["+trainer.fast_dev_run=2"], 1),
        (["+callbacks.lr={_target_: pytorch_lightning.callbacks.LearningRateMonitor}"], 1),
    ],
)
def test_what_makes_lightning_see_each_minibatch(overrides, minibatches, tmp_path):
    data, module, *_ = assemble(tiny(tmp_path, *overrides))
    assert data.minibatches == minibatches
    assert not module.automatic_optimization
    assert module.watched is any("callbacks" in word for word in overrides)
    data.setup()
    assert len(data.train_dataloader()) == (1 if minibatches == 10 else 3)


def weights(folder, *overrides):
    train(tiny(folder, *QUIET, *overrides))
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def steps_by_hand(cfg, clip):
    """The weights after an epoch of plain descent, and the gradients of its steps, before clip(them)."""
    torch.manual_seed(cfg.seed)
    vae, data, seen = build_vae(cfg), build_data(cfg), []
    data.setup()
    objective = make(cfg, "objective")
    for number, (x, y) in enumerate(data.train_dataloader()):
        seed_step(cfg.seed, 0, 0, number, device=torch.device("cpu"))
        loss = objective(vae, x / 255, vae.labels(y)).loss.mean()
        seen.append(torch.autograd.grad(loss, list(vae.parameters())))
        with torch.no_grad():
            for p, gradient in zip(vae.parameters(), clip(seen[-1]), strict=True):
                p -= cfg.optimizer.lr * gradient
    return {f"vae.{name}": value for name, value in vae.state_dict().items()}, seen


def norm_of(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


@pytest.mark.parametrize("minibatches", [1, 10])
@pytest.mark.parametrize("algorithm", [None, "norm", "value"])
def test_gradients_are_clipped(algorithm, minibatches, tmp_path, monkeypatch):
    """Against a plain loop: the norm of all of them together, or each number by itself."""
    monkeypatch.setattr(engine, "MINIBATCHES", minibatches)
    bound = 0.2 if algorithm == "value" else 5
    words = [
        f"trainer.gradient_clip_val={bound}",
        *([f"+trainer.gradient_clip_algorithm={algorithm}"] * bool(algorithm)),
    ]
    words += ["optimizer=sgd", "optimizer.momentum=0", "trainer.max_epochs=1"]

    def clip(gradients):
        if algorithm == "value":
            return [gradient.clamp(-bound, bound) for gradient in gradients]
        return [gradient * min(1, bound / (norm_of(gradients) + 1e-6)) for gradient in gradients]

    expected, seen = steps_by_hand(tiny(tmp_path, *words), clip)
    sizes = torch.cat([g.abs().flatten() for g in seen[0]]) if algorithm == "value" else [*map(norm_of, seen)]
    assert min(sizes) < bound < max(sizes)  # some are clipped, some are not
    torch.testing.assert_close(weights(tmp_path, *words), expected, rtol=1e-6, atol=1e-7)


def test_the_terms_are_traced_once_for_each_size_and_have_the_same_noise(tmp_path, monkeypatch):
    plain = weights(tmp_path / "plain", "objective/beta=linear")
    given, traced, compile_ = {}, [], torch.compile

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    def by_the_test(function, options, **values):
        given.update(values, **options)
        return compile_(function, backend=backend, **values)

    monkeypatch.setattr(torch, "compile", by_the_test)
    compiled = weights(tmp_path / "compiled", "objective/beta=linear", "trainer.compile=true")
    torch.testing.assert_close(compiled, plain)
    assert given == {"dynamic": False, "fallback_random": True}
    assert len(traced) == 2  # minibatches of 4 and of 2, whatever the step


def test_a_compiled_step_gets_its_number_as_a_tensor_on_the_device_of_the_images(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    given = engine.Compiled(lambda *arguments: arguments)("objective", "vae", torch.zeros(1, device="meta"), "y", 7)
    assert given[:2] == ("objective", "vae") and given[3] == "y"
    assert given[4].device.type == "meta" and given[4].shape == () and not given[4].is_floating_point()


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("no g++\n  here\n\nmore")])
def test_what_a_missing_compiler_raises_is_said_in_a_line(error, monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *given: (_ for _ in ()).throw(error))
    compiled = engine.Compiled(lambda *arguments: arguments)
    for step in (3, 4):
        assert compiled(1, 2, torch.zeros(1), None, step)[3:] == (None, step)
    (line,) = [record.getMessage() for record in caplog.records]
    said = "no module" if isinstance(error, ImportError) else "no g++ here"
    assert line == f"trainer.compile=true: training goes on without, since torch cannot compile it: {said}"


def test_without_a_compiler_training_goes_on_with_one_line(tmp_path, monkeypatch, caplog):
    from torch._dynamo.exc import BackendCompilerFailed

    plain = weights(tmp_path / "plain")
    calls = []

    def failing(function, **_):
        def call(*arguments):
            calls.append(arguments)
            raise BackendCompilerFailed("inductor", OSError("no C++ compiler"), None)

        return call

    monkeypatch.setattr(torch, "compile", failing)
    torch.testing.assert_close(weights(tmp_path / "compiled", "trainer.compile=true"), plain, rtol=0, atol=0)
    assert len(calls) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("trainer.compile=true: training goes on without") and "no C++ compiler" in line


def test_other_errors_of_a_compiled_step_are_not_hidden(monkeypatch):
    def failing(function, **_):
        def call(*arguments):
            raise ZeroDivisionError

        return call

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(ZeroDivisionError):
        engine.Compiled(engine.training_terms)(None, None, torch.zeros(1), None, 0)


@pytest.mark.slow
def test_what_torch_compiles_trains_the_same_model(tmp_path):
    """In processes of their own: what a process has compiled before can change what is compiled."""
    states = []
    for name in ("false", "true"):
        done = train_py(*TINY, *QUIET, f"trainer.compile={name}", f"hydra.run.dir=compile_{name}", cwd=tmp_path)
        assert done.returncode == 0 and "goes on without" not in done.stdout, done.stdout + done.stderr
        states.append(torch.load(tmp_path / f"compile_{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"])
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)


def test_only_the_loss_has_a_gradient():
    x = torch.ones(3, requires_grad=True)
    terms = engine.training_terms(lambda *_: engine.Terms(x, x * 2, x * 3, x * 4, {"part": x * 5}), None, None, None, 0)
    values = [part.detach()[0].item() for part in terms[:4]] + [terms.parts["part"][0].item()]
    assert values == [1, 2, 3, 4, 5]
    assert [part.requires_grad for part in (*terms[:4], terms.parts["part"])] == [True, False, False, False, False]


@pytest.mark.parametrize("value", ["1", "yes", "null"])
def test_compile_is_true_or_false(value, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.compile"):
        assemble(tiny(tmp_path, f"trainer.compile={value}"))
