"""Our evaluation, as python -m cvae evaluate makes it. The model is untrained: the weights do not change the time."""

import sys

from benchmarks.ours import config, device_of, overrides_of
from benchmarks.turns import Turns
from cvae.build import build_vae, make
from cvae.evaluation import Settings, evaluate
from cvae.evaluation.report import test_batches
from cvae.runtime.devices import keep_freed_memory


def main(images: str, *overrides: str) -> None:
    keep_freed_memory()
    cfg = config(overrides_of(images, list(overrides)))
    device = device_of(cfg)
    data, vae = make(cfg, "data"), build_vae(cfg).to(device).eval()
    data.setup()
    turns, count = Turns(), len(data.test)
    while True:
        settings = Settings(int(turns.wait()), count)
        figures = evaluate(vae, test_batches(vae, data, count, device), settings)
        print("nll", figures["nll"].value)


if __name__ == "__main__":
    main(*sys.argv[1:])
