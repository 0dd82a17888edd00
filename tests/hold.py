"""A training that waits after its second epoch until the test is ready, however slow the machine is."""

CALLBACK = """
import time
from pathlib import Path
from pytorch_lightning import Callback

class Hold(Callback):
    def __init__(self, go, run_dir, name):
        self.go, self.waits = Path(go), Path(run_dir).name.startswith(name)

    def on_train_epoch_start(self, trainer, module):
        end = time.monotonic() + 600
        while self.waits and trainer.current_epoch >= 2 and not self.go.exists() and time.monotonic() < end:
            time.sleep(0.01)
"""


def held(folder, name):
    """The words that make a run whose name begins so wait; it goes on when `folder`/go exists."""
    own = folder / "own"
    own.mkdir()
    (own / "hold.py").write_text(CALLBACK)
    values = {"_target_": "hold.Hold", "go": folder / "go", "run_dir": "${run_dir}", "name": f"'{name}'"}
    return ["--config-dir", str(own), *(f"+callbacks.hold.{key}={value}" for key, value in values.items())]
