"""Whether all works on a GPU as it does on a CPU: bash benchmarks/gpu.sh. A line a check: ok, or what is wrong."""

import argparse
import json
import logging
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.driver import ROOT
from benchmarks.ours import config
from cvae.__main__ import parser
from cvae.build import build_vae, make
from cvae.cli.resume import ALLOWED
from cvae.runtime.noise import seed_step
from cvae.training import graphs
from cvae.training.engine import training_terms
from cvae.training.graphs import CHECKED, WARM_UP, Graphed, capturable

sys.path.append(str(ROOT / "tests"))  # the choices, as the tests have them
OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
LIMIT = 600  # seconds of a command
SMALL = [
    "data=synthetic",
    "data.source.train_size=1000",
    "data.source.test_size=200",
    "callbacks.pictures.manifold_steps=2",
]
SHORT = ["trainer.max_epochs=2"]
REPLAYS = 10
SHAKEN = 1e-6  # by how much, relatively, the weights of steps to compare with differ at the start: float32's rounding
NOISE = 3  # times what that comes to is no fault: replays and steps add up in any order, at each step


class Wrong(Exception):
    """What is wrong."""


class Toy(NamedTuple):
    """Steps of a model on a few images, as the module takes them."""

    vae: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[..., torch.Tensor]
    x: torch.Tensor


def toy(words: list[str], device: torch.device, spoil: Callable = lambda loss: loss, size: int = 32) -> Toy:
    cfg = config([*words, "data.source.train_size=64"] if "data=synthetic" in words else words)
    torch.manual_seed(0)
    vae, objective = build_vae(cfg).to(device), make(cfg, "objective").to(device)
    objective.prepare(1000)
    parts = torch.nn.ModuleList([vae, objective])
    optimizer = make(cfg, "optimizer")([p for p in parts.parameters() if p.requires_grad])
    x = (torch.rand(size, *cfg.data.image_shape, generator=torch.Generator().manual_seed(1)) > 0.5).float().to(device)
    y = torch.zeros(size, dtype=torch.long, device=device) if vae.num_classes else None
    half = str(cfg.trainer.precision).startswith("bf16")

    def step(x: torch.Tensor, number: Any) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            terms = training_terms(objective, vae, x, y, number)
        spoil(terms.loss.mean()).backward()
        optimizer.step()
        return terms.loss.detach().sum()

    return Toy(parts, optimizer, step, x)


def trained(made: Toy, take: Callable, steps: int) -> list[torch.Tensor]:
    """The weights after so many steps, each of its own noise and number; then what the last one returned."""
    for number in range(steps):
        seed_step(3, number, device=made.x.device)
        result = take(made.x, number)
    return [*(part.detach().clone() for part in made.vae.state_dict().values()), result]


def recorded(made: Toy, needed: bool = True) -> Graphed:
    capturable(made.optimizer, True)
    return Graphed(made.step, made.optimizer, made.x.device, made.vae)


def same(words: list[str], device: torch.device) -> str:
    """What is wrong with replayed steps of these choices; empty where nothing is.

    How far rounding alone takes two trainings apart depends on the optimizer: one that divides by the gradient's size
    takes whole steps along gradients that are rounding. So it is measured, on steps from weights that differ by it.
    """
    steps = WARM_UP + CHECKED + REPLAYS
    plain, shaken, replayed = (toy(words, device) for _ in range(3))
    start = [part.clone() for part in plain.vae.state_dict().values()]
    with torch.no_grad():
        for part in shaken.vae.parameters():
            part += SHAKEN * part * torch.randn(part.shape, generator=torch.Generator().manual_seed(2)).to(device)
    expected, apart = (
        trained(made, lambda x, number, made=made: made.step(x, torch.full((), number, device=device)), steps)
        for made in (plain, shaken)
    )
    take = recorded(replayed)
    with Warnings() as said:
        found = trained(replayed, take, steps)
    if not take.recorded:
        return " ".join(said.lines)
    change = distance(expected[:-1], start)
    (off, loss), (limit, loss_limit) = (
        (distance(some[:-1], expected[:-1]) / change, abs(some[-1] / expected[-1] - 1).item())
        for some in (found, apart)
    )
    limit, loss_limit = max(0.01, NOISE * limit), max(0.001, NOISE * loss_limit)
    if off <= limit and loss <= loss_limit:
        return ""
    return (
        f"after {steps} steps the weights are off by {off:.1%} of their change (rounding explains {limit:.1%}), "
        f"the loss by {loss:.2%} ({loss_limit:.2%})"
    )


def distance(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Of all weights together: where a weight has no gradient but rounding, Adam takes steps of any sign."""
    pairs = zip(some, others, strict=True)
    return sum((a.cpu().double() - b.cpu().double()).square().sum().item() for a, b in pairs) ** 0.5


class Warnings(logging.Handler):
    """The log lines of graphs.py."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "Warnings":
        graphs.log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        graphs.log.removeHandler(self)


def all_same(cases: dict[str, list[str]], device: torch.device) -> str:
    bad = {}
    for name, words in cases.items():
        try:
            reason = same(words, device)
        except Exception as error:  # the others are looked at, too
            reason = f"{type(error).__name__}: {error}"
        if reason:
            bad[name] = reason
    if bad:
        raise Wrong(f"{len(bad)} of {len(cases)}: " + "; ".join(f"{name}: {why:.120}" for name, why in bad.items()))
    return f"{len(cases)} recorded, {REPLAYS} replays each do what steps do"


def choices() -> dict[str, list[str]]:
    """name -> words: the choices that tests/test_waits.py looks at."""
    from test_waits import CHOICES, words_of

    return {" ".join(choice): [str(word) for word in words_of(*choice)] for choice in CHOICES}


TINY = ["data=synthetic", "model.filters=4", "optimizer.lr=1e-3"]


def optimizers() -> dict[str, list[str]]:
    cases = {name: [*TINY, f"optimizer={name}"] for name in OPTIMIZERS}
    for name in ("adam", "adamw"):
        cases[f"{name}, not fused"] = [*TINY, f"optimizer={name}", "optimizer.fused=false"]
    return cases


def falls_back(device: torch.device) -> str:
    """A step that reads a number is not recorded, and all goes on as if nobody had tried; others are recorded."""
    read, plain = toy(TINY, device, spoil=lambda loss: loss * (1 + 0 * loss.item())), toy(TINY, device)
    steps = WARM_UP + REPLAYS
    take = recorded(read)
    with Warnings() as said:
        found = trained(read, take, steps)
    expected = trained(plain, lambda x, number: plain.step(x, torch.full((), number, device=device)), steps)
    if take.recorded or not said.lines:
        raise Wrong("a step with .item() was recorded")
    if not torch.allclose(found[-1], expected[-1], rtol=1e-2):
        raise Wrong("after a recording that failed the losses are others")
    if reason := same(TINY, device):
        raise Wrong(f"after a recording that failed: {reason}")
    return said.lines[0].removeprefix("Training goes on without CUDA graphs: ")


def waits(device: torch.device) -> str:
    made = toy(TINY, device)
    take = recorded(made)
    trained(made, take, WARM_UP + CHECKED)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained(made, take, 100)
    except RuntimeError as error:
        raise Wrong(f"a replay waits: {error}") from error
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "100 replays wait for nothing" if take.recorded else "no graphs"


def odd_batch(device: torch.device) -> str:
    """cosine changes the learning rate in each epoch, and the last minibatch is smaller: two recordings in all."""
    made = toy([*TINY, "scheduler=cosine"], device)
    take, scheduler = recorded(made), torch.optim.lr_scheduler.CosineAnnealingLR(made.optimizer, 12)
    made_of = []
    for _ in range(12):
        for size in (32, 32, 8):
            seed_step(1, device=device)
            take(made.x[:size], 0)
        scheduler.step()
        made_of.append([id(each.replay) for each in take.recordings.values() if each.replay])
    if not take.recorded or made_of[-1] != made_of[-5] or len(made_of[-1]) != 2:
        raise Wrong("sizes are recorded anew where the learning rate changes")
    return "2 sizes, each recorded once in 12 epochs"


def speed(device: torch.device) -> str:
    """Steps a second, of 200."""
    found = []
    for name, words in WAYS.items():
        made = toy(words, device)
        if "contiguous" in name:
            made.vae.to(memory_format=torch.contiguous_format)
        take = made.step if name == "eager" else recorded(made)
        trained(made, take, 20)
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        trained(made, take, 200)
        torch.cuda.synchronize(device)
        found.append(f"{name} {200 / (time.perf_counter() - started):,.0f}")
    return "steps/s: " + "; ".join(found)


WAYS = {  # of the same model in other ways; models are in channels_last memory unless their name says more
    "eager": ["experiment=tf_tutorial"],
    "graphs": ["experiment=tf_tutorial"],
    "contiguous": ["experiment=tf_tutorial"],
    "bf16": ["experiment=tf_tutorial", "trainer.precision=bf16-mixed"],
    "resnet_mnist": ["experiment=resnet_mnist"],
    "resnet_mnist, contiguous": ["experiment=resnet_mnist"],
}


class Check(NamedTuple):
    """What is run, and what is said of it: `judge` is given what the commands print. It raises Wrong."""

    judge: Callable[..., str]
    commands: Callable[[Path], list[list[str]]] = lambda folder: []  # the last of them may have several runs
    cases: Callable[[], dict[str, list[str]]] = dict  # name -> words of models that are trained in this process


def train(run: Path, *words: str) -> list[str]:
    return ["train.py", f"hydra.run.dir={run}", "evaluation.samples=0", *words]


def default(folder: Path, said: str) -> str:
    if "on cuda" not in said or "without CUDA graphs" in said:
        bad = (line for line in said.splitlines() if "without CUDA graphs" in line)
        raise Wrong(next(bad, "it was not on the GPU"))
    return next(line for line in said.splitlines() if "Test ELBO" in line).partition("Test")[2].partition(". The")[0]


def tests(folder: Path, said: str) -> str:
    last = said.strip().splitlines()[-1]
    if " passed" not in last:
        raise Wrong(last)
    return last.strip("= ")


def resumed(folder: Path) -> list[list[str]]:
    """A run of each optimizer that goes from the CPU to the GPU and back."""
    found = []
    for name in OPTIMIZERS:
        run = folder / f"resume_{name}"
        found.append(train(run, *SMALL, "model.filters=4", f"optimizer={name}", "trainer=cpu", "trainer.max_epochs=1"))
        for epochs, device in ((2, "gpu"), (3, "cpu")):
            words = [f"trainer.max_epochs={epochs}", f"trainer.accelerator={device}"]
            found.append(["train.py", f"resume={run}", *words])
    return found


def evaluated(folder: Path) -> list[list[str]]:
    run = folder / "evaluated"
    options = ["--samples", "200", "--images", "200", "--device"]
    measured = [["-m", "cvae", "evaluate", str(run), *options, device] for device in ("cuda", "cpu")]
    return [train(run, *SMALL, *SHORT), *measured]


def alike(folder: Path, said: str) -> str:
    files = sorted((folder / "evaluated" / "evaluation").glob("*.json"))
    values = [json.loads(file.read_text())["nll"]["value"] for file in files]
    if len(values) != 2 or abs(values[0] - values[1]) > 0.5:
        raise Wrong(f"-log p(x) is {values} on the GPU and on the CPU")
    return f"-log p(x) {values[0]:.2f} and {values[1]:.2f}"


def ended(folder: Path, said: str) -> str:
    return "Test ELBO" + said.rpartition("Test ELBO")[2].partition(". The run")[0] if "Test ELBO" in said else "ended"


CHECKS = {
    "default": Check(default, lambda folder: [train(folder / "default", *SHORT)]),
    "tests": Check(tests, lambda folder: [["-m", "pytest", "-q", "-n", "0", "-m", "gpu"]]),
    "choices": Check(lambda *_: all_same(choices(), GPU), cases=choices),
    "optimizers": Check(lambda *_: all_same(optimizers(), GPU), cases=optimizers),
    "falls back": Check(lambda *_: falls_back(GPU)),
    "no waiting": Check(lambda *_: waits(GPU)),
    "odd batch": Check(lambda *_: odd_batch(GPU)),
    "resume": Check(lambda *_: f"{len(OPTIMIZERS)} optimizers, from CPU to GPU to CPU", resumed),
    "evaluate": Check(alike, evaluated),
    "ddp": Check(
        ended,
        lambda folder: [train(folder / "ddp", *SMALL, "trainer=ddp", "trainer.devices=1", "trainer.max_epochs=1")],
    ),
    "compile": Check(
        ended, lambda folder: [train(folder / "c", *SMALL, "trainer.compile=true", "trainer.max_epochs=2")]
    ),
    "speed": Check(lambda *_: speed(GPU), cases=lambda: WAYS),
}


def parse(words: list[str]) -> None:
    """Raise where a command could not begin."""
    if words[:2] == ["-m", "cvae"]:
        parser().parse_args(words[2:])
    elif words[0] == "train.py" and words[1].startswith("resume="):
        if unknown := [word for word in words[2:] if word.partition("=")[0] not in ALLOWED]:
            raise Wrong(f"a run that goes on does not take {unknown}")
    elif words[0] == "train.py":
        config([word for word in words[1:] if not word.startswith("hydra.")])


def run(words: list[str]) -> str:
    """What a command prints. Raises Wrong unless it ends well."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=LIMIT)
    said = done.stdout + done.stderr
    if done.returncode:
        raise Wrong(f"{shlex.join(words)}: {' '.join(said.strip().splitlines()[-2:])}")
    return said


def outcome(check: Check, folder: Path, dry: bool) -> str:
    commands = check.commands(folder)
    if dry:
        cases = check.cases()
        for words in commands:
            parse(words)
        for words in cases.values():
            config(words)
        return f"{len(commands) + len(cases)} parsed"
    return check.judge(folder, "\n".join([run(words) for words in commands]))


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser("benchmarks/gpu.sh", description=__doc__)
    options.add_argument("checks", nargs="*", metavar="CHECK", help=f"only these: {', '.join(CHECKS)}")
    options.add_argument("--dry-run", action="store_true", help="only look whether each command can be parsed")
    args = options.parse_args(argv)
    if unknown := set(args.checks) - set(CHECKS):
        options.error(f"there is no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    there = torch.cuda.is_available()
    print(
        f"On {torch.cuda.get_device_name()}" if there else "There is no GPU here.",
        f"torch {torch.__version__}",
        flush=True,
    )
    if not there and not args.dry_run:
        print("Nothing is checked. --dry-run looks whether each command can be parsed.")
        return 2
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in args.checks or CHECKS:
            started = time.perf_counter()
            try:
                line = f"ok     {outcome(CHECKS[name], Path(folder), args.dry_run)}"
            except Exception as error:  # the other checks are made all the same
                kind = "" if isinstance(error, Wrong) else f"{type(error).__name__}: "
                wrong, line = wrong + 1, f"WRONG  {kind}{' '.join(str(error).split()):.400}"
            print(f"{name:11} {time.perf_counter() - started:4.0f} s  {line}", flush=True)
    print(f"{wrong} of {len(args.checks or CHECKS)} checks are wrong" if wrong else "All is well")
    return int(wrong > 0)


GPU = torch.device("cuda")

if __name__ == "__main__":
    sys.exit(main())
