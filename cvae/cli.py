"""What the command line says when something is wrong: one message, no stack trace unless HYDRA_FULL_ERROR=1 asks for it."""

import difflib
import logging
import os
import sys
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cvae.errors import UserError

OURS = "CVAE_READABLE_ERRORS"  # in the environment: HYDRA_FULL_ERROR was set by us, not by the user


@contextmanager
def readable_errors():
    """End the process with exit code 1 and one message where the user's input is wrong."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1" and OURS not in os.environ:
        yield
        return
    os.environ |= {"HYDRA_FULL_ERROR": "1", OURS: "1"}  # Hydra hands its errors on instead of printing them itself
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
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
    return str(error)
