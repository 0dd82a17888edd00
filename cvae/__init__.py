"""cvae: a configurable experiment framework for convolutional variational autoencoders."""

from typing import Any

from cvae.version import VERSION as __version__  # noqa: F401


def __getattr__(name: str) -> Any:
    """`cvae.load`, imported when it is first used, so that `import cvae` stays instant."""
    if name == "load":
        from cvae.build import load

        return load
    raise AttributeError(f"module 'cvae' has no attribute {name!r}")
