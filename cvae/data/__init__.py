"""Where images come from, and how they become batches.

A source has download(), which fetches what is missing, and load() -> (train Images, test Images).
"""

from cvae.data.images import ImageDataset, Images
from cvae.data.module import ImageData

__all__ = ["ImageData", "ImageDataset", "Images"]
