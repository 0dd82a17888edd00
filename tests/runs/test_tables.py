"""The parts of a table, its columns, and what is said below it."""

import os
from types import SimpleNamespace

import pytest
import yaml
from runs_to_compare import make

from cvae.runs.comparison import LINKED, find, read, runs_below
from cvae.runs.modelled import UNKNOWN
from cvae.runs.tables import COLUMNS, Row, as_csv, as_markdown, best_first, columns, parts, remarks, shown

GREY = {"_target_": "y", "image_shape": [1, 8, 8], "binarization": "none"}
GAUSSIAN = {"_target_": "cvae.likelihoods.Gaussian"}


def test_only_what_models_the_same_is_ranked(tmp_path):
    """A density's ELBO of +1201 is no better than a probability's of -100."""
    make(tmp_path / "a", "likelihood=gaussian", elbo=1201.0, data=GREY, likelihood=GAUSSIAN)
    make(tmp_path / "b", elbo=-100.0)
    make(tmp_path / "c", "model.latent_dim=8", elbo=-90.0, model={"latent_dim": 8})
    found = parts(read(find([tmp_path])))
    assert [part.modelled for part in found] == [
        "y 1x8x8, binarization=static; probabilities", "y 1x8x8, binarization=none; densities",
    ]  # fmt: skip
    assert [[row.label for row in part.rows] for part in found] == [["c", "b"], ["a"]]
    assert [list(part.rows[0].settings) for part in found] == [["model.latent_dim"], []]  # what differs in the part
    assert (
        as_csv(read(find([tmp_path])))
        .splitlines()[1]
        .startswith(f'{tmp_path}/a,"y 1x8x8, binarization=none; densities",gaussian,')
    )
    assert as_markdown(found[1]).startswith("y 1x8x8, binarization=none; densities\n\n| run | ELBO |")


def test_runs_that_differ_in_what_they_model_share_no_row(tmp_path):
    for number, data in enumerate(({}, {"data": GREY})):
        make(tmp_path / str(number), f"seed={number}", elbo=-1.0, seed=number, **data)
    assert [len(part.rows[0].entries) for part in parts(read(find([tmp_path])))] == [1, 1]


def test_runs_without_a_config_are_no_seeds_of_each_other(tmp_path):
    for name in "ab":
        (make(tmp_path / name, elbo=-1.0) / ".hydra" / "config.yaml").write_text("[")
    (part,) = parts(read(find([tmp_path])))
    assert part.modelled == UNKNOWN and [row.label for row in part.rows] == ["a", "b"]


def test_runs_behind_links_are_found_once(tmp_path):
    make(tmp_path / "elsewhere" / "x" / "one")
    make(tmp_path / "runs" / "two")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs" / "two")
    (tmp_path / "runs" / "a_circle").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "itself").symlink_to("itself")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    (tmp_path / "start").symlink_to(tmp_path / "runs")
    there = [str(run.path.relative_to(tmp_path)) for run in find([tmp_path / "runs"])]
    assert there == ["runs/link/x/one", "runs/two"]  # the way without a link, where there is one
    assert [str(run.path.relative_to(tmp_path)) for run in find([tmp_path / "start"])] == [
        "start/link/x/one", "start/two",
    ]  # fmt: skip


def test_a_link_to_the_whole_disk_has_an_end(tmp_path, monkeypatch, caplog):
    make(tmp_path / "runs" / "one")
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "disk")
    walk = os.walk

    def endless(start):
        return ((f"/endless/{n}", [], []) for n in range(10 * LINKED)) if start.endswith("link") else walk(start)

    monkeypatch.setattr(os, "walk", endless)
    assert list(runs_below(str(tmp_path / "runs"))) == [str(tmp_path / "runs" / "one")]
    assert "behind links 20,000 folders are looked at, no more" in caplog.text


def test_no_more_columns_than_one_reads(tmp_path):
    keys = [f"k{number}" for number in range(20)]
    for value in (1, 2):
        words = [*(f"a.{key}={value}" for key in keys), f"tag=x{value}"]
        make(tmp_path / str(value), *words, elbo=-float(value), a=dict.fromkeys(keys, value))
    table = parts(read(find([tmp_path])))[0].rows
    kept, left_out = shown(table)
    titles = [column.title for column in kept]
    assert len(titles) == COLUMNS and titles[:6] == ["run", "k0", "k1", "k2", "k3", "ELBO"]
    assert {"run", "ELBO", "NLL", "state", "k0", "k1", "k2"} <= set(titles)
    assert set(titles) | set(left_out) == {column.title for column in columns(table)} | {"run"}
    assert remarks(table, left_out)[-1].startswith("more columns by --all: k")
    assert as_markdown(parts(read(find([tmp_path])))[0], every=True).splitlines()[2].count("|") > 26


def test_rows_have_names_that_tell_them_apart(tmp_path):
    many = {f"k{number}": number for number in range(20)}
    for seed in (0, 1):
        words = [*(f"a.{key}={value}" for key, value in many.items()), f"seed={seed}"]
        make(tmp_path / f"{seed}_lr=1,seed={seed}", *words, elbo=-1.0, seed=seed, a=many)
    make(tmp_path / "x" / "same", elbo=-2.0)
    make(tmp_path / "y" / "same", "a.k0=5", elbo=-3.0, a={"k0": 5})
    table = parts(read(find([tmp_path])))[0].rows
    assert [row.label for row in table] == ["lr=1", f"{tmp_path}/x/same", f"{tmp_path}/y/same"]
    kept = shown(table, 80)[0]
    assert [column.title for column in kept][:2] == ["run", "k0"] and {"ELBO", "NLL"} <= {part.title for part in kept}
    assert sum(column.width() for column in kept) <= 80 and max(map(len, kept[0].cells)) <= 26


def test_the_bound_of_a_single_code_is_marked(tmp_path):
    """By the config, or by what an evaluation says of its figure."""
    make(tmp_path / "gaussian", "a=1", elbo=-100.0, a=1)
    make(tmp_path / "vq", "a=2", elbo=-90.0, a=2, posterior={"_target_": "cvae.posteriors.VQ"})
    (part,) = parts(read(find([tmp_path])))
    by_title = {column.title: column.cells for column in columns(part.rows)}
    assert by_title["NLL"] == ["≤ 88.00", "98.00"]
    assert remarks(part.rows, []) == [
        "≤ of a single code for each image: a bound on the NLL that no number of samples makes tight"
    ]
    lines = as_csv(read(find([tmp_path]))).splitlines()
    assert lines[0].endswith(",NLL is,NLL by,state,tags")
    assert lines[1].endswith(",,,finished,") and lines[2].endswith(",at most,,finished,")


@pytest.mark.parametrize(("size", "said"), [(0, 1), (10, 0)])
def test_a_search_that_chose_by_the_test_images_is_said(tmp_path, size, said):
    run = make(tmp_path / "a", elbo=-1.0, data={"_target_": "y", "validation_size": size})
    sweeper = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}
    (run / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"sweeper": sweeper}}))
    (part,) = parts(read(find([tmp_path])))
    assert remarks(part.rows, []) == said * [
        "1 of the runs: their search chose by the test images (data.validation_size=0)"
    ]


@pytest.mark.parametrize(("title", "higher"), [
    *((title, True) for title in ("ELBO", "active units", "MIG", "DCI", "SAP", "FactorVAE", "precision p 9/9",
                                  "recall p 9/9")),
    *((title, False) for title in ("NLL", "rate", "distortion", "seconds", "FD p 9/9", "KID p 9/9", "rFD p 9/9")),
])  # fmt: skip
def test_what_is_better_comes_first_and_what_is_missing_last(title, higher):
    values = {"a": 2.0, "b": 3.0, "c": None, "d": 1.0}
    table = [
        Row(label, {}, [SimpleNamespace(figures={} if value is None else {title: value})])
        for label, value in values.items()
    ]
    assert "".join(row.label for row in best_first(table, title)) == ("badc" if higher else "dabc")


def test_only_a_search_chooses_by_the_test_images(tmp_path):
    """A run alone does not, nor does a plain sweep."""
    make(tmp_path / "a", elbo=-1.0, data={"_target_": "y", "validation_size": 0})
    (part,) = parts(read(find([tmp_path])))
    assert remarks(part.rows, []) == []


def test_signs_of_a_table_are_escaped_in_markdown(tmp_path):
    make(tmp_path / "a|b", elbo=-1.0)
    assert "| a\\|b | -1.00 |" in as_markdown(*parts(read(find([tmp_path]))))
