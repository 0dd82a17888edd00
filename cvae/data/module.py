"""Training, validation and test batches, binarized as configured."""

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler

from cvae.checks import is_int, one_of, positive_int
from cvae.data.images import ImageDataset, Images, as_is, draw, drawn_once
from cvae.errors import ConfigError

BINARIZATIONS = ("static", "stochastic", "fixed", "none")


class ImageData(LightningDataModule):
    """Training, validation and test batches (x float32 (B, C, H, W) in [0, 1], y int64 (B,)).

    Args:
        source: root -> an object with download() and load() -> (train Images, test Images)
        root: the folder of the data
        image_shape: [C, H, W], checked against what the source loads
        num_classes: labels are 0 … num_classes - 1, checked against those of the source; None: whatever they are
        batch_size: training images a step and process
        eval_batch_size: images a step of evaluation; changes memory and speed, not the images
        binarization: static: 1 where level / 255 > 0.5, else 0
            stochastic: 1 with probability level / 255, drawn anew whenever a training image is used; the validation and
            test images are drawn once by seed, so that every evaluation sees the same
            fixed: drawn once by seed, training images too
            none: x = level / 255
        invert: 255 - level instead of level, before binarization
        train_on: train, or all: training and test images, as keras.io's example does; the test set remains as it is
        validation_size: how many of the training images (drawn by seed) are kept for validation; 0: none
        seed: of the split, of the binarization that is drawn once, and of the order of the training images
    """

    def __init__(
        self, source, root, image_shape, num_classes, batch_size, eval_batch_size, binarization, invert, train_on,
        validation_size, seed,
    ):  # fmt: skip
        super().__init__()
        self.image_shape = tuple(image_shape)
        if len(self.image_shape) != 3 or not all(is_int(size) and size > 0 for size in self.image_shape):
            raise ConfigError("image_shape", list(image_shape), "three positive integers [channels, height, width]")
        self.num_classes = None if num_classes is None else positive_int("num_classes", num_classes)
        self.batch_size = positive_int("batch_size", batch_size)
        self.eval_batch_size = positive_int("eval_batch_size", eval_batch_size)
        self.binarization = one_of("binarization", binarization, BINARIZATIONS)
        self.invert, self.train_on = (
            one_of("invert", invert, (False, True)),
            one_of("train_on", train_on, ("train", "all")),
        )
        if not is_int(validation_size) or validation_size < 0:
            raise ConfigError("validation_size", validation_size, "an integer of at least 0")
        if not is_int(seed) or seed < 0:
            raise ConfigError("seed", seed, "an integer of at least 0")
        self.validation_size, self.seed = validation_size, seed
        self.source = source(root)
        self.train = self.validation = self.test = None

    @property
    def kind(self) -> str:
        """What a likelihood has to describe: "binary" images, or "levels" (x = level / 255)."""
        return "levels" if self.binarization == "none" else "binary"

    def prepare_data(self) -> None:
        """Fetch the files if they are not there; Lightning calls this in one process only."""
        self.source.download()

    def setup(self, stage=None) -> None:
        if self.train is not None:
            return
        train, test = self.source.load()
        self._check(train, test)
        if self.invert:
            train, test = Images(255 - train.x, train.y), Images(255 - test.x, test.y)
        how, grey, once = self.binarization, test, torch.Generator().manual_seed(self.seed)
        if how == "static":
            train, test = (Images((images.x > 127).to(torch.uint8) * 255, images.y) for images in (train, test))
        if how in ("fixed", "stochastic"):  # the same test images under both
            test = drawn_once(test, once)
        if how == "fixed":
            train = drawn_once(train, once)
        if self.train_on == "all":
            more = grey if how == "stochastic" else test
            train = Images(torch.cat([train.x, more.x]), torch.cat([train.y, more.y]))
        if self.validation_size >= len(train.x):
            raise ConfigError("data.validation_size", self.validation_size, f"below the {len(train.x)} training images")
        if self.validation_size:
            order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(self.seed))
            kept, held_out = order[self.validation_size :], order[: self.validation_size]
            validation = Images(train.x[held_out], train.y[held_out])
            self.validation = ImageDataset(drawn_once(validation, once) if how == "stochastic" else validation)
            train = Images(train.x[kept], train.y[kept])
        self.train, self.test = ImageDataset(train), ImageDataset(test)

    def _check(self, *sets: Images) -> None:
        for images in sets:
            found, last = images.x.shape[1:], int(images.y.max())
            if found != self.image_shape:
                raise ConfigError("data.image_shape", list(self.image_shape), f"{list(found)}, as the images are")
            if self.num_classes is not None and last >= self.num_classes:
                raise ConfigError(
                    "data.num_classes", self.num_classes, f"at least {last + 1}: the labels are 0 … {last}"
                )

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
        # A generator of its own: each pass over a loader draws a number, which must not move the training's noise.
        own, pin = torch.Generator(), torch.cuda.is_available()
        return DataLoader(dataset, batch_size, sampler=sampler, collate_fn=as_is, generator=own, pin_memory=pin)

    def batch(self, split, indices, device="cpu"):
        batch = getattr(self, split).__getitems__(list(indices))
        return self.on_after_batch_transfer([part.to(device) for part in batch], 0)

    def classes(self):
        return self.num_classes

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        x, y = batch
        x = x.float() / 255
        # Validation and test images are binary by now: to draw them leaves them as they are.
        return (draw(x) if self.binarization == "stochastic" else x), y
