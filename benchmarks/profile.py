"""Where the time of a training step goes: python -m benchmarks.profile [--steps N] [--json FILE] [OVERRIDES]."""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import driver, limits
from benchmarks.ours import Bare, bare, config, mnist, overrides_of
from benchmarks.turns import finish_device
from cvae.runtime.devices import keep_freed_memory, tell_torch_of_no_gpu

Milliseconds = tuple[float, float]  # minimum, median


def timed(work: Callable[[], object], repeats: int) -> Milliseconds:
    """After three times that do not count."""
    found = []
    for number in range(repeats + 3):
        finish_device()
        started = time.perf_counter()
        work()
        finish_device()
        if number >= 3:
            found.append((time.perf_counter() - started) * 1e3)
    return min(found), statistics.median(found)


def by_layer(ours: Bare, repeats: int) -> dict[str, tuple[Milliseconds, Milliseconds]]:
    """Layer -> its forward and backward, each layer alone, with the inputs and gradients that it has in a step."""
    seen: dict[str, list] = {}  # layer -> itself, its inputs, the gradient of its output

    def note(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad and name not in seen:
                seen[name] = [module, inputs, None]
                output.register_hook(partial(seen[name].__setitem__, 2))  # retain_grad would change its memory format

        return hook

    layers = {name: module for name, module in ours.vae.named_modules() if not list(module.children())}
    for module in layers.values():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # it would write the input that it is given again and again
    hooks = [module.register_forward_hook(note(name)) for name, module in layers.items()]
    ours.loss(ours.batches()[0]).backward()
    for hook in hooks:
        hook.remove()
    return {f"{name} {type(parts[0]).__name__}": alone(ours, *parts, repeats) for name, parts in seen.items()}


def alone(ours: Bare, module: nn.Module, inputs: tuple, gradient: Tensor | None, repeats: int) -> tuple:
    """Forward and backward of a layer."""
    inputs = tuple(x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs)
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad] + list(module.parameters())

    def forward() -> Tensor:
        with ours.autocast():
            return module(*inputs)

    made = forward()

    def backward() -> None:
        torch.autograd.grad(made, wanted, gradient, retain_graph=True)

    empty = (0.0, 0.0)
    return timed(forward, repeats), timed(backward, repeats) if gradient is not None and wanted else empty


class Epochs(Callback):
    """The seconds of each epoch; the last one runs under torch's profiler.

    Epoch times go from one start to the next, so that Lightning's own work between epochs counts.
    """

    def __init__(self, profiler: profile) -> None:
        self.profiler, self.seconds, self.started = profiler, [], 0.0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        finish_device()
        if trainer.current_epoch:
            self.seconds.append(time.perf_counter() - self.started)
        if trainer.current_epoch == trainer.max_epochs - 1:
            self.profiler.start()
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch == trainer.max_epochs - 1:
            finish_device()
            self.profiler.stop()


def trained(images: Path, overrides: list[str], folder: Path) -> Epochs:
    """As train.py does it, without evaluation, pictures and checkpoints: five epochs."""
    from cvae.training.train import assemble, quiet_libraries, try_a_step

    quiet_libraries()
    off = ["~callbacks.pictures", "~callbacks.checkpoint", "trainer.check_val_every_n_epoch=100"]
    cfg = config([*overrides_of(images, overrides), *off, "trainer.max_epochs=5", f"run_dir={folder}"])
    data, module, trainer, _ = assemble(cfg)
    try_a_step(cfg, module, data)
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    epochs = Epochs(profile(activities=kinds, record_shapes=True))
    trainer.callbacks.append(epochs)
    trainer.fit(module, datamodule=data)
    return epochs


class Kernel(NamedTuple):
    name: str  # the operator and the shapes of its inputs
    calls: float  # a step
    median: float  # us a call, without the operators that it calls
    minimum: float


def kernels(profiler: profile, steps: int) -> list[Kernel]:
    """The kernels of a GPU, or else the operators on the CPU, the most expensive first."""
    cpu = torch.autograd.DeviceType.CPU
    events = profiler.events()
    on_gpu = any(event.device_type != cpu for event in events)
    found = defaultdict(list)
    for event in events:
        if (event.device_type != cpu) == on_gpu:
            shapes = ("x".join(map(str, shape)) for shape in event.input_shapes or [] if shape)
            us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found[" ".join([event.name, *shapes])].append(us)
    listed = [Kernel(name, len(us) / steps, statistics.median(us), min(us)) for name, us in found.items()]
    return sorted(listed, key=lambda kernel: -kernel.calls * kernel.median)


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        "python -m benchmarks.profile", description="A step of ours, by layer and kernel."
    )
    options.add_argument("--steps", type=int, default=50, help="of an epoch, and repeats of a layer (default: 50)")
    options.add_argument("--rows", type=int, default=25, help="kernels shown (default: %(default)s)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options.add_argument("overrides", nargs="*", help="as for train.py")
    args = options.parse_args(argv)
    keep_freed_memory()
    tell_torch_of_no_gpu()
    with tempfile.TemporaryDirectory() as name:
        batch_size = config(args.overrides).data.batch_size
        images = mnist(Path(name), "train", min(args.steps * batch_size, 60_000))
        ours = bare(images, args.overrides)
        layers, steps = by_layer(ours, args.steps), len(ours.batches())
        batch = iter(ours.batches() * 2)
        whole = timed(lambda: ours.step(next(batch)), steps)
        epochs = trained(images, args.overrides, Path(name) / "run")
    listed = kernels(epochs.profiler, steps)
    show_layers(layers)
    rows = [[k.name, f"{k.calls:.1f}", f"{k.median:.0f}", f"{k.minimum:.0f}"] for k in listed[: args.rows]]
    rows = [[*row, f"{k.calls * k.median / 1e3:.3f}"] for row, k in zip(rows, listed, strict=False)]
    columns = ["", "calls a step", "median us", "min us", "median ms a step"]
    driver.show("Kernels of a training epoch, each without those that it calls", columns, rows)
    show_step(ours, whole, [seconds / steps * 1e3 for seconds in epochs.seconds[1:]], listed)
    found = {"layers": layers, "bare_step": whole, "epochs_seconds": epochs.seconds, "steps": steps, "kernels": listed}
    driver.save(args.json, found)


def show_layers(layers: dict[str, tuple[Milliseconds, Milliseconds]]) -> None:
    sums = [[sum(both[side][which] for both in layers.values()) for which in (0, 1)] for side in (0, 1)]
    rows = [[name, *(f"{ms:.3f}" for pair in both for ms in pair)] for name, both in (layers | {"sum": sums}).items()]
    driver.show("Layers, each alone, ms", ["", "forward min", "median", "backward min", "median"], rows)


def show_step(ours: Bare, whole: Milliseconds, fit: list[float], listed: list[Kernel]) -> None:
    """fit: ms of a step of train.py in each epoch."""
    fitted = min(fit), statistics.median(fit)
    sums = [sum(kernel.calls * kernel[which] / 1e3 for kernel in listed) for which in (3, 2)]
    parts = [
        ("a step of train.py", *fitted),
        ("the same step in a plain loop", *whole),
        ("all kernels of a step, under the profiler", *sums),
        ("the rest: Python, Lightning, waiting", *(a - b for a, b in zip(fitted, sums, strict=True))),
    ]
    for dtype in (torch.float32, torch.bfloat16):
        rate = limits.matrix_rate(ours.x.device, dtype)
        ms = limits.operations(ours.batch_size) / rate * 1e3
        parts.append((f"the tutorial's arithmetic at {rate / 1e9:.0f} GFLOP/s ({str(dtype)[6:]})", ms, ms))
    driver.show("A step, ms", ["", "minimum", "median"], [[name, f"{a:.3f}", f"{b:.3f}"] for name, a, b in parts])


if __name__ == "__main__":
    main()
