"""Kills real trainings at random moments, resumes them, and compares what they end with: python tests/soak.py [KILLS].

Prints a row for each kind of training. A loss is anything that differs from the same training without a kill, bit for
bit: weights, optimizer, figures (seconds aside), pictures, GIF, curves.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from PIL import Image
from same_run import last, require_equal

ROOT = Path(__file__).parents[1]
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


def start(*words, cwd=None, **environment):
    """train.py as a process group of its own, and its output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, str(ROOT / "train.py"), *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **pipe)


def finish(process):
    """The seconds from the first line to the end; raises AssertionError if it fails."""
    first = process.stdout.readline()
    began = time.monotonic()
    rest = process.stdout.read()
    assert process.wait() == 0, first + rest
    return time.monotonic() - began


def kill(process, after):
    """SIGKILL to all its processes, so many seconds after its first line. Whether it was not over by then.

    Raises AssertionError if it has failed before.
    """
    said = process.stdout.readline()
    time.sleep(after)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    said += process.stdout.read()
    code = process.wait()
    assert code in ((-signal.SIGKILL, 0) if running else (0,)), said  # 0: it has just come to its end
    return code == -signal.SIGKILL


def soak(folder, own, kills, chance):
    """Steps saved at each kill; raises AssertionError where the two runs differ. own: words beside WORDS."""
    whole, stopped = folder / "whole", folder / "stopped"
    other = any(word.startswith("data=") for word in own)
    words = [*(word for word in WORDS if not (other and word.startswith("data"))), *own]
    seconds = finish(start(*words, f"hydra.run.dir={whole}"))
    saved = []
    while not saved:
        shutil.rmtree(stopped, ignore_errors=True)
        process = start(*words, f"hydra.run.dir={stopped}")
        while len(saved) < kills and kill(process, chance.uniform(0, seconds / kills)):
            saved.append(last(stopped)["global_step"] if (stopped / "checkpoints" / "last.ckpt").exists() else 0)
            process = start(f"resume={stopped}")
        seconds /= 2  # where it was over before the first kill: a busy machine may have become a faster one
    if process.poll() is None:
        finish(process)
    require_equal(whole, stopped)
    return saved


def main(kills=20):
    chance, losses = random.Random(0), 0
    print("| training | kills | steps that were saved at each | losses |\n|---|---|---|---|", flush=True)
    shares = {kind: kills * (n + 1) // len(KINDS) - kills * n // len(KINDS) for n, kind in enumerate(KINDS)}
    more = dict.fromkeys([*sorted(OPTIMIZERS), *(f"data={name}" for name in SOURCES)], 1)
    for kind, share in (shares | more).items():
        with tempfile.TemporaryDirectory() as folder:
            known = KINDS | OPTIMIZERS
            own = known[kind] if kind in known else of_source(kind.removeprefix("data="), Path(folder))
            if own is None:
                continue
            try:
                saved, lost = soak(Path(folder), own, share, chance), 0
            except AssertionError:
                traceback.print_exc()
                saved, lost = [], 1
        losses += lost
        print(f"| {kind} | {len(saved)} | {', '.join(map(str, saved))} | {lost} |", flush=True)
    sys.exit(losses > 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
