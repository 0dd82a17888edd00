"""The command line in a process of its own."""

import os
import subprocess
import sys

from conftest import ROOT


def train_py(*arguments, cwd, **environment):
    return command(ROOT / "train.py", *arguments, cwd=cwd, **environment)


def command(*arguments, cwd, **environment):
    ours = ("HYDRA_", "CVAE_", "OMP_WAIT", "GOMP")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | environment
    python = [sys.executable, *map(str, arguments)]
    return subprocess.run(python, capture_output=True, text=True, cwd=cwd, env=env, timeout=600)
