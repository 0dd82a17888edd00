"""Names of runs: made of what was typed, safe as file names, bounded, told apart."""

import pytest

from cvae.runs.directory import Run
from cvae.runs.names import LONGEST, folder_of_sweep, safe, shortened, suffix


@pytest.mark.parametrize(
    ("overrides", "leave_out", "expected"),
    [
        ([], [], ""),
        (["model.latent_dim=8", "seed=1"], [], "_latent_dim=8,seed=1"),
        (["seed=1", "model.latent_dim=8"], [], "_seed=1,latent_dim=8"),
        (["prior=vamp", "model.filters=[32,64]", "+trainer.gradient_clip_val=0.5"], [],
         "_prior=vamp,filters=32-64,gradient_clip_val=0.5"),
        (["objective/beta=linear", "optimizer.lr=1e-3"], [], "_beta=linear,lr=1e-3"),
        (["data.seed=1", "seed=2"], [], "_data.seed=1,seed=2"),
        (["data.root=/a/b", "seed=1", "callbacks.pictures.num=4", "trainer=cpu", "trainer.max_epochs=1"],
         ["data.root", "callbacks*", "trainer"], "_seed=1,max_epochs=1"),
        (["data.root=/my images/b"], [], "_root=my-images-b"),
        (["~callbacks.pictures", "seed=a=b"], ["callbacks*"], "_seed=a-b"),
    ],
)  # fmt: skip
def test_a_name_is_made_of_what_was_typed(overrides, leave_out, expected):
    assert suffix(None, overrides, leave_out) == expected


def test_a_name_by_hand_wins():
    assert suffix("My run/1: ä.", ["seed=1"]) == "_My-run-1"
    assert suffix(7) == "_7" and suffix("") == "" and suffix(None) == ""


def test_long_names_are_cut_and_stay_different():
    one, two = (suffix(None, [f"model.hidden=[{','.join(['256'] * 40)},{last}]"]) for last in (1, 2))
    assert len(one) == len(two) == LONGEST + 1 and one != two and one[:80] == two[:80]
    assert one[:-8] == f"_{('hidden=' + '256-' * 40)[: LONGEST - 9]}_"
    assert suffix("a" * LONGEST) == "_" + "a" * LONGEST
    assert len(suffix("a" * (LONGEST + 1))) == LONGEST + 1 and suffix("a" * (LONGEST + 1)) != "_" + "a" * (LONGEST + 1)


def test_keys_are_as_short_as_they_can_be_told_apart():
    assert shortened(["a.b.c", "d.b.c", "e"]) == ["a.b.c", "d.b.c", "e"]
    assert shortened(["a.b.c", "a.d.c"]) == ["b.c", "d.c"]
    assert shortened(["seed", "data.seed", "model.latent_dim"]) == ["seed", "data.seed", "latent_dim"]


@pytest.mark.parametrize(
    "text", ["../../etc", "a b", "$(rm)", "'q'", '"', "a/b\\c", "[1,2]", "*", "\n", "ü", "...", "-x-"]
)
def test_what_is_safe(text):
    assert set(safe(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") and not safe(text).startswith((".", "-"))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("2026-01-31_12-00-00_latent_dim=8,seed=1", "latent_dim=8,seed=1"),
        ("2026-01-31_12-00-00", "2026-01-31_12-00-00"),
        ("3_seed=1", "seed=1"),
        ("3", "3"),
        ("mine", "mine"),
        ("10_10_b", "10_b"),
    ],
)
def test_the_name_of_a_run_is_that_of_its_folder_without_the_time(tmp_path, folder, name):
    assert Run(tmp_path / folder).name == name


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ([], "iwae/multirun"), (["seed=1,2", "experiment=iwae"], "iwae/multirun"),
        (["experiment=iwae,vampprior"], "multirun"), (["seed=1", "experiment=choice(iwae,vampprior)"], "multirun"),
        (["experiment=glob(*)"], "multirun"), (["name=experiment", "tags=[experiment,b]"], "iwae/multirun"),
    ],
)  # fmt: skip
def test_a_sweep_over_experiments_is_in_none_of_their_folders(overrides, folder):
    assert folder_of_sweep("iwae", overrides) == folder
