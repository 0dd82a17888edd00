"""A worker's side of taking turns. Standard library alone: it runs in the peers' environments too."""

import os
import sys
import time

FD = "BENCHMARKS_ANSWERS"  # in the environment: the file descriptor for the answers; without it they go to stdout


class Turns:
    """A worker waits for its turn, works, and comes back to wait for the next one.

    It blocks on stdin while it waits. The answer to a turn is the milliseconds of one of its steps; the first line is
    "ready". Whatever the worker does from one wait to the next counts.

    Args:
        steps: of one turn
    """

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps
        self.started: float | None = None
        self.answers = os.fdopen(int(os.environ[FD]), "w") if FD in os.environ else sys.stdout

    def wait(self) -> str:
        """Answer the last turn, then block until the next; returns the line that asks for it.

        Raises:
            SystemExit: nobody asks any more.
        """
        finish_device()
        seconds = None if self.started is None else time.perf_counter() - self.started
        print("ready" if seconds is None else seconds / self.steps * 1e3, file=self.answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        self.started = time.perf_counter()
        return line.strip()


def finish_device() -> None:
    """Wait for the GPU if torch uses one: a kernel that was only launched has not been paid for."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
