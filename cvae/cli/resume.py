"""python train.py resume=RUN: go on with a run that was stopped, from its saved config and its last checkpoint.

Read before Hydra composes anything: a path may have signs that Hydra reads, and the run's config is not composed again.
"""

import logging
import logging.config
import os
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from cvae.checks import is_int, positive_int
from cvae.cli.messages import quoted
from cvae.errors import ConfigError, UserError
from cvae.runs.directory import Run, first_process
from cvae.runs.small_files import read_json
from cvae.runs.storage import save
from cvae.runs.trust import OWN_IMAGES, require_inside

log = logging.getLogger(__name__)

WORD, TRUST = "resume=", "--trust"
PLACE = ("accelerator", "devices", "strategy", "num_nodes")  # keys of the trainer that say where a run is trained
MAX_TIME, PATIENCE = "trainer.max_time", "callbacks.early_stopping.patience"
EARLY_STOPPING = "cvae.training.early_stopping.EarlyStopping"
ALLOWED = (
    "trainer.max_epochs", MAX_TIME, PATIENCE, OWN_IMAGES, "data.root", "data.cache",
    *(f"trainer.{key}" for key in PLACE),
)  # fmt: skip


def run_to_resume(words: list[str]) -> tuple[Run, list[str]] | None:
    """The run that the command line names, with its other words; None for a new run. --trust: as for python -m cvae.

    A job that SLURM starts again has the words that began its run: it goes on as it is.

    Raises:
        UserError: several runs are named.
    """
    named = [word.removeprefix(WORD) for word in words if word.startswith(WORD)]
    if len(named) > 1:
        raise UserError(f"resume: one run at a time, not {' and '.join(named)}")
    if named:
        rest = [word for word in words if not word.startswith(WORD) and word != TRUST]
        return Run(named[0], trust=TRUST in words), rest
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) and not {"-m", "--multirun"} & set(words):
        run = run_of_job(os.environ["SLURM_JOB_ID"], words)
        return (run, []) if run else None
    return None


def words_of_sweep(words: list[str]) -> list[str]:
    """Words for Hydra that resume the sweep named by resume=; without one, the words as they are.

    Finished runs are kept, interrupted ones resume, missing ones start.

    Raises:
        UserError: there is no such folder, or a link in it leads out of it, which --trust allows.
    """
    folders = [word.removeprefix(WORD) for word in words if word.startswith(WORD)]
    if not folders or not {"-m", "--multirun"} & set(words):
        return words
    folder = Path(folders[-1])
    if not folder.is_dir():
        raise UserError(f"{folder} is no sweep to resume: there is no such folder")
    if TRUST not in words:
        require_inside(folder, files=True)
    own = [f"hydra.sweep.dir={quoted(folders[-1])}", "+hydra.callbacks.new_run_directory.resume=true"]
    return [word for word in words if not word.startswith(WORD) and word != TRUST] + own


def run_of_job(job: str, words: list[str]) -> Run | None:
    """The run that a SLURM job has begun: as the job has noted it; else in hydra.run.dir, or below outputs/.

    Anybody may have written a folder, so only a run that the job itself has noted is trusted.
    """
    noted = []
    with suppress(OSError, RuntimeError):
        noted = [Run(note(job).read_text("utf-8"), trust=True)]
    folders = [Path(word.partition("=")[2]) for word in words if word.startswith("hydra.run.dir=")]
    for run in (*noted, *map(Run, folders or Path("outputs").glob("**/"))):
        if run.status().get("slurm_job") == job:
            return run
    return None


def note_run_of_job(run: Run) -> None:
    """Let this SLURM job know its run when it is started again, if the user's own folder can be written."""
    if "SLURM_JOB_ID" in os.environ:
        with suppress(OSError, RuntimeError):
            file = note(os.environ["SLURM_JOB_ID"])
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            save(file, str(run.path.absolute()).encode())


def note(job: str) -> Path:
    """The file in which a SLURM job notes its run: outside the run, where only the user can write."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "cvae", "slurm", f"{os.environ.get('SLURM_CLUSTER_NAME', 'cluster')}_{job}")


def resume(run: Run, words: list[str], conf: Path) -> None:
    """Go on with `run`; further words may lengthen, shorten or move it. A run that is finished says so.

    conf: the folder conf/, for trainer=GROUP

    Raises:
        UserError: the run is being trained, its files are damaged, or a word is not allowed.
    """
    from cvae.build import config_to_go_on  # torch takes seconds to import: not for a misspelt name
    from cvae.training.options import RULES
    from cvae.training.time_limit import seconds

    cfg = config_to_go_on(run)
    before, limits = cfg.trainer.max_epochs, {key: OmegaConf.select(cfg, key) for key in (MAX_TIME, PATIENCE)}
    for word in words:
        change(cfg, word, conf)
    if not run.trust:
        require_few_processes(cfg, words)
    epochs = positive_int("trainer.max_epochs", cfg.trainer.max_epochs)
    if epochs != before and epochs < (done := epochs_done(run)):
        raise ConfigError("trainer.max_epochs", epochs, f"at least {done}: so many epochs are done")
    if first_process():  # the others are started by it
        if run.locked():
            raise UserError(f"{run} is being trained by another process")
        start_logging(run, conf)
        trained, reason = map(read_json(run.metrics).get, ("epochs", "stopped_early"))
        timed = MAX_TIME in str(reason)  # maybe within its last epoch, which counts as trained
        RULES[MAX_TIME](MAX_TIME, OmegaConf.select(cfg, MAX_TIME))  # so that it can be compared
        key, size = (MAX_TIME, seconds) if timed else (PATIENCE, lambda value: value if is_int(value) else inf)
        ends = reason and size(OmegaConf.select(cfg, key)) <= size(limits[key]) < inf
        if run.state() == "finished" and type(trained) is int and trained >= epochs and not timed:
            log.info("%s is finished. trainer.max_epochs=N, above %d, would go on", run, before)
            return
        if run.state() == "finished" and ends:
            log.info("%s has ended early: %s. A larger one would go on", run, str(reason)[:200])
            return
    from cvae.training.train import train

    train(cfg, resume=True)


def require_few_processes(cfg: DictConfig, words: list[str]) -> None:
    """Raise UserError where a saved config alone asks for more processes than this machine has cores, or for others."""
    keys = {word.lstrip("+").partition("=")[0] for word in words}
    for key, most in (("devices", os.cpu_count() or 1), ("num_nodes", 1)):
        value = cfg.trainer.get(key)
        count = len(value) if isinstance(value, ListConfig) else int(value) if str(value).isdecimal() else 1
        if count > most and not keys & {"trainer", f"trainer.{key}"}:
            raise UserError(
                f"trainer.{key}={value}: a saved config starts at most {most} here. If you want so many, say it: "
                f"trainer.{key}={value}"
            )


def epochs_done(run: Run) -> int:
    """The epochs of training in the checkpoint that a run goes on from; 0 if it has none. Raises as `newest` does."""
    from cvae.training.checkpoints import epochs_of, newest

    found = newest(run)
    return epochs_of(found[1]) if found else 0


def change(cfg: DictConfig, word: str, conf: Path) -> None:
    """Apply an override of the command line."""
    from cvae.build import choose

    override = OverridesParser.create().parse_override(word)
    key = override.key_or_group
    if key == "trainer":
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            chosen = compose("config", [word]).trainer
        with open_dict(cfg):
            for name in PLACE:  # a group may lack one, which then is as Lightning has it
                cfg.trainer.pop(name, None)
            cfg.trainer.update({name: chosen[name] for name in PLACE if name in chosen})
    elif key in ("data.root", "data.cache") and not override.is_delete():
        folder: Any = override.value()
        choose(cfg, key.removeprefix("data."), folder)
    elif key in ALLOWED and not override.is_delete():
        OmegaConf.update(cfg, key, override.value(), force_add=True)
        if key == PATIENCE:  # a run of before it was there
            OmegaConf.update(cfg, "callbacks.early_stopping._target_", EARLY_STOPPING, force_add=True)
    else:
        allowed = f"trainer=GROUP, {', '.join(ALLOWED)}"
        raise UserError(f"{word}: a run that goes on takes only {allowed}. For anything else start a new run")


def start_logging(run: Run, conf: Path) -> None:
    """The lines of the terminal, and of the run's train.log, which goes on."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(conf / "hydra" / "job_logging" / "cvae.yaml"))
    settings["handlers"]["file"]["filename"] = str(run.log_file)
    logging.config.dictConfig(settings)
