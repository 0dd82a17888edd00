"""Where images come from, and how they become batches.

A source has download(), which fetches what is missing, and load() -> (train Images, test Images).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvae.data.images import ImageDataset, Images
    from cvae.data.module import ImageData

__all__ = ["OWN", "ImageData", "ImageDataset", "Images"]

OWN = ("image_folder", "npz", "huggingface")  # the choices data=NAME, and the functions, that read a user's own images

WHERE = {"ImageData": "cvae.data.module", "ImageDataset": "cvae.data.images", "Images": "cvae.data.images"}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: processes that decode files need no torch."""
    if name in WHERE:
        return getattr(importlib.import_module(WHERE[name]), name)
    raise AttributeError(f"module 'cvae.data' has no attribute {name!r}")
