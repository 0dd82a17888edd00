"""init=RUN: a training begins with the weights of another run, wherever its model has the same."""

import logging
from collections.abc import Iterable
from socket import gethostname

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from cvae.errors import ConfigError, UserError, printable
from cvae.models.vae import VAE
from cvae.runs.checkpoint import read_checkpoint, weights_in
from cvae.runs.directory import LAST, PREVIOUS, Run
from cvae.runs.trust import TRUST, require_inside

log = logging.getLogger(__name__)

SHOWN = 8  # names in a line


def begin_with(cfg: DictConfig, vae: VAE, resume: bool) -> None:
    """Put the weights of the run in `init` into the model, if there is one; lines say which, and which not.

    A run that goes on has them in its checkpoint, unless it was stopped before it saved one.

    Raises:
        UserError: there is no such run here, or no weights of it fit; or only somebody else's config names it.
    """
    path, run = OmegaConf.select(cfg, "init"), Run(cfg.run_dir)
    if path is None or (resume and any((run.checkpoints / name).exists() for name in (LAST, PREVIOUS))):
        return
    if cfg._get_flag("foreign"):
        raise UserError(f"init={path}: a saved config may not name a run to begin with. {TRUST}")
    other, nodes = Run(str(path)), OmegaConf.select(cfg, "trainer.num_nodes", default=1)
    if nodes > 1 and not other.config_file.is_file():
        here = f"{other} is not a run directory on the machine {gethostname()}"
        raise UserError(f"init={path}: {here}. Each of the {nodes} machines reads it: copy that run there")
    for line in taken_over(other, vae):
        log.info("init: %s", line)


def taken_over(run: Run, vae: VAE) -> list[str]:
    """Copy the weights of a run's last checkpoint, its averages where there are some, into a model.

    Those are copied that have the same name, shape and type. Nothing of the run's config is used, so it need not be
    trusted: a checkpoint is read as data alone.

    Returns:
        what was taken, what has another shape, what only the model has, and what only the run has: a line each

    Raises:
        UserError: this is no run, its checkpoint is missing or damaged, a weight is no finite number, or none fits.
    """
    if not run.config_file.is_file():
        raise UserError(f"init={run}: {run} is not a run directory: it has no .hydra/config.yaml")
    require_inside(run.path)
    file = run.checkpoint(LAST)
    content = read_checkpoint(file)
    found, kind = weights_in(file, content)
    own = vae.state_dict()  # the tensors of the model themselves
    same = [name for name, value in own.items() if name in found and alike(found[name], value)]
    if bad := [name for name in same if not found[name].isfinite().all()]:
        raise UserError(f"init={run}: {file} has weights that are no finite numbers: {listed(bad)}")
    if not any(own[name].is_floating_point() for name in same):
        words = printable(" ".join(run.overrides()))
        allowed = "a run whose model has weights of the same names and shapes: name this one's choices again"
        raise ConfigError("init", run, allowed + (f" ({words:.500})" if words else ""))
    with torch.no_grad():
        for name in same:
            own[name].copy_(found[name])
    others = [
        f"{name} {shape(found[name])} there, {shape(own[name])} here" for name in own if name in found.keys() - same
    ]
    parts = {
        "another shape, so not taken": others,
        "only in this model, new": [f"{name} {shape(own[name])}" for name in own if name not in found],
        "only in that run": [f"{name} {shape(found[name])}" for name in found if name not in own],
    }
    numbers = sum(own[name].numel() for name in same)
    step = f"step {content.get('global_step', 0):,}"
    first = f"{len(same)} of {len(own)} tensors ({numbers:,} numbers) are those of {file}, {step}, {kind} weights"
    return [first, *(f"{title}: {listed(names)}" for title, names in parts.items() if names)]


def alike(one: object, other: Tensor) -> bool:
    return isinstance(one, Tensor) and (one.shape, one.dtype) == (other.shape, other.dtype)


def shape(value: object) -> str:
    """[64, 2]."""
    return str(list(value.shape)) if isinstance(value, Tensor) else "no tensor"


def listed(names: Iterable[str]) -> str:
    """The first of them; the names may be of somebody else's checkpoint."""
    names = list(names)
    more = f"; … ({len(names)} in all)" if len(names) > SHOWN else ""
    return "; ".join(printable(f"{name:.100}") for name in names[:SHOWN]) + more
