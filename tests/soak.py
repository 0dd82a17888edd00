"""Kills real trainings at random moments, resumes them, and compares what they end with: python tests/soak.py --help.

Prints a row for each kind of training. A loss is anything that differs from the same training without a kill, bit for
bit: weights, optimizer, figures (seconds aside), pictures, GIF, curves.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pytorch_lightning import Callback
from same_run import last, require_equal

ROOT = Path(__file__).parents[1]
TELLING, STEP = "+callbacks.telling._target_=soak.Telling", "soak: step "  # no line of the log begins so
MOST = 4  # kills of one training: with more of them hardly one would come to its next checkpoint
STARTING = 0.2  # the share of kills that come before the first step, while a run starts or resumes
WORDS = [
    "trainer=cpu", "trainer.max_epochs=3", "callbacks.checkpoint.every_n_steps=50", "evaluation.samples=2",
    "data=synthetic", "data.source.train_size=20000", "data.source.test_size=200",
    "model=mlp", "model.hidden=[16]", "model.latent_dim=2",
]  # fmt: skip
LONG = [
    "averaging.decay=0.99", "scheduler=one_cycle", "scheduler.warmup_steps=400", "trainer.skip_above=300",
    "callbacks.early_stopping.patience=2", "callbacks.checkpoint.keep_best=2",
]  # fmt: skip
KINDS = {
    "ELBO": [],
    "IWAE, doubly reparameterized": ["objective=iwae", "objective.samples=3", "objective.gradient=dreg"],
    "VampPrior, a validation split": ["prior=vamp", "prior.components=10", "data.validation_size=500"],
    "images drawn anew, warm-up": ["data.binarization=stochastic", "objective/beta=linear", "objective.beta.steps=900"],
    "cosine, clipped gradients": ["scheduler=cosine", "trainer.gradient_clip_val=10"],
    "all of a long training": LONG,
    "two processes, all of a long training": [*LONG, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"],
    "two processes": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"],
}  # fmt: skip
OPTIMIZERS = {f"optimizer={file.stem}": [f"optimizer={file.stem}"] for file in (ROOT / "conf" / "optimizer").iterdir()}
SOURCES = ("npz", "image_folder", "mnist", "cifar10")  # the last two where CVAE_DATA has them


def of_source(name, folder):
    """The words of a source, made in `folder` where it reads a user's own images; None where its files are missing."""
    if name in ("mnist", "cifar10"):
        there = Path(os.environ.get("CVAE_DATA", "")) / {"mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py"}[name]
        return [f"data={name}"] if there.is_dir() else None
    levels = np.random.default_rng(0).integers(0, 256, (4000, 16, 16), np.uint8)
    if name == "npz":
        np.savez(folder / "images.npz", x=levels)
        return ["data=npz", f"data.root={folder}/images.npz"]
    (folder / "images").mkdir()
    for number, image in enumerate(levels):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
    return ["data=image_folder", f"data.root={folder}/images", "data.image_size=16", "data.channels=1"]


class Telling(Callback):
    """Has a training print how many steps it has made: at its first, and after each batch of minibatches."""

    steps_are_enough = True

    def on_train_start(self, trainer, module):
        if trainer.is_global_zero:
            print(STEP, trainer.global_step, sep="", flush=True)

    def on_train_batch_end(self, trainer, module, *_):
        self.on_train_start(trainer, module)


class Kill(NamedTuple):
    """A kill, in optimizer steps."""

    made: int | None  # when it came; None: before the first step of this start
    saved: int  # by the last checkpoint

    def __str__(self):
        return f"{'start' if self.made is None else self.made} ({self.saved})"


def start(*words, cwd=None, **environment):
    """train.py as a process group of its own, and its output."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests", "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, str(ROOT / "train.py"), *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **pipe)


def until_a_step(process):
    """(what it printed, seconds) until it is at its first step, or at its end if it has none."""
    said, began = [process.stdout.readline()], time.monotonic()
    while said[-1] and not said[-1].startswith(STEP):
        said.append(process.stdout.readline())
    return "".join(said), time.monotonic() - began


def finish(process):
    """The seconds from the first line to the first step, and from there to the end. AssertionError if it fails."""
    said, starting = until_a_step(process)
    began = time.monotonic()
    said += process.stdout.read()
    assert process.wait() == 0, said
    return starting, time.monotonic() - began


def kill(process, after, starting=False):
    """SIGKILL to all its processes, so many seconds after its first step, or after its first line with `starting`.

    Returns (whether it was not over by then, the steps that it had made or None before the first). Raises
    AssertionError if it has failed before.
    """
    said = process.stdout.readline() if starting else until_a_step(process)[0]
    time.sleep(after)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    said += process.stdout.read()
    code = process.wait()
    assert code in ((-signal.SIGKILL, 0) if running else (0,)), said  # 0: it has just come to its end
    steps = [int(line.removeprefix(STEP)) for line in said.splitlines() if re.fullmatch(STEP + "[0-9]+", line)]
    return code == -signal.SIGKILL, steps[-1] if steps else None


def saved_step(run):
    return last(run)["global_step"] if (run / "checkpoints" / "last.ckpt").exists() else 0


def soak(folder, own, kills, chance):
    """The kills; raises AssertionError where a run differs from one that was not killed. own: words beside WORDS.

    Each training is killed MOST times at most, at moments that are spread over all of it.
    """
    whole, stopped, found = folder / "whole", folder / "stopped", list[Kill]()
    other = any(word.startswith("data=") for word in own)
    words = [*(word for word in WORDS if not (other and word.startswith("data"))), *own, TELLING]
    starting, seconds = finish(start(*words, f"hydra.run.dir={whole}"))
    while len(found) < kills:
        shutil.rmtree(stopped, ignore_errors=True)
        before, share = len(found), min(MOST, kills - len(found))
        process = start(*words, f"hydra.run.dir={stopped}")
        while len(found) < before + share:
            early = chance.random() < STARTING
            killed, made = kill(process, chance.uniform(0, starting if early else seconds / share), early)
            if not killed:
                break
            found.append(Kill(made, saved_step(stopped)))
            process = start(f"resume={stopped}", "--trust")
        if len(found) == before:  # it was over before the first kill: a busy machine may have become a faster one
            starting, seconds = starting / 2, seconds / 2
            continue
        if process.poll() is None:
            finish(process)
        require_equal(whole, stopped)
    return found


def shares(kinds, kills):
    """So many kills in all, spread over the kinds."""
    return {kind: kills * (n + 1) // len(kinds) - kills * n // len(kinds) for n, kind in enumerate(kinds)}


def main():
    options = argparse.ArgumentParser("python tests/soak.py", description="Kills trainings, and resumes them.")
    options.add_argument("kills", nargs="?", type=int, default=20, help="of all kinds together (default: %(default)s)")
    options.add_argument("--only", action="append", metavar="KIND", choices=KINDS, help=f"one of {'; '.join(KINDS)}")
    options.add_argument("--words", nargs="*", default=[], help="of all trainings, such as data=mnist")
    given = options.parse_args()
    chance, losses = random.Random(0), 0
    print("| training | kills | steps made at each (steps saved) | losses |\n|---|---|---|---|", flush=True)
    more = [] if given.only else [*sorted(OPTIMIZERS), *(f"data={name}" for name in SOURCES)]
    for kind, share in (shares(given.only or KINDS, given.kills) | dict.fromkeys(more, 1)).items():
        with tempfile.TemporaryDirectory() as folder:
            known = KINDS | OPTIMIZERS
            own = known[kind] if kind in known else of_source(kind.removeprefix("data="), Path(folder))
            if own is None:
                continue
            try:
                found, lost = soak(Path(folder), [*own, *given.words], share, chance), 0
            except AssertionError:
                traceback.print_exc()
                found, lost = [], 1
        losses += lost
        print(f"| {kind} | {len(found)} | {', '.join(map(str, found))} | {lost} |", flush=True)
    sys.exit(losses > 0)


if __name__ == "__main__":
    main()
