"""python train.py, cvae train and cvae.train: compose a config, train, return the result."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cvae.cli.compose import CONF, for_own_images
from cvae.cli.hydra_callbacks import save_config
from cvae.cli.messages import find_own_parts, message_of, of_the_user, quoted, readable_errors
from cvae.cli.resume import resume, run_to_resume, words_of_sweep
from cvae.errors import Stopped, UserError
from cvae.runs.directory import Run


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_train(cfg: DictConfig) -> float:
    """Hydra composes the words of sys.argv, one run or a sweep, and calls this with the config of each."""
    find_own_parts()
    run = Run(cfg.run_dir)
    save_config(run, cfg)
    if (result := run.result()) is not None:  # a member of a sweep that goes on
        return result
    from cvae.training.train import train  # torch takes seconds to import: not for --help or a misspelt key

    return train(cfg, resume=run.began())


def main(words: list[str]) -> None:
    """Train as the command line says: a new run, a sweep, or with resume= one that goes on."""
    with readable_errors():
        sys.argv[1:] = for_hydra(words_of_sweep(words))  # where Hydra reads them
        if stopped := run_to_resume(sys.argv[1:]):
            resume(*stopped, CONF)
        else:
            compose_and_train()


def for_hydra(words: list[str]) -> list[str]:
    """The words as Hydra is to read them: the folder of init= may have signs, as most runs' names do."""
    pairs = ((word, word.removeprefix("init=")) for word in words)
    quotes = [f"init={quoted(path)}" if path != word and os.path.isdir(path) else word for word, path in pairs]
    return for_own_images(quotes)


def train_here(
    words: list[str], config_dir: str | os.PathLike | None = None, before: Callable[[Run], Any] | None = None
) -> Path:
    """Train in this process, from Python, and leave it as it was: Hydra's state, the handlers of log lines.

    Args:
        words: as on the command line, of one run
        config_dir: as --config-dir
        before: called with the run when its folder is there, before anything is read

    Returns:
        the run directory

    Raises:
        UserError: as `cvae.training.train.train`, or a word is wrong.
        KeyboardInterrupt: it was interrupted; what is needed to go on is saved.
    """
    with hydra_of_its_own(config_dir) as composer, logging_put_back():
        try:
            if stopped := run_to_resume(words):
                resume(*stopped, CONF)
                return stopped[0].path
            return started(composer, words, before)
        except Stopped as stop:
            if stop.signum == signal.SIGINT:
                raise KeyboardInterrupt(str(stop)) from None
            raise
        except SystemExit as end:  # of a callback: Hydra would turn another error into a warning
            raise UserError(str(end.code).removeprefix("Error: ")) from None
        except Exception as error:
            if isinstance(error, UserError) or not of_the_user(error):
                raise
            raise UserError(message_of(error)) from error


def started(composer: Hydra, words: list[str], before: Callable[[Run], Any] | None) -> Path:
    """Train a new run, and return its directory."""
    folders, errors = [], []

    def task(cfg: DictConfig) -> None:
        find_own_parts()
        folders.append(Path(cfg.run_dir))
        try:
            save_config(Run(cfg.run_dir), cfg)
            if before:
                before(Run(cfg.run_dir))
            from cvae.training.train import train

            train(cfg)
        except Exception as error:  # Hydra would print it, and end the process
            errors.append(error)

    composer.run("config", task, for_hydra(words))
    if errors:
        raise errors[0]
    return folders[0]


def composed(words: list[str]) -> DictConfig:
    """The config of these words, of which no run is made.

    Raises:
        UserError: a word is wrong.
    """
    with hydra_of_its_own(None) as composer:
        try:
            return composer.compose_config("config", words, RunMode.RUN, with_log_configuration=False)
        except Exception as error:
            if isinstance(error, UserError) or not of_the_user(error):
                raise
            raise UserError(message_of(error)) from error


@contextmanager
def hydra_of_its_own(config_dir: str | os.PathLike | None) -> Iterator[Hydra]:
    """Hydra with conf/ and a folder of the user's; a Hydra that is in use is put back afterwards."""
    path = create_automatic_config_search_path(None, __name__, str(CONF))
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UserError(f"config_dir={config_dir}: there is no such folder")
        path.prepend("command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="schema"))
    in_use, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    hydra.version.setbase("1.3")
    try:
        yield Hydra.create_main_hydra2("train", path)
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = in_use, config


@contextmanager
def logging_put_back() -> Iterator[None]:
    """Close the log handlers that a run adds, and restore those from before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
