"""Ten trainings on two machines, four of which are hurt: python tests/two_machines.py. Needs root on Linux, and `ip`.

The machines are network namespaces that a cable (a veth pair) joins, each with memory of its own to share. Each starts
two processes. Prints a row for each run: what was done to it, both exit codes, the seconds from then to the end, what
the run says of it. LOST ends a row where a machine needed a hand, or where processes are left.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cvae.runs.directory import Run

ROOT = Path(__file__).parents[1]
ADDRESSES = ["10.99.0.1", "10.99.0.2"]
LIMIT = 120  # seconds in which a run must have ended, or have saved its first checkpoint
WORDS = [
    "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2", "trainer.max_epochs=3",
    "data=synthetic", "data.source.train_size=20000", "data.source.test_size=200", "evaluation.samples=2",
    "model=mlp", "model.hidden=[16]", "model.latent_dim=2", "callbacks.checkpoint.every_n_steps=50",
]  # fmt: skip


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def namespace(node):
    return f"cvae_machine_{node}"


def connect():
    for node in (0, 1):
        ip("netns", "add", namespace(node))
    ip("link", "add", "cvae0", "netns", namespace(0), "type", "veth", "peer", "name", "cvae1", "netns", namespace(1))
    for node in (0, 1):
        ip("-n", namespace(node), "addr", "add", f"{ADDRESSES[node]}/24", "dev", f"cvae{node}")
        plug(node, "up")
        ip("-n", namespace(node), "link", "set", "lo", "up")


def plug(node, state):
    ip("-n", namespace(node), "link", "set", f"cvae{node}", state)


def start(node, run, port):
    own = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": str(port), "NODE_RANK": str(node)}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | own
    inside = ["ip", "netns", "exec", namespace(node), "unshare", "-m", "sh", "-c"]
    memory = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
    command = [*inside, memory, "sh", sys.executable, str(ROOT / "train.py"), *WORDS, f"hydra.run.dir={run}"]
    said = open(f"{run}_{node}.txt", "w")
    return subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)


def killed(machines):
    os.killpg(machines[1].pid, signal.SIGKILL)


def told_to_end(machines):
    machines[0].terminate()


def one_process_crashed(machines):
    children = Path(f"/proc/{machines[1].pid}/task/{machines[1].pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGSEGV)


def cable_cut(machines):
    plug(1, "down")


HURT = {2: killed, 4: told_to_end, 6: one_process_crashed, 8: cable_cut}


def left_of(run):
    found = subprocess.run(["pgrep", "-f", str(run)], capture_output=True, text=True)
    return found.stdout.split()


def went(run, machines, hurt):
    """The codes of both machines, None for one that does not end, and the seconds that it took."""
    began = time.monotonic()
    if hurt:
        while not (run / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < began + LIMIT, "no checkpoint"
            time.sleep(0.1)
        began = time.monotonic()
        hurt(machines)
    codes = []
    for machine in machines:
        try:
            codes.append(machine.wait(LIMIT))
        except subprocess.TimeoutExpired:
            codes.append(None)
    return codes, time.monotonic() - began


def main(hurts=HURT, count=10):
    lost = 0
    connect()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                run, hurt = Path(folder, f"run{number}"), hurts.get(number)
                machines = [start(node, run, 29700 + number) for node in (0, 1)]
                codes, seconds = went(run, machines, hurt)
                plug(1, "up")
                status = Run(run).status()
                good = None not in codes and not left_of(run) and (hurt is not None) == any(codes)
                lost += not good
                words = [hurt.__name__.replace("_", " ") if hurt else "left alone", str(codes), f"{seconds:.1f} s"]
                words += [status["state"], status.get("reason", ""), "" if good else "LOST"]
                print(" | ".join(words), flush=True)
    finally:
        for node in (0, 1):
            subprocess.run(["ip", "netns", "delete", namespace(node)], check=False)
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
