"""A user's own images, saved for a test."""

import numpy as np
from PIL import Image

from cvae.data.decode import Reading, read_file
from cvae.data.folder import ImageFolder, image_folder

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def noise(*shape):
    return np.random.default_rng(2).integers(256, size=shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def colour(red, green, blue, height=8, width=8):
    return np.broadcast_to(np.array([red, green, blue], np.uint8), (height, width, 3)).copy()


def folder_of(root, shape=GREY, test_size=0.1, seed=0, **options):
    return ImageFolder(Reading(shape), root, test_size, seed, **options)


def read_image(path, shape, **how):
    return read_file(path, Reading(shape, **how))[0]


def many(root, count=20):
    """`count` images in two folders, their level their number."""
    for level in range(count):
        save(root / "ab"[level % 2] / f"{level:02}.png", np.full((8, 8), level, np.uint8))


def folder_data(root, **changed):
    values = dict(
        image_shape=[1, 8, 8], num_classes=None, batch_size=4, eval_batch_size=4, binarization="none", invert=False,
        train_on="train", validation_size=0, test_size=0.25, seed=3, image_size=None, channels=None,
    )  # fmt: skip
    return image_folder(root=root, **values | changed)
