"""Our model, objective and optimizer in a plain loop: what a step costs without a framework around it."""

import sys

from benchmarks.ours import bare
from benchmarks.turns import Turns
from cvae.runtime.devices import keep_freed_memory, tell_torch_of_no_gpu


def main(images: str, *overrides: str) -> None:
    keep_freed_memory()
    tell_torch_of_no_gpu()
    ours = bare(images, list(overrides))
    turns = Turns(len(ours.batches()))
    while True:
        turns.wait()
        for index in ours.batches():
            ours.step(index)


if __name__ == "__main__":
    main(*sys.argv[1:])
