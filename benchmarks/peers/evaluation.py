"""Our importance sampling of log p(x), and the other figures that come with it: `python -m cvae evaluate`."""

import sys

from benchmarks.ours import bare
from benchmarks.turns import Turns
from cvae.devices import keep_freed_memory
from cvae.evaluation import Settings, evaluate


def main(images: str, *overrides: str) -> None:
    """All images of the file; a turn asks for so many samples."""
    keep_freed_memory()
    ours = bare(images, list(overrides))
    vae, batch = ours.vae.eval(), (ours.x, ours.vae.labels(ours.y))
    turns = Turns()
    while True:
        figures = evaluate(vae, [batch], Settings(int(turns.wait())))
        print("nll", figures["nll"].value)


if __name__ == "__main__":
    main(*sys.argv[1:])
