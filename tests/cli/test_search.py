"""A search in a database that goes on: what is done stays, what was running has its number and its values again."""

import pytest
from omegaconf import OmegaConf

from cvae.cli.search import go_on, member, name_study
from cvae.runs.directory import Run

optuna = pytest.importorskip("optuna")
SUBDIR = "${hydra:job.num}${suffix:null}"


@pytest.fixture
def search(tmp_path):
    """The config of a search of 9 trials, in a folder and a database of its own."""
    sweeper = {
        "storage": f"sqlite:///{tmp_path}/study.db", "study_name": None, "n_trials": 9, "sampler": {"seed": 5}
    }  # fmt: skip
    hydra = {"sweeper": sweeper, "sweep": {"dir": str(tmp_path), "subdir": SUBDIR}, "overrides": {"hydra": []}}
    cfg = OmegaConf.create({"hydra": hydra})
    name_study(cfg)
    return cfg


def study_of(search):
    sweeper = search.hydra.sweeper
    return optuna.create_study(
        sweeper.storage, study_name=sweeper.study_name, direction="maximize", load_if_exists=True
    )


def begin(study, sweep, number, words=True):
    """Ask for a trial, whose run leaves its words in the sweep's folder."""
    trial = study.ask()
    values = {"lr": trial.suggest_float("lr", 1e-4, 1e-2), "dim": trial.suggest_categorical("dim", [2, 4])}
    run = Run(sweep / f"{number}_lr=some")
    run.path.mkdir()
    if words:
        run.save_overrides([*(f"{name}={value}" for name, value in values.items()), "seed=1"])
    return trial


def test_two_trials_that_were_running_have_their_numbers_and_values_again(search, tmp_path):
    study = study_of(search)
    elsewhere = study.ask()  # of another search in the same study
    elsewhere.suggest_float("lr", 1e-4, 1e-2)
    trials = [begin(study, tmp_path, number) for number in range(5)]
    for trial, value in zip(trials[:3], (-3.0, -1.0, -2.0), strict=True):
        study.tell(trial, value)
    go_on(search)
    assert search.hydra.sweeper.n_trials == 6 and search.hydra.sweeper.sampler.seed == 8

    again = study_of(search)
    assert [again.ask().number for _ in range(3)] == [trials[3].number, trials[4].number, 6]
    assert [trial.params for trial in again.trials[4:6]] == [trial.params for trial in trials[3:]]
    assert again.trials[elsewhere.number].state == optuna.trial.TrialState.RUNNING

    number_and_words = "${hydra:job.num},${hydra:overrides.task}"
    (word,) = OmegaConf.to_container(search.hydra.overrides.hydra)
    assert word == f"hydra.sweep.subdir='${{member:${{hydra:sweep.dir}},3,{number_and_words},${{suffix:null}}}}'"
    for number in (3, 4):  # whatever the order of the words
        assert member(str(tmp_path), 3, 0, Run(tmp_path / f"{number}_lr=some").overrides()[::-1]) == f"{number}_lr=some"
    assert member(str(tmp_path), 3, 2, ["lr=1"], "_lr=1") == "5_lr=1"
    assert member(str(tmp_path), 3, 2, Run(tmp_path / "1_lr=some").overrides()) == "5"  # one that is done is no place


def test_a_search_that_is_done_or_has_not_begun(search, tmp_path):
    go_on(search)
    assert search.hydra.sweeper.n_trials == 9 and not search.hydra.overrides.hydra
    study = study_of(search)
    for number in range(9):
        study.tell(begin(study, tmp_path, number), -1.0)
    go_on(search)
    assert search.hydra.sweeper.n_trials == 0


def test_a_search_without_a_database_or_with_folders_of_its_own_is_left_alone(search, tmp_path):
    study = study_of(search)
    study.tell(begin(study, tmp_path, 0), -1.0)
    for place, value in (("sweep.subdir", "mine"), ("sweeper.storage", None)):
        OmegaConf.update(search.hydra, place, value)
        before = OmegaConf.to_container(search)
        go_on(search)
        assert OmegaConf.to_container(search) == before
    search.hydra.sweeper.study_name = None
    name_study(search)
    assert search.hydra.sweeper.study_name is None
    name_study(OmegaConf.create({"hydra": {"sweeper": {}}}))  # Hydra's own


def test_a_study_has_a_name_by_which_it_is_found_again(search, tmp_path, monkeypatch):
    assert search.hydra.sweeper.study_name == str(tmp_path)
    search.hydra.sweeper.study_name = None
    search.hydra.sweep.dir = f"{tmp_path.name}/"
    monkeypatch.chdir(tmp_path.parent)
    name_study(search)
    assert search.hydra.sweeper.study_name == str(tmp_path)
    search.hydra.sweeper.study_name = "mine"
    name_study(search)
    assert search.hydra.sweeper.study_name == "mine"
