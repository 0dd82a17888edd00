"""What the command line says when something is wrong: one message, no stack trace unless HYDRA_FULL_ERROR=1 asks for it."""

import difflib
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.errors import UserError

# GNU OpenMP reads it when torch is loaded: how often a thread looks for the others before it sleeps. With its own 300,000 times
# it takes the core from the thread that it waits for, if another program runs: epochs that took 11 s on two cores, one of them
# busy, take 1.5 s so. With both cores free they are slower by about a tenth.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

OURS = "CVAE_READABLE_ERRORS"  # in the environment: HYDRA_FULL_ERROR was set by us, not by the user

NULL_CHOICE = "Config group override must be a string"  # how Hydra's plain ValueError for GROUP=null begins


@contextmanager
def readable_errors():
    """End the process with exit code 1 and one message where the user's input is wrong."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1" and OURS not in os.environ:
        yield
        return
    os.environ |= {"HYDRA_FULL_ERROR": "1", OURS: "1"}  # Hydra hands its errors on instead of printing them itself
    try:
        yield
    except Exception as error:
        of_the_user = isinstance(error, (UserError, HydraException, OmegaConfBaseException, OSError))
        if not of_the_user and NULL_CHOICE not in str(error):
            raise
        message = f"Error: {message_of(error)}"
        if logging.getLogger().handlers:  # a run has begun: its train.log gets it too
            logging.getLogger(__name__).error(message)
        else:
            print(message, file=sys.stderr)
        sys.exit(1)


def message_of(error: Exception) -> str:
    """The error in words; for a key that does not exist, with those that do."""
    cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
    keys = getattr(cause, "parent_node", None)
    if isinstance(keys, DictConfig) and cause.key not in keys:
        parent = cause.full_key.rpartition(".")[0]
        near = difflib.get_close_matches(str(cause.key), map(str, keys), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"there is no key {cause.full_key}.{hint} {parent or 'The config'} has: {', '.join(map(str, keys))}"
    if NULL_CHOICE in str(error):
        return (
            "GROUP=null is no choice: name a file of conf/GROUP; ~callbacks.NAME and ~logger.NAME leave single ones out"
        )
    if "Could not override" in str(
        error
    ):  # Hydra's word for an experiment that chooses within a choice that was replaced
        return f"{error} An experiment sets values of its own choices: start from experiment=tf_tutorial to combine others."
    return str(error)


class NewRunDirectory(Callback):
    """Refuses, before Hydra writes anything, a run directory that cannot be made or that holds an earlier run.

    And, before a run begins, a choice that has no effect.
    """

    def on_run_start(self, config: DictConfig, **_) -> None:
        # Lightning starts the other processes of a run with the same command and the run directory of the first.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            HydraConfig.instance().set_config(config)  # what ${hydra:…} in the folder's name is read from
            require_one_place("hydra.run.dir", config)
            require_new_folder("hydra.run.dir", config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        HydraConfig.instance().set_config(config)
        require_one_place("hydra.sweep.dir", config)
        require_new_folder("hydra.sweep.dir", config.hydra.sweep.dir)

    def on_job_start(self, config: DictConfig, **_) -> None:
        require_kept_choices(config)  # of each run of a sweep, since the sweep itself has no values for what it varies


def require_one_place(key: str, config: DictConfig) -> None:
    """End the process if the run would leave its config in Hydra's folder and all else in another."""
    folder = OmegaConf.to_container(config)["run_dir"]
    if folder != "${hydra:runtime.output_dir}":
        raise SystemExit(f"Error: run_dir={folder}: must be left as it is; set {key} to choose the folder")


def require_kept_choices(config: DictConfig) -> None:
    """End the process if a value replaces what the command line chose within a group, as beta=4 would objective/beta=linear."""
    for override in config.hydra.overrides.task:
        choice, _, name = override.lstrip("+").partition("=")
        key = choice.replace("/", ".")
        if "/" in choice and name and not isinstance(value := OmegaConf.select(config, key), DictConfig):
            raise SystemExit(
                f"Error: {override} has no effect: {key}={value} of the command line or the experiment replaces it"
            )


def require_new_folder(key: str, folder: str) -> None:
    """Make `folder`, or end the process: Hydra turns an Exception of a callback into a warning and goes on."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        written = ("images", "checkpoints", "metrics.json")  # not by a run that was refused for a bad value
        if any(path for name in written for path in (*Path(folder).glob(name), *Path(folder).glob(f"*/{name}"))):
            raise SystemExit(f"Error: {key}={folder}: must be a new folder; it holds an earlier run")
    except OSError as error:
        raise SystemExit(f"Error: {key}={folder}: must be a folder that can be written: {error}") from error
