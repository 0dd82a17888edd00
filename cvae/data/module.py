"""Training, validation and test batches, binarized as configured."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from cvae import checks
from cvae.checks import is_int, one_of, positive_int, seed_number
from cvae.data.augment import Augmentation
from cvae.data.contents import Contents, of_source
from cvae.data.images import ImageDataset, Images, as_is, binarized, draw, drawn_once, inverted
from cvae.data.listing import DRAWN_BY, drawn
from cvae.data.loaders import Loader, Order, TrainingLoader
from cvae.errors import ConfigError
from cvae.runtime.devices import free_memory

BINARIZATIONS = ("static", "stochastic", "fixed", "none")


class ImageData(LightningDataModule):
    """Training, validation and test batches (x float32 (B, C, H, W) in [0, 1], y int64 (B,)).

    `train`, `validation` and `test` are datasets of uint8 images; None before setup(), or if there is no such split.
    `contents` is then what the user's own images are known by.

    Args:
        source: root -> an object with download() and load() -> (train Images, test Images), or with the validation
            Images as the third. If it can count its classes without loading, it also has classes() -> int.
        root: the folder of the data
        image_shape: [C, H, W], checked against what the source loads
        num_classes: labels are 0 … num_classes - 1, checked against those of the source. None: no check
        batch_size: training images per step and process
        eval_batch_size: images per step of evaluation; changes memory and speed, not the images
        binarization: static: 1 where level / 255 > 0.5, else 0
            stochastic: 1 with probability level / 255, drawn anew whenever a training image is used; the validation and
            test images are drawn once by seed, so that every evaluation sees the same
            fixed: drawn once by seed, training images too
            none: x = level / 255
        invert: 255 - level instead of level, before binarization
        train_on: train; or all: training and test images, as keras.io's example does. The test set stays as it is
        validation_size: how many of the training images (an integer; 0: none), or which share of them (between 0 and
            1), are kept for validation, drawn by seed
        seed: of the split, of the binarization that is drawn once, and of the order of the training images
        augment: what `augment` does to the levels of training images; see `Augmentation`
        split: how the validation images are drawn: hash, by each image's name, or its number where it has none, so that
            a new image moves no other; or position, by the places in the list
        fingerprint: of the images that are expected (`cvae.data.contents`)

    Raises:
        ConfigError: a value is not allowed.
    """

    train: ImageDataset
    validation: ImageDataset | None
    test: ImageDataset

    def __init__(
        self,
        source: Callable[[str | None], Any],
        root: str | None,
        image_shape: Sequence[int],
        num_classes: int | None,
        batch_size: int,
        eval_batch_size: int,
        binarization: str,
        invert: bool,
        train_on: str,
        validation_size: float,
        seed: int,
        augment: Any = None,
        split: str = "position",
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = checks.image_shape("image_shape", image_shape)
        self.num_classes = None if num_classes is None else positive_int("num_classes", num_classes)
        self.batch_size = positive_int("batch_size", batch_size)
        self.eval_batch_size = positive_int("eval_batch_size", eval_batch_size)
        self.binarization = one_of("binarization", binarization, BINARIZATIONS)
        if not isinstance(invert, bool):
            raise ConfigError("invert", invert, "true or false")
        self.invert, self.train_on = invert, one_of("train_on", train_on, ("train", "all"))
        share = isinstance(validation_size, float) and 0 < validation_size < 1
        if not share and (not is_int(validation_size) or validation_size < 0):
            raise ConfigError("validation_size", validation_size, "an integer of at least 0 or a share between 0 and 1")
        self.validation_size, self.seed = validation_size, seed_number("seed", seed)
        self.augment = Augmentation(augment, self.image_shape, binary=binarization in ("static", "fixed"))
        self.split, self.fingerprint = one_of("split", split, DRAWN_BY), fingerprint
        self.root, self.source = root, source(root)
        self.train = self.test = None  # type: ignore[assignment] # until setup(), and nobody asks before
        self.validation = None
        self.contents: Contents | None = None
        self.minibatches = 1  # of batch_size images, in each batch that train_dataloader gives

    @property
    def kind(self) -> str:
        """What a likelihood has to describe: "binary" images, or "levels" (x = level / 255)."""
        return "levels" if self.binarization == "none" else "binary"

    def classes(self) -> int | None:
        """How many classes there are: as configured, or as the source counts them. None: only the labels can tell.

        Raises DataError if the source has to look for its files and they are missing.
        """
        return self._counted() if self.num_classes is None else self.num_classes

    def batch(self, split: str, indices: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Images of a split as the model sees them, in the order of `indices`, on `device`. Call setup() first.

        Returns x float32 (B, C, H, W) in [0, 1], binarized as configured, and y int64 (B,). If binarization=stochastic,
        training images are drawn anew, from the device's global generator.

        Raises:
            ValueError: `split` is not "train", "validation" or "test", or the data have no such split.
        """
        splits: dict[str, ImageDataset | None]
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if (chosen := splits.get(split)) is None:
            raise ValueError(f"split={split}: must be one of {[name for name in splits if splits[name] is not None]}")
        x, y = chosen.__getitems__(list(indices))
        return self.as_seen((x.to(device), y.to(device)))

    def prepare_data(self) -> None:
        """Fetch missing files. Lightning calls it again after setup(), when it does nothing."""
        if self.train is None:
            self.source.download()

    def setup(self, stage: str | None = None) -> None:
        """Load, binarize and split the images; a second call does nothing.

        Raises:
            ConfigError: a value does not fit the images.
            DataError: files are missing or damaged.
        """
        if self.train is not None:
            return
        self._check_classes()
        train, test, *own = self.source.load()
        self._check_images(train, test, *own)
        self.contents = of_source(self.source, (train, test, *own))
        train, grey, *own = map(self._turned, (train, test, *own))
        how, once = self.binarization, torch.Generator().manual_seed(self.seed)
        test = binarized(grey, how, once)  # the same test images under fixed and stochastic
        train = train if how == "stochastic" else binarized(train, how, once)
        if self.train_on == "all":
            train = train.join(grey if how == "stochastic" else test)
        if own and self.validation_size:
            allowed = f"0: {self.root} has validation images of its own"
            raise ConfigError("data.validation_size", self.validation_size, allowed)
        if own:
            self.validation = ImageDataset(binarized(own[0], how, once))
        elif self.validation_size:
            validation, train = self._parted(train)
            self.validation = ImageDataset(drawn_once(validation, once) if how == "stochastic" else validation)
        self.train, self.test = ImageDataset(train), ImageDataset(test)

    def _parted(self, train: Images) -> tuple[Images, Images]:
        """(validation, training) images, the former drawn by seed."""
        size, count = self.validation_size, len(train.x)
        if self.split == "hash":
            names = range(count) if train.names is None else train.names
            kept, chosen = drawn(
                names, size, self.seed, f"the training part of {self.root}", "hash", "data.validation_size"
            )
            return train.take(chosen), train.take(kept)
        number = size if is_int(size) else max(1, round(size * count))
        if number >= count:
            raise ConfigError("data.validation_size", size, f"below the {count} training images")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return train.take(order[:number]), train.take(order[number:])

    def keep_on(self, device: torch.device) -> None:
        """Move all images to a GPU once, after setup(), unless they take more than a quarter of its free memory.

        A batch then is one indexing operation there. On other devices they stay where they are.
        """
        splits = [split for split in (self.train, self.validation, self.test) if split is not None]
        needed = sum(split.images.nbytes for split in splits)
        if needed * 4 <= free_memory(device):
            for split in splits:
                split.images = split.images.to(device)

    def as_tested(self, levels: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """A user's own images, levels uint8 (N, C, H, W), as the model sees test images: float32 in [0, 1].

        They are inverted and binarized as configured; what is drawn comes from `noise`, or is drawn by seed. Needs no
        setup().
        """
        images = self._turned(Images(levels, torch.zeros(len(levels), dtype=torch.long)))
        return (
            binarized(images, self.binarization, noise or torch.Generator().manual_seed(self.seed)).x[:].float() / 255
        )

    def _turned(self, images: Images) -> Images:
        return inverted(images) if self.invert else images

    def _counted(self) -> int | None:
        """The source's own count of its classes, if it has one."""
        count = getattr(self.source, "classes", None)
        return count() if count else None

    def _check_classes(self) -> None:
        found = self._counted()
        if self.num_classes is not None and found not in (None, self.num_classes):
            allowed = f"{found}, the classes in {self.root}, or null (they are counted)"
            raise ConfigError("data.num_classes", self.num_classes, allowed)

    def _check_images(self, *sets: Images) -> None:
        for images in sets:
            found, last = images.x.shape[1:], int(images.y.max())
            if found != self.image_shape:
                raise ConfigError("data.image_shape", list(self.image_shape), f"{list(found)}, as the images are")
            if self.num_classes is not None and last >= self.num_classes:
                allowed = f"at least {last + 1}: the labels are 0 … {last}"
                raise ConfigError("data.num_classes", self.num_classes, allowed)

    def train_dataloader(self) -> DataLoader:
        """The training images, shuffled; each process gets its share."""
        # The order is a function of (seed, epoch): Lightning calls the sampler's set_epoch, with one process or many.
        world, rank = self._processes()
        sampler = Order(self.train, world, rank, shuffle=True, seed=self.seed)
        return self._loader(self.train, self.batch_size * self.minibatches, sampler, TrainingLoader)

    def val_dataloader(self) -> DataLoader:
        """The validation split; without one the test set, as in the tutorial."""
        return self._eval_loader(self.validation or self.test)

    def test_dataloader(self) -> DataLoader:
        """The test images in their order; each process gets its share."""
        return self._eval_loader(self.test)

    def minibatches_of_an_epoch(self) -> int:
        """How many minibatches of the training images this process gets in an epoch."""
        world, _ = self._processes()
        return math.ceil(math.ceil(len(self.train) / world) / self.batch_size)

    def _eval_loader(self, dataset: ImageDataset) -> DataLoader:
        # Every image once: a DistributedSampler would repeat some to make the processes' shares equal.
        world, rank = self._processes()
        return self._loader(dataset, self.eval_batch_size, range(rank, len(dataset), world))

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _to_gpu(self) -> bool:
        """Whether batches go to a GPU. Pinned memory uses some GPU memory, so training on a CPU has none."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _loader(
        self, dataset: ImageDataset, batch_size: int, sampler: Iterable[int], kind: type[Loader] = Loader
    ) -> DataLoader:
        # A generator of its own: each pass over a loader draws a number, which must not change the training's noise.
        own, pin = torch.Generator(), self._to_gpu() and dataset.images.x.device.type == "cpu"
        return kind(dataset, batch_size, sampler=sampler, collate_fn=as_is, generator=own, pin_memory=pin)

    def minibatches_of(self, batch: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The minibatches of a training batch, levels as they are."""
        return zip(*(part.split(self.batch_size) for part in batch), strict=True)

    def as_seen(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Levels uint8 (B, C, H, W) on their device -> x float32 in [0, 1], drawn if binarization=stochastic.

        Loaders give levels; call this after the noise is seeded.
        """
        x, y = batch
        x = x.float() / 255
        # Validation and test images are binary by now: drawing does not change them.
        return (draw(x) if self.binarization == "stochastic" else x), y
