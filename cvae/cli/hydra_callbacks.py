"""Hydra's callbacks: each run gets a folder of its own, and an error ends its run, not the sweep."""

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from cvae.cli.compose import for_members
from cvae.cli.messages import message_of, of_the_user, quoted, traces_wanted
from cvae.cli.resume import note_run_of_job
from cvae.cli.search import go_on, name_study
from cvae.errors import UserError
from cvae.runs.comparison import natural
from cvae.runs.directory import Run, first_process
from cvae.runs.modelled import chosen_by
from cvae.runs.storage import new_folder
from cvae.runs.trust import require_inside
from cvae.runtime.console import how_to_resume

log = logging.getLogger(__name__)

CHOSEN = (
    "The search chooses by the test images, so the figure of the best run is too good; data.validation_size=0.1 keeps "
    "training images for that"
)


class NewRunDirectory(Callback):
    """Claims the run directory before Hydra writes anything.

    A folder that is named after the time gets another name if it is taken: two runs may start in the same second. A
    folder that the user has named is refused if it cannot be written, or if it holds a run.

    resume: a sweep goes on in its folder (see cvae.cli.resume.words_of_sweep)
    """

    def __init__(self, resume: bool = False) -> None:
        self.resume = resume

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        if first_process():
            claim(config, "run")
            note_run_of_job(Run(config.hydra.run.dir))
            return
        if by_time(config, "run"):  # each process would have a folder of its own
            raise SystemExit("Error: hydra.run.dir: must be named, the same for all processes of the run")

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        claim(config, "sweep", self.resume)
        name_study(config)
        if self.resume:
            go_on(config)
        for_members(config, f"hydra.sweep.dir={quoted(config.hydra.sweep.dir)}")
        if "direction" in config.hydra.sweeper:  # Optuna's: a run returns a bound, which is better when higher
            with read_write(config.hydra):
                config.hydra.sweeper.direction = "maximize"
            if chosen_by(OmegaConf.to_container(config)):
                log.warning(CHOSEN)


class NameBySwept(Callback):
    """Names each member of a sweep by what is swept alone."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        typed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        fixed = ",".join(f"'{override.key_or_group}'" for override in typed if not override.is_sweep_override())
        for_members(config, f"hydra.job.config.override_dirname.exclude_keys=[{fixed}]")


def save_config(run: Run, cfg: DictConfig) -> None:
    """Save the config of a new run, each file whole or not at all; a run that has begun keeps its own."""
    if first_process() and not run.began():
        hydra: Any = HydraConfig.instance().cfg
        run.save_overrides(hydra.hydra.overrides.task)
        run.save_hydra(hydra)
        run.save_config(cfg)  # the last: with it the folder is a run


def claim(config: DictConfig, kind: str, resume: bool = False) -> None:
    """Claim hydra.KIND.dir, and put the name of the claimed folder there.

    Ends the process if that fails: Hydra would turn an Exception of a callback into a warning.
    """
    HydraConfig.instance().set_config(config)  # what ${hydra:…} in the folder's name is read from
    written: Any = OmegaConf.to_container(config)
    key = f"hydra.{kind}.dir"
    if written["run_dir"] != "${hydra:runtime.output_dir}":  # else the config would be in Hydra's folder, all else here
        raise SystemExit(f"Error: run_dir={written['run_dir']}: must be left as it is; set {key} to choose the folder")
    folder = Path(config.hydra[kind].dir)
    require_plain_name(folder, key)
    try:
        if by_time(config, kind):
            folder = new_folder(folder)
        if not resume:
            require_no_run(folder)
        Run(folder).claim()
    except UserError as error:
        raise SystemExit(f"Error: {key}={folder}: must be a new folder; {error}") from error
    except OSError as error:
        raise SystemExit(f"Error: {key}={folder}: must be a folder that can be written: {error}") from error
    with read_write(config.hydra):
        config.hydra[kind].dir = str(folder)


def require_plain_name(folder: Path, key: str) -> None:
    """End the process for a name that Hydra reads as a reference, or that files and messages cannot hold."""
    name = str(folder.absolute())
    if "${" in name or not name.isprintable():
        allowed = "a name, as those of the folders above it, that can be printed and has no ${"
        raise SystemExit(f"Error: {key}={name!r}: must be {allowed}")


def by_time(config: DictConfig, kind: str) -> bool:
    """Whether the folder is named after the time."""
    return "${now:" in config.hydra[kind]._get_node("dir")._value()


def require_no_run(folder: Path) -> None:
    """Make `folder`. Raises UserError if it or a folder in it, a member of a sweep, holds a run or a link out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    require_inside(folder, files=True)
    for run in map(Run, (folder, *(path for path in folder.iterdir() if path.is_dir()))):
        if run.began():
            raise UserError(f"it holds an earlier run ({run.state()})")


class Failures(Callback):
    """Says what has ended a run when it happens, in its train.log too; the other runs of a sweep go on.

    The process then ends with exit code 1; a sweep first lists the runs that did not finish.
    """

    failed = False

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: object) -> None:
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            shown = of_the_user(error) and not traces_wanted()
            log.error("Error: %s", message_of(error), exc_info=None if shown else error)
            run = Run(config.hydra.runtime.output_dir)
            if isinstance(error, OSError) and run.checkpoints.is_dir():
                log.error("Once this is fixed, resume with: %s", how_to_resume(run))
            self.failed = True
            # A sweeper raises the first error that it finds. To Optuna's, None is a trial that failed.
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None

    def on_run_end(self, config: DictConfig, **_: object) -> None:
        if self.failed:
            raise SystemExit(1)

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        if lines := unfinished(Path(config.hydra.sweep.dir)):
            log.error("\n".join(lines))
            raise SystemExit(1)


def unfinished(sweep: Path) -> list[str]:
    """A line for each run of a sweep that did not finish, below a headline; none if all did."""
    folders = sorted(
        (file.parents[1] for file in sweep.rglob(".hydra/overrides.yaml")), key=lambda run: natural(str(run))
    )
    words = {folder: Run(folder).overrides() for folder in folders}
    shared = set.intersection(*map(set, words.values())) if words else set()
    lines = []
    for folder, all_words in words.items():
        if (status := Run(folder).status())["state"] != "finished":
            own = " ".join(word for word in all_words if word not in shared)
            said = ": ".join(filter(None, (status["state"], " ".join(status["reason"].split()))))
            lines.append(f"  {folder.relative_to(sweep)} ({own}) {said}")
    return [f"{len(lines)} of the {len(words)} runs in {sweep} did not finish:", *lines] if lines else []
