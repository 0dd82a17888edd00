"""python -m cvae features DATA: train the classifier whose features samples are measured by."""

import argparse
from typing import TYPE_CHECKING

from cvae.checks import positive_int
from cvae.commands.inputs import levels_of, said, watched
from cvae.errors import ConfigError, UserError
from cvae.runs.directory import Run
from cvae.runs.trust import require_inside, root_is_chosen

if TYPE_CHECKING:
    from omegaconf import DictConfig

EPOCHS = 3


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    features = commands.add_parser(
        "features",
        help="train a small classifier; evaluate --quality compares samples with images by its features",
        description="Train a small convolutional classifier on the labels of the data, and keep it beside them. The "
        "numbers that its last layer reads are the features of python -m cvae evaluate RUN --quality. If one is kept "
        "already for the same images, it is used.",
        epilog="example: python -m cvae features mnist",
    )
    features.set_defaults(call=train)
    features.add_argument(
        "words",
        metavar="DATA",
        nargs="+",
        help="the directory of a run, for its data; or a choice as for train.py: mnist, or npz data.root=my/images.npz",
    )
    features.add_argument("--epochs", type=int, help=f"passes through the training images (default: {EPOCHS})")
    features.add_argument("--again", action="store_true", help="train a new one in place of the one that is kept")
    features.add_argument("--data-root", metavar="DIR", help="the folder of a run's data, if it has moved")
    features.add_argument(
        "--trust", action="store_true", help="the run's config may call any code: if you trust its maker"
    )


def train(args: argparse.Namespace) -> None:
    """Train a classifier and keep it, unless the same data have one.

    Raises:
        UserError: a word, an option or the data are wrong, or the images have no classes; or what is kept is damaged.
    """
    epochs = EPOCHS if args.epochs is None else positive_int("--epochs", args.epochs)
    cfg = config_of(args)
    from cvae.evaluation import classifier
    from cvae.runtime.devices import keep_freed_memory, tell_torch_of_no_gpu

    keep_freed_memory()
    tell_torch_of_no_gpu()
    data = levels_of(cfg)
    file = None if args.again else classifier.kept_file(data)
    if file and args.epochs is not None:
        raise ConfigError("--epochs", epochs, f"said with --again, as a classifier of these images is kept in {file}")
    if file:
        trained, where = classifier.read(file, data), f"It is kept already, in {file}. Train a new one with --again"
    else:
        trained = classifier.train(data, epochs, watched)
        folders = classifier.places(data.root) if root_is_chosen(cfg) else [classifier.own_folder()]
        where = f"It is kept in {classifier.keep(trained, data, folders)}"
    said(f"{trained.features.name}: finds the class of {trained.accuracy:.2%} of {len(data.test):,} test images")
    said(where)


def config_of(args: argparse.Namespace) -> "DictConfig":
    """The config that has the data: of a run, or composed of the words.

    Raises:
        UserError: there is no such data, or a word is wrong.
    """
    name, *words = args.words
    run = Run(name, args.trust)
    if run.config_file.is_file():
        from cvae.build import choose, saved_config

        if words:
            raise UserError(f"{' '.join(words)}: the data of a run are as it says; only --data-root may be another")
        if not run.trust:
            require_inside(run.path, files=True)
        cfg = saved_config(run)
        if args.data_root:
            choose(cfg, "root", args.data_root)
        return cfg
    from cvae.cli.train import composed

    root = [f"data.root={args.data_root}"] if args.data_root else []
    return composed([f"data={name}", *words, *root])
