"""What `python -m cvae` does with a run directory: one file a command."""

from cvae.commands.evaluate import evaluate
from cvae.commands.sample import sample

__all__ = ["evaluate", "sample"]
