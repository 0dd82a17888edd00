"""cvae: a configurable experiment framework for convolutional variational autoencoders.

run = cvae.train("model.latent_dim=2")      # what python train.py does; returns the run
run = cvae.open_run("outputs/…")            # a run that is there; run.metrics, run.vae, run.evaluate(), run.images
cvae.find_runs("outputs").table()           # many runs side by side
vae = cvae.load("outputs/…")                # the model alone
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from cvae.version import VERSION as __version__

# A waiting thread of GNU OpenMP checks this often whether the others are done, then it sleeps. OpenMP reads the number
# when torch is loaded. The default, 300,000, keeps a core busy that the others need if another program runs too: on two
# cores, one of them busy, epochs took 11 s with it, and take 1.5 s with 10,000. With both cores free they take about a
# tenth longer.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from cvae.api import TrainedRun, find_runs, open_run, train
    from cvae.build import load

__all__ = ["TrainedRun", "__version__", "find_runs", "load", "open_run", "train"]

WHERE = {"load": "cvae.build"}  # all else is in cvae.api


def __getattr__(name: str) -> Any:
    """Imported when it is first used, so that `import cvae` stays instant."""
    if name in __all__:
        return getattr(importlib.import_module(WHERE.get(name, "cvae.api")), name)
    raise AttributeError(f"module 'cvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
