"""cvae: a configurable experiment framework for convolutional variational autoencoders.

run = cvae.train("model.latent_dim=2")      # what python train.py does; returns the run
run = cvae.open_run("outputs/…")            # a run that is there; run.metrics, run.vae, run.evaluate(), run.images
cvae.find_runs("outputs").table()           # many runs side by side
vae = cvae.load("outputs/…")                # the model alone
"""

import importlib
from typing import TYPE_CHECKING, Any

from cvae.version import VERSION as __version__

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
