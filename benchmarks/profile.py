"""Where the time of a training step goes, by operation and shapes: python -m benchmarks.profile --help."""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import driver
from benchmarks.ours import Bare, bare, mnist
from benchmarks.turns import finish_device
from cvae.devices import keep_freed_memory

Called = tuple[float, int]  # milliseconds of its own in a step, calls


def operations(ours: Bare, index: torch.Tensor) -> dict[str, Called]:
    """An operation with the shapes of its inputs -> its own time on the device in one step, and its calls."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ours.x.is_cuda else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        ours.step(index)
        finish_device()
    spent = "self_device_time_total" if ours.x.is_cuda else "self_cpu_time_total"  # microseconds
    found = {}
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.device_type == DeviceType.CPU:  # the kernels of a GPU stand for themselves too
            name = " ".join([event.key, *(str(shape) for shape in event.input_shapes if shape)])
            found[name] = getattr(event, spent) / 1e3, event.count
    return found


def milliseconds(ours: Bare, index: torch.Tensor) -> float:
    """A step without the profiler."""
    finish_device()
    started = time.perf_counter()
    ours.step(index)
    finish_device()
    return (time.perf_counter() - started) * 1e3


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser("python -m benchmarks.profile", description=__doc__)
    options.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="as train.py takes them, such as model=resnet"
    )
    options.add_argument("--steps", type=int, default=30, help="that are profiled (default: %(default)s)")
    options.add_argument("--rows", type=int, default=25, help="of the table (default: %(default)s)")
    args = options.parse_args(argv)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        ours = bare(mnist(Path(folder), "train", 6400), args.overrides)
    index = ours.batches()[0]
    totals = [milliseconds(ours, index) for _ in range(args.steps + 10)][10:]  # the first ones warm up
    called = defaultdict(list)
    for _ in range(args.steps):
        for name, one in operations(ours, index).items():
            called[name].append(one)
    rows = []
    for name, steps in called.items():
        times = [spent for spent, _ in steps]
        calls = sum(count for _, count in steps) / args.steps
        rows.append((driver.quartiles(times)[1], min(times), calls, name))
    columns = ["operation, shapes of its inputs", "calls per step", "minimum", "median"]
    largest = sorted(rows, reverse=True)[: args.rows]
    shown = [[name, f"{calls:g}", f"{least:.3f}", f"{median:.3f}"] for median, least, calls, name in largest]
    driver.show(f"A training step of {len(index)} images: own time in ms, {args.steps} steps", columns, shown)
    least, median = min(totals), driver.quartiles(totals)[1]
    print(f"the step as a whole, without the profiler: {least:.3f} minimum, {median:.3f} median")


if __name__ == "__main__":
    main()
