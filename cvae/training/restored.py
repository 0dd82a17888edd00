"""Restore a training from a checkpoint, after checking each value against what this training would save itself.

A checkpoint may come from somebody else. When it is read, its values are known to be plain and few; here they are known
to be those of this training, before a step uses them: torch's fused optimizers check no sizes.
"""

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cvae.errors import UserError
from cvae.runs.checkpoint import FORMAT
from cvae.training.engine import Trainer
from cvae.training.log_rewind import positions
from cvae.training.means import of_all_processes
from cvae.training.time_limit import out_of_time
from cvae.version import VERSION

LIBRARIES = ("cvae", "torch", "pytorch_lightning", "lightning_fabric", "lightning_utilities", "omegaconf", "numpy")


@contextmanager
def going_on(file: Path | None, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Turn what Lightning and torch raise about an incomplete checkpoint into a UserError.

    An error in what the user added stays as it is, with its trace: such a callback is called before all is taken, too.

    file: the checkpoint that a training goes on from, None for a new one
    has_begun: whether the training has taken all of it, so that a later error has another cause
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if file is None or has_begun() or in_other_code(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{file} does not hold the state of this training: {reason}") from error


def in_other_code(error: Exception) -> bool:
    """Whether an error passed through code that is neither cvae's nor that of the libraries it restores with."""
    frames = traceback.walk_tb(error.__traceback__)
    roots = {frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames}
    return not roots <= {*LIBRARIES, *sys.stdlib_module_names}


def complete(checkpoint: dict[str, Any], module: Any) -> None:
    """Add a VAEModule's own state to Lightning's checkpoint. Every process must call it.

    Raises:
        NotFinite: weights are not finite. Whoever saves, the user's callback too, then saves nothing.
    """
    module.require_finite_weights()
    data, own = module.trainer.datamodule, {"window": module.window.state_dict(), "epoch": module.epoch.state_dict()}
    checkpoint["cvae"] = {
        "format": FORMAT,
        "version": VERSION,
        "processes": of_all_processes(own),
        "figures": module.figures,
        "points": module.points,
        "minibatches": data.minibatches,
        "max_epochs": module.trainer.max_epochs,
        "gradients": module.guard.state(),
        "should_stop": module.trainer.should_stop and not out_of_time(module.trainer),
        "data": data.fingerprint,
        "logs": positions(module.loggers) if module.trainer.is_global_zero else [],
    }
    if module.averages:
        checkpoint["cvae"]["averages"], trained = module.averages.of_checkpoint()
        # A callback may save during an evaluation, where the model has the averages.
        checkpoint["state_dict"] |= {f"vae.{name}": weights for name, weights in trained.items()}


def give_back(checkpoint: dict[str, Any], module: Any) -> None:
    """Let a VAEModule be as it was when the checkpoint was saved. Raises as `require_state` does."""
    require_state(module.trainer, checkpoint)
    saved, data = checkpoint["cvae"], module.trainer.datamodule
    data.minibatches = as_counted_here(checkpoint, data.minibatches)
    module.figures, module.points = dict(saved["figures"]), dict(saved["points"])
    module.sums, module.planned = saved["processes"][module.global_rank], saved["max_epochs"]
    module.averaged = saved.get("averages", {})
    module.guard.load_state(saved.get("gradients", {}))
    module.stopping = saved.get("should_stop", False)


def require_state(trainer: Trainer, content: dict[str, Any]) -> None:
    """Raise UserError unless the counters and the states of Lightning's callbacks are of the types that they have now,
    and name no file that is not in the run.
    """
    if len(content["optimizer_states"]) != 1 or len(content["lr_schedulers"]) != 1:
        raise UserError("the checkpoint has not the states of one optimizer and one schedule, as this training has")
    if content["cvae"].get("data") not in (None, trainer.datamodule.fingerprint):
        raise UserError("the checkpoint is of a training with other images")
    require_like(content["loops"].get("fit_loop"), trainer.fit_loop.state_dict(), "loops.fit_loop", counts=True)
    for part in trainer.callbacks:
        state = content["callbacks"].get(part.state_key)
        if state is not None and type(part).__module__.startswith("pytorch_lightning."):
            require_like(state, part.state_dict(), f"callbacks.{type(part).__name__}")
    for text in texts(content["callbacks"]):
        if ".." in text or "://" in text:  # ModelCheckpoint deletes files that it remembers
            raise UserError(f"the checkpoint's callbacks name {text!r:.200}, which leads out of the run")


def as_counted_here(content: dict[str, Any], minibatches: int) -> int:
    """Have a checkpoint's counters be those of this training; returns the minibatches that a batch of Lightning's has.

    In some trainings of version 0.1.0 Lightning took the steps, minibatch by minibatch, and counted them at another
    place. Within an epoch the batches stay as they were, since the place in it is counted in them.

    minibatches: how many a batch would have in a new training

    Raises:
        UserError: batches cannot stay as they were.
    """
    loop = content["loops"]["fit_loop"]
    by_lightning = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    own = loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]
    before = content["cvae"].get("minibatches", minibatches)
    if not own["completed"]:
        own |= {"ready": by_lightning, "completed": by_lightning}
        before = 1
    if before == minibatches or loop["epoch_loop.batch_progress"]["is_last_batch"]:
        return minibatches
    if before != 1:
        raise UserError(
            f"the checkpoint is within an epoch, in batches of {before!r:.9} minibatches, not {minibatches}"
        )
    return 1


def take_up(module: Any, optimizer: Optimizer) -> None:
    """Let a training begin where its checkpoint was saved, once Lightning has loaded what it saves itself.

    Raises:
        UserError: the states of optimizer, scheduler or sums are not those of this training.
    """
    trainer, sums = module.trainer, module.sums
    schedule = trainer.lr_scheduler_configs[0]
    require_optimizer(optimizer, schedule.scheduler, module.make_optimizer, module.make_scheduler)
    require_sums(sums, module.names)
    for name in ("window", "epoch"):  # not before: the module was not yet on its device
        getattr(module, name).load_state_dict(sums[name], module.device)
    if module.planned == trainer.max_epochs:
        trainer.should_stop = trainer.should_stop or module.stopping  # a callback had ended the training
    else:
        counted = trainer.global_step if module.by_step else trainer.current_epoch
        schedule.scheduler = scheduled_anew(optimizer, module.make_scheduler, counted)


def scheduled_anew(optimizer: Optimizer, make_scheduler: Callable, count: int) -> Any:
    """A scheduler after `count` epochs or steps, and the optimizer's rates: a schedule may depend on a run's length."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    scheduler = make_scheduler(optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")  # the steps in between were taken before
        for _ in range(count):
            scheduler.step()
    return scheduler


def texts(value: Any) -> Iterator[str]:
    """All texts in containers, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value:
            yield from texts(inner)
            if isinstance(value, dict):
                yield from texts(value[inner])


def require_like(found: Any, own: Any, place: str, counts: bool = False) -> None:
    """Raise UserError, naming the place, unless what was found has the types of `own`; its other keys are not seen.

    counts: whether whole numbers are at least 0
    """
    fits, inner = True, []
    if isinstance(own, dict):
        fits = isinstance(found, dict)
        inner = [(found[key], own[key], key) for key in own if key in found] if fits else []
    elif isinstance(own, list | tuple):
        fits = isinstance(found, list | tuple)
        inner = [(item, own[0], number) for number, item in enumerate(found)] if fits and own else []
    elif isinstance(own, bool | str):
        fits = type(found) is type(own)
    elif isinstance(own, int) and counts:
        fits = type(found) is int and found >= 0
    elif isinstance(own, int | float):
        fits = type(found) in (int, float)
    elif isinstance(own, Tensor):
        fits = isinstance(found, Tensor) and found.shape == own.shape
    elif own is None:
        fits = found is None or type(found) in (int, float) or (isinstance(found, Tensor) and not found.shape)
        fits = fits or (type(found) is str and place == "callbacks.EarlyStopping.stopping_reason_message")
    if not fits:
        raise UserError(f"the checkpoint's {place} is not what this training would save there")
    for item, mine, key in inner:
        require_like(item, mine, f"{place}.{key}", counts)


def require_optimizer(optimizer: Optimizer, scheduler: Any, make: Callable, make_scheduler: Callable) -> None:
    """Raise UserError unless the states of optimizer and scheduler have the values that those of new ones have.

    What an optimizer keeps of a parameter depends on its shape: a new one takes a step with each shape that there is.

    Args:
        make: parameters -> the same optimizer, new
        make_scheduler: the same for an optimizer -> the scheduler
    """
    known: dict[tuple, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not (state := optimizer.state.get(parameter)):
                continue
            kind = (parameter.shape, parameter.dtype)
            if kind not in known:
                trial = torch.zeros_like(parameter).requires_grad_()
                trial.grad, new = torch.zeros_like(trial), make([{"params": [trial]}])
                new.step()
                known[kind] = dict(new.state[trial])
            if state.keys() != known[kind].keys():
                raise UserError("the checkpoint's optimizer_states are of another optimizer")
            require_like(state, known[kind], "optimizer_states")
    new = make([{"params": [torch.zeros(1, requires_grad=True)]}])
    own = make_scheduler(new).state_dict()
    mine = {key: value for key, value in new.param_groups[0].items() if key not in ("params", "capturable")}
    for group in optimizer.param_groups:
        if missing := mine.keys() - group.keys():
            raise UserError(f"the checkpoint's optimizer_states lack {', '.join(sorted(missing))}")
        require_like(group, mine, "optimizer_states.param_groups")
        if any(isinstance(value, list | tuple) and len(value) != len(group[key]) for key, value in mine.items()):
            raise UserError("the checkpoint's optimizer_states.param_groups have lists of another length")
    found = scheduler.state_dict()
    require_like(found, own, "lr_schedulers")
    if replaced := [key for key in found if callable(getattr(type(scheduler), key, None))]:
        raise UserError(f"the checkpoint's lr_schedulers have {replaced[0]!r:.50}, which is no value of a schedule")


def require_sums(sums: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise UserError unless these are sums of the figures that a step has, or of none."""
    for place in ("window", "epoch"):
        found = tuple(sums[place]["names"])
        if found not in ((), names) or any(part.shape != (len(found),) for part in sums[place]["sums"]):
            raise UserError(f"the checkpoint's cvae.processes have other figures in {place} than this training")
