"""Errors on the command line: one message, and a stack trace only with HYDRA_FULL_ERROR=1."""

import difflib
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import cvae.cli.compose  # adds its step to Hydra's composition of a config
import cvae.runs.names  # noqa: F401, adds the function that conf/config.yaml names folders by
from cvae.errors import Stopped, UserError, printable
from cvae.runtime.console import keep_writing

# Where one of several processes dies, torch would warn with the stack of its C++ code; a line of ours says who died.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

log = logging.getLogger(__name__)

OURS = "CVAE_READABLE_ERRORS"  # in the environment: HYDRA_FULL_ERROR was set by us, not by the user

NULL_CHOICE = "Config group override must be a string"  # how Hydra's plain ValueError for GROUP=null begins


@contextmanager
def readable_errors() -> Iterator[None]:
    """End the process with exit code 1 and one message where the user's input is wrong."""
    keep_writing()
    if traces_wanted():
        yield
        return
    logging.raiseExceptions = False  # no stack trace where train.log cannot be written
    os.environ |= {"HYDRA_FULL_ERROR": "1", OURS: "1"}  # Hydra hands its errors on instead of printing them itself
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Stopped as stop:
        logging.getLogger(__name__).info(stop)
        sys.exit(128 + stop.signum)  # as the shell says it: 130 for SIGINT, 143 for SIGTERM
    except Exception as error:
        if not of_the_user(error):
            raise
        message = f"Error: {message_of(error)}"
        if logging.getLogger().handlers:  # a run has begun: its train.log gets it too
            log.error(message)
        else:
            print(message, file=sys.stderr)
        sys.exit(1)


def traces_wanted() -> bool:
    """Whether the user has asked for stack traces."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and OURS not in os.environ


def of_the_user(error: Exception) -> bool:
    """Whether this is an error that the user can fix: then its message is enough, without a stack trace."""
    kinds = (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError)
    if isinstance(error, kinds) or is_lost_process(error) or is_lack_of_memory(error):
        return True
    return NULL_CHOICE in str(error)


def is_lack_of_memory(error: BaseException | None) -> bool:
    """Whether Python, NumPy or torch could not get main memory."""
    torchs = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return torchs or isinstance(error, MemoryError)


def is_lost_process(error: Exception) -> bool:
    """Whether joblib or submitit lost the process of a member of a sweep."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "UncompletedJobError"


def message_of(error: Exception) -> str:
    """The error in words that a terminal can show; for a key that does not exist, with those that do."""
    return printable(words_of(error))


def words_of(error: Exception) -> str:
    """`message_of`, as the error has it."""
    cause: Any = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
    keys = getattr(cause, "parent_node", None)
    if isinstance(keys, DictConfig) and cause.key not in list(keys):  # `in` denies a key whose value is ???
        return no_such_key(str(cause.full_key), keys)
    if is_lack_of_memory(error):
        asked = re.search(r"allocate (\d+ bytes|[\d.]+ \w+)", str(error))
        more = f": {asked[1]} more were asked for" if asked else ""
        return (
            f"there is not enough memory{more}. A smaller data.batch_size or data.eval_batch_size, fewer images or a "
            "smaller model need less"
        )
    if is_lost_process(error):
        ours = ("hydra.sweep.dir=", "+hydra.callbacks.new_run_directory.")
        words = [word for word in sys.argv[1:] if not word.startswith(ours)]
        resume = f"resume={HydraConfig.get().sweep.dir}"
        return (
            "a process of the sweep was killed, or there was not enough memory; the other runs have ended "
            f"or not begun. Resume with: python train.py {shlex.join([*words, resume])}"
        )
    if NULL_CHOICE in str(error):
        return (
            "GROUP=null is no choice: name a file of conf/GROUP; ~callbacks.NAME and ~logger.NAME leave single ones out"
        )
    if found := re.search(r"Could not override '(\S+)/(\w+)'", str(error)):  # a choice within a choice
        return f"{found[1]}/{found[2]} is no choice here: {found[1]} as it is chosen has no {found[2]} to choose"
    if isinstance(error, YAMLError):
        return f"a YAML file cannot be read: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and not error.filename and HydraConfig.initialized():
        return f"{error}, in {HydraConfig.get().run.dir}"  # Hydra's own files
    if isinstance(error, OverrideParseException):
        return not_readable(error.override)
    return str(error)


def no_such_key(full_key: str, keys: DictConfig) -> str:
    """Suggest a key: one spelt alike, one of that name elsewhere, or a + for a new one."""
    parent, _, name = full_key.rpartition(".")
    message = f"there is no key {full_key}."
    root: Any = keys._get_root()
    elsewhere = [key for key in leaves(root) if key.rpartition(".")[2] == name]
    near = elsewhere or [f"{parent}.{key}".lstrip(".") for key in difflib.get_close_matches(name, map(str, keys), n=1)]
    if near:
        message += f" Did you mean {' or '.join(near[:3])}?"
    message += f" {parent or 'The config'} has: {', '.join(str(key) for key in keys if key != 'hydra')}."
    group = full_key.partition(".")[0]
    if any(word.startswith(f"{group}=") and "," in word for word in sys.argv[1:]):  # Hydra looks before it sweeps
        message += f" In a sweep over {group}, write {full_key}=choice(VALUE) for a key that only its choices have."
    takes_any = parent in ("trainer", "optimizer", "scheduler")  # what a library's class takes is not all in conf/
    return message + (f" A new key takes a plus: +{full_key}=VALUE" if takes_any else "")


def leaves(cfg: DictConfig, place: str = "") -> list[str]:
    """The full names of all keys of the user's config that hold a value."""
    found = []
    for key in cfg:
        node, name = cfg._get_node(key), place + str(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            found += leaves(node, f"{name}.") if place or key != "hydra" else []
        else:
            found.append(name)
    return found


def not_readable(override: str) -> str:
    """Explain how to quote: for the shell, and within that for Hydra."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} is not KEY=VALUE. A value with spaces needs quotes around both: 'KEY=\"VALUE WITH SPACES\"'"
    return f"{override} cannot be read. A value with signs needs quotes within quotes: '{key}=\"{value}\"'"


def quoted(text: str) -> str:
    """A text as a value of the command line, whatever signs it has."""
    return "'" + re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + end[2].replace("'", "\\'"), text) + "'"


def find_own_parts() -> None:
    """Let `_target_` name what a user's own Python files define: those in the folder of --config-dir.

    Behind all other folders, so that none of these files hides a library's.
    """
    for source in HydraConfig.get().runtime.config_sources:
        if source.provider == "command-line":
            sys.path.append(source.path)
