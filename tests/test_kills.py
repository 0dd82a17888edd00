"""Real processes, killed at random moments and resumed: they end as if nothing had happened. Slow, run by .ci/run."""

import os
import random
import signal
import time

import pytest
import soak

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", soak.KINDS)
def test_a_training_that_was_killed_twice_ends_as_one_that_was_not(kind, tmp_path):
    """`python tests/soak.py` tries every kind, with twenty kills."""
    assert len(soak.soak(tmp_path, soak.KINDS[kind], 2, random.Random(3))) > 0


def test_a_job_of_slurm_goes_on_in_its_next_turn(tmp_path):
    """With a scontrol that notes what it is told. The job's second start has the words of the first."""
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/calls\n")
    fake.chmod(0o755)
    names = ("NTASKS=1", "JOB_NAME=train", "NNODES=1", "PROCID=0", "LOCALID=0", "NODEID=0", "JOB_NODELIST=localhost")
    job = {f"SLURM_{name}": value for name, value in (pair.split("=") for pair in (*names, "JOB_ID=5"))}
    given = {"cwd": tmp_path, "PATH": f"{fake.parent}:{os.environ['PATH']}", **job}
    process = soak.start(*soak.WORDS, **given)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGUSR1 and said.rstrip().endswith("SLURM starts it again"), said
    assert (tmp_path / "calls").read_text() == "requeue 5\n"
    soak.finish(soak.start(*soak.WORDS, SLURM_RESTART_COUNT="1", **given))
    (run,) = tmp_path.glob("outputs/*/*/")
    assert (run / "metrics.json").exists()
