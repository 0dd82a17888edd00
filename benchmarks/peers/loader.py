"""Our training batches, loaded as a training loads them, and thrown away."""

import sys

from benchmarks.ours import config, overrides_of
from benchmarks.turns import Turns
from cvae.build import make


def main(images: str, *overrides: str) -> None:
    data = make(config(overrides_of(images, list(overrides))), "data")
    data.setup()
    loader = data.train_dataloader()
    turns = Turns(len(loader))
    while True:
        turns.wait()
        for batch in loader:
            data.as_seen(batch)


if __name__ == "__main__":
    main(*sys.argv[1:])
