"""A search by Optuna that goes on: the trials of a database that are done are not made anew."""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, read_write

from cvae.cli.compose import for_members
from cvae.cli.messages import quoted
from cvae.runs.directory import Run

NUMBER = "${hydra:job.num}"  # how the folder of a member begins


def name_study(config: DictConfig) -> None:
    """Give the study of a database a name by which it is found again: that of the sweep's folder."""
    sweeper = config.hydra.sweeper
    if sweeper.get("storage") and not sweeper.study_name:
        with read_write(config.hydra):
            sweeper.study_name = str(Path(config.hydra.sweep.dir).resolve())


def go_on(config: DictConfig) -> None:
    """Tell Optuna's sweeper what is left of a search in a database, whose runs are in the folder of the sweep.

    A trial that was running when the search ended waits again, with its values: its run goes on. Without a database all
    trials are asked for again, in the same order and with the same values, and the runs that are finished say so.
    """
    sweeper, subdir = config.hydra.sweeper, config.hydra.sweep._get_node("subdir")._value()
    if not sweeper.get("storage") or not subdir.startswith(NUMBER):
        return
    import optuna

    try:
        study = optuna.load_study(sweeper.study_name, sweeper.storage)
    except KeyError:  # it ended before it began
        return
    runs = members(Path(config.hydra.sweep.dir))
    first = max(runs, default=-1) + 1
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        words = {f"{name}={value}" for name, value in trial.params.items()}
        if found := [number for number, run in runs.items() if words and words <= set(run.overrides())]:
            study._storage.set_trial_state(trial._trial_id, optuna.trial.TrialState.WAITING)
            first = min(first, *found)
    rest = subdir.removeprefix(NUMBER)
    subdir = f"${{member:${{hydra:sweep.dir}},{first},{NUMBER},${{hydra:overrides.task}},{rest}}}"
    with read_write(config.hydra):
        sweeper.n_trials -= first
        if isinstance(sweeper.sampler.get("seed"), int):
            sweeper.sampler.seed += first  # the same seed would draw the first values again
    for_members(config, f"hydra.sweep.subdir={quoted(subdir)}")


def members(sweep: Path) -> dict[int, Run]:
    """The runs in the folder of a sweep, by their numbers."""
    folders = [file.parents[1] for file in sweep.glob("*/.hydra/overrides.yaml")]
    return {int(number): Run(folder) for folder in folders if (number := folder.name.partition("_")[0]).isdecimal()}


def member(sweep: str, first: int, number: int, words: Iterable[str], rest: str = "") -> str:
    """The folder of a member of a search that goes on: the one that has these words, of those from `first` on, or new.

    The database keeps no order of a trial's values, so the words may come in another one.
    """
    for there, run in members(Path(sweep)).items():
        if there >= first and set(run.overrides()) == set(words):
            return run.path.name
    return f"{first + number}{rest}"


OmegaConf.register_new_resolver("member", member, replace=True)
