"""Data sets of the library `datasets` by Hugging Face: on this machine, in files or in its cache."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvae import checks
from cvae.checks import one_of, seed_number
from cvae.data.contents import of_images
from cvae.data.dataset import images_of
from cvae.data.images import Images, size_of_test_set
from cvae.data.listing import DRAWN_BY, drawn
from cvae.data.module import ImageData
from cvae.errors import ConfigError, DataError, UserError

__all__ = ["huggingface"]  # what conf/ and saved configs may name

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves, of several splits or of one


def huggingface(
    image_shape: Sequence[int],
    seed: int,
    root: str | None,
    name: str | None = None,
    image: str = "image",
    label: str | None = "label",
    test_size: float = 0.1,
    split: str = "hash",
    **options: Any,
) -> ImageData:
    """ImageData of a data set of the library `datasets`; see `HuggingFace`."""
    source = HuggingFace(root, image_shape, seed, name, image, label, test_size, split)
    return ImageData(lambda _: source, root=root, image_shape=image_shape, seed=seed, split=split, **options)


class HuggingFace:
    """The images of a data set, in memory.

    The split called test is the test set; without it, a part of the training images is kept for testing.

    Args:
        root: a folder that `save_to_disk` wrote, or one with files that `load_dataset` reads (Parquet, …); None: `name`
        name: of a data set that is in the library's cache, as ylecun/mnist; download() gets it there
        image, label: the names of the columns; label=None: all images are of one class
        image_shape: [C, H, W]
        test_size: how many images, or which share of them, are kept for testing where there is no split test
        seed: draws them
        split: how (`cvae.data.listing.drawn`)

    Attributes:
        contents: after load(), as `cvae.data.contents` has them
    """

    contents: dict[str, str] | None = None

    def __init__(
        self,
        root: str | None,
        image_shape: Sequence[int],
        seed: int,
        name: str | None = None,
        image: str = "image",
        label: str | None = "label",
        test_size: float = 0.1,
        split: str = "hash",
    ):
        if (root is None) == (name is None):
            raise ConfigError("root", root, "a folder, or data.name a name in the library's cache: one of the two")
        self.root, self.name = None if root is None else Path(root).expanduser(), name
        self.shape, self.seed = checks.image_shape("image_shape", image_shape), seed_number("seed", seed)
        self.image, self.label = image, label
        self.test_size, self.split = size_of_test_set("test_size", test_size), one_of("split", split, DRAWN_BY)

    def download(self) -> None:
        """Let the library put a data set that is named into its cache. Raises DataError if it cannot."""
        self._splits(fetch=True)

    def load(self) -> tuple[Images, Images]:
        """(train, test). Raises DataError if a split, a column or an image is not as it must be."""
        splits = self._splits(fetch=False)
        train = self._images(splits["train"])
        self.contents = of_images("train", train)
        if "test" in splits:
            test = self._images(splits["test"])
            self.contents |= of_images("test", test)
            return train, test
        kept, held = drawn(range(len(train.x)), self.test_size, self.seed, self._place(), self.split, "data.test_size")
        return train.take(kept), train.take(held)

    def _place(self) -> str:
        return str(self.root or self.name)

    def _splits(self, fetch: bool) -> Any:
        """Split -> data set."""
        library = self._library()
        try:
            if self.root is None:
                local = library.DownloadConfig(local_files_only=not fetch)
                found = library.load_dataset(self.name, download_config=local)
            elif any((self.root / name).is_file() for name in SAVED):
                found = library.load_from_disk(str(self.root))
            elif self.root.is_dir():
                found = library.load_dataset(str(self.root))
            else:
                raise DataError(f"data.root={self.root}: there is no such folder")
        except DataError:
            raise
        except Exception as error:  # the library raises almost anything
            said = " ".join(str(error).split())
            raise DataError(f"{self._place()} cannot be loaded by the library datasets: {said}") from error
        splits = found if isinstance(found, dict) else {"train": found}  # a DatasetDict is a dict
        if "train" not in splits:
            raise DataError(f"{self._place()} has no split train; it has {', '.join(splits)}")
        return splits

    def _library(self) -> Any:
        try:
            return importlib.import_module("datasets")
        except ImportError as error:
            raise UserError("data=huggingface needs the library datasets: pip install -e '.[huggingface]'") from error

    def _images(self, dataset: Any) -> Images:
        wanted = [name for name in (self.image, self.label) if name is not None]
        if missing := [name for name in wanted if name not in dataset.column_names]:
            columns = ", ".join(dataset.column_names)
            raise DataError(f"{self._place()} has no column {missing[0]} (data.image, label); it has {columns}")
        names = None if self.label is None else getattr(dataset.features[self.label], "names", None)
        return images_of(Rows(dataset, self.image, self.label), self.shape, names)


class Rows:
    """(image, label) by number."""

    def __init__(self, dataset: Any, image: str, label: str | None):
        self.dataset, self.image, self.label = dataset, image, label

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        row = self.dataset[number]
        return row[self.image], 0 if self.label is None else row[self.label]
