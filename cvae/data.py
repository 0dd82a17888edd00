"""Images in memory as uint8, a batch by one indexing operation, binarized as a whole batch on the device."""

from typing import NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from cvae.errors import ConfigError, is_int, one_of, positive_int


class Images(NamedTuple):
    """A labelled set of images: x uint8 (N, C, H, W), y int64 (N,)."""

    x: Tensor
    y: Tensor


class ImageDataset(Dataset):
    """Hands out a whole batch with one index: the DataLoader calls `__getitems__` where a dataset has it."""

    def __init__(self, images: Images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images.x[index], self.images.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.x[indices], self.images.y[indices]


def as_is(batch):
    """The collate function for batches that are batches already."""
    return batch


def binarize(x: Tensor, how: str) -> Tensor:
    """uint8 (B, C, H, W) -> float32 in [0, 1].

    static: 1 where the pixel is above one half (x/255 > 0.5), else 0.
    """
    x = x.float() / 255
    return (x > 0.5).float()


class ImageData(LightningDataModule):
    """Training, validation and test batches (x float32 (B, C, H, W) in [0, 1], y int64 (B,)).

    Args:
        source: root -> an object with download() and load() -> (train Images, test Images)
        root: the folder of the data
        image_shape: [C, H, W], checked against what the source loads
        num_classes: labels are 0 … num_classes - 1
        batch_size: training images a step and process
        eval_batch_size: images a step of evaluation; changes memory and speed, not the figures
        binarization: see `binarize`
        validation_size: how many of the training images (drawn by seed) are kept for validation; 0: none
        seed: of the split and of the order of the training images
    """

    def __init__(
        self, source, root, image_shape, num_classes, batch_size, eval_batch_size, binarization, validation_size, seed
    ):
        super().__init__()
        self.source, self.image_shape, self.num_classes = source(root), tuple(image_shape), num_classes
        self.batch_size = positive_int("batch_size", batch_size)
        self.eval_batch_size = positive_int("eval_batch_size", eval_batch_size)
        self.binarization = one_of("binarization", binarization, ("static",))
        if not is_int(validation_size) or validation_size < 0:
            raise ConfigError("validation_size", validation_size, "an integer of at least 0")
        self.validation_size, self.seed = validation_size, seed
        self.train = self.validation = self.test = None

    @property
    def kind(self) -> str:
        """What a likelihood has to describe: binary images, so far."""
        return "binary"

    def prepare_data(self) -> None:
        """Fetch the files if they are not there; Lightning calls this in one process only."""
        self.source.download()

    def setup(self, stage=None) -> None:
        if self.train is not None:
            return
        train, test = self.source.load()
        for images in (train, test):
            if images.x.shape[1:] != self.image_shape:
                raise ConfigError("image_shape", list(self.image_shape), f"{list(images.x.shape[1:])}, as the images are")
        if self.validation_size >= len(train.x):
            raise ConfigError("validation_size", self.validation_size, f"below the {len(train.x)} training images")
        if self.validation_size:
            order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(self.seed))
            kept, held_out = order[self.validation_size :], order[: self.validation_size]
            self.validation = ImageDataset(Images(train.x[held_out], train.y[held_out]))
            train = Images(train.x[kept], train.y[kept])
        self.train, self.test = ImageDataset(train), ImageDataset(test)

    def train_dataloader(self) -> DataLoader:
        # The order is a function of (seed, epoch): Lightning calls the sampler's set_epoch, with one process or many.
        world, rank = self._processes()
        sampler = DistributedSampler(self.train, world, rank, shuffle=True, seed=self.seed)
        return self._loader(self.train, self.batch_size, sampler)

    def val_dataloader(self) -> DataLoader:
        """The validation split; where there is none the test set, as in the tutorial."""
        return self._eval_loader(self.validation or self.test)

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader(self.test)

    def _eval_loader(self, dataset: ImageDataset) -> DataLoader:
        # Every image once: a DistributedSampler would repeat some to make the processes' shares equal.
        world, rank = self._processes()
        return self._loader(dataset, self.eval_batch_size, range(rank, len(dataset), world))

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, dataset: ImageDataset, batch_size: int, sampler) -> DataLoader:
        pin = torch.cuda.is_available()
        return DataLoader(dataset, batch_size, sampler=sampler, collate_fn=as_is, pin_memory=pin)

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        x, y = batch
        return binarize(x, self.binarization), y
