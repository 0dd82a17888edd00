"""A data module with images that are given to it."""

from types import SimpleNamespace

import torch

from cvae.data import ImageData, Images


class Given:
    """A source of given images."""

    def __init__(self, train, test):
        self.train, self.test = train, test

    def __call__(self, root):
        return self

    def download(self):
        pass

    def load(self):
        return self.train, self.test


def images(count, seed, shape=(1, 4, 5)):
    """Every level occurs; the label is the image's number modulo 10."""
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8), torch.arange(count) % 10)


TRAIN, TEST = images(1100, 1), images(300, 2)  # more than the 1,000 that are drawn at once


VALUES = dict(
    root=None, image_shape=[1, 4, 5], num_classes=10, batch_size=32, eval_batch_size=70, binarization="static",
    invert=False, train_on="train", validation_size=0, seed=0,
)  # fmt: skip


def data(train=TRAIN, test=TEST, **changed):
    return ImageData(Given(train, test), **VALUES | changed)


def ready(*args, **changed):
    made = data(*args, **changed)
    made.setup()
    return made


def batches(made, loader):
    """All of a loader's (x, y), as the model gets them."""
    x, y = zip(*(made.as_seen(batch) for batch in loader), strict=True)
    return torch.cat(x), torch.cat(y)


def trained_on(made):
    """Every training image as the model would get it, in the order of the set."""
    return made.as_seen((made.train.images.x, made.train.images.y))[0]


def trainer_on(device="cpu", rank=0, world=1):
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(world_size=world, global_rank=rank, strategy=strategy)


def in_process(made, rank, world):
    made.trainer = trainer_on(rank=rank, world=world)
    return made
