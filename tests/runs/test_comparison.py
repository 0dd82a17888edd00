"""Many runs in one table: what differs, which runs share a row, the order, the numbers as they are printed."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from runs_to_compare import make, sweep  # noqa: F401, a fixture

from cvae.errors import UserError
from cvae.runs.comparison import choices, find, read, read_config
from cvae.runs.curves import curve
from cvae.runs.directory import Run
from cvae.runs.tables import as_csv, as_markdown, columns, differing, parts, rows, text_of


def all_cells(table):
    """(titles, lines)"""
    shown = columns(table)
    return [column.title for column in shown], list(map(list, zip(*(column.cells for column in shown), strict=True)))


def test_runs_are_found_at_and_below_a_path_each_once(tmp_path):
    places = ["a/10_x", "a/9_x", "b", "a/.hidden/c", "b/d"]
    for place in places:
        make(tmp_path / place)
    (tmp_path / "empty").mkdir()
    found = [str(run.path.relative_to(tmp_path)) for run in find([tmp_path, tmp_path / "b", tmp_path / "a" / "9_x"])]
    assert found == ["a/9_x", "a/10_x", "b"]  # 9 before 10; nothing within a run, nothing hidden
    for path in ("empty", "nowhere"):
        with pytest.raises(UserError, match=f"{path}: there is no run at or below it"):
            find([tmp_path / "b", tmp_path / path])


def test_settings_are_what_was_typed_anywhere_with_the_value_of_each_run(tmp_path):
    make(tmp_path / "a", "prior=vamp", "model.filters=[8,8]", model={"latent_dim": 2, "filters": [8, 8]})
    make(tmp_path / "b", "+trainer.x=true", trainer={"x": True})
    make(tmp_path / "c", "data.seed=1", "objective/beta=linear", data={"seed": 1}, objective={"beta": {}},
         choices={"prior": "flow", "objective/beta": "linear"})  # fmt: skip
    make(tmp_path / "d", "name=d", data={"seed": "${seed}"})
    a, b, c, d = read(find([tmp_path]))
    assert list(a.settings) == ["prior", "model.filters", "trainer.x", "data.seed", "objective/beta", "name"]
    assert list(a.settings.values()) == ["vamp", [8, 8], None, None, None, None]
    assert list(b.settings.values()) == ["standard_normal", [32, 64], True, None, None, None]
    assert list(c.settings.values()) == ["flow", [32, 64], None, 1, "linear", None]
    assert d.settings["data.seed"] == 0 and d.settings["prior"] == "standard_normal"


def test_figures_and_state_of_a_run(sweep):
    entries = read(find([sweep]))
    assert entries[0].figures == {
        "ELBO": -150.0, "NLL": 148.0, "rate": 5.0, "distortion": 145.0, "active units": 2, "seconds": 3.5,
    }  # fmt: skip
    assert [entry.state for entry in entries] == ["finished"] * 3 + ["failed"] + ["finished"] * 2
    assert entries[3].figures == {} and differing(entries) == ["model.latent_dim", "seed"]


def test_seeds_share_a_row_and_the_best_is_first(sweep):
    table = rows(read(find([sweep])))
    titles, lines = all_cells(table)
    assert titles == [
        "latent_dim", "runs", "ELBO", "NLL", "rate", "distortion", "active units", "seconds", "state",
    ]  # fmt: skip
    assert lines == [
        ["32", "2", "-120.00 ± 1.41", "118.00 ± 1.41", "5.00 ± 0.00", "115.00 ± 1.41", "2 ± 0.0", "4 ± 0.0",
         "2 finished"],
        ["8", "2", "-120.00", "118.00", "5.00", "115.00", "2", "4", "1 finished, 1 failed"],
        ["2", "2", "-151.00 ± 1.41", "149.00 ± 1.41", "5.00 ± 0.00", "146.00 ± 1.41", "2 ± 0.0", "4 ± 0.0",
         "2 finished"],
    ] or lines[0][0] == "8"  # fmt: skip
    assert [row.label for row in table][2] == "latent_dim=2"


def test_each_run_has_a_row_of_its_own(sweep):
    table = rows(read(find([sweep])), each=True)
    assert [row.label for row in table] == [
        "latent_dim=32,seed=1", "latent_dim=8,seed=0", "latent_dim=32,seed=0", "latent_dim=2,seed=0",
        "latent_dim=2,seed=1", "latent_dim=8,seed=1",
    ]  # fmt: skip
    titles, lines = all_cells(table)
    assert titles[:3] == ["latent_dim", "seed", "ELBO"]
    assert lines[0][:3] == ["32", "1", "-119.00"] and lines[-1][:4] == ["8", "1", "-", "-"]
    assert lines[-1][-1] == "failed"


@pytest.mark.parametrize(
    ("column", "order"),
    [
        ("latent_dim", [2, 8, 32]),
        ("model.latent_dim", [2, 8, 32]),
        ("NLL", [8, 32, 2]),
        ("distortion", [8, 32, 2]),
        ("rate", [8, 32, 2]),
        ("seconds", [8, 32, 2]),
        ("active units", [32, 8, 2]),
    ],
)
def test_sorted_by_a_column(sweep, column, order):
    for folder in sweep.iterdir():  # active units: as many as latents
        if (folder / "metrics.json").exists():
            metrics = json.loads((folder / "metrics.json").read_text())
            metrics["evaluation/active_units"] = int(re.search(r"dim=(\d+)", folder.name)[1])
            (folder / "metrics.json").write_text(json.dumps(metrics))
    (part,) = parts(read(find([sweep])), column)
    found = [row.settings["model.latent_dim"] for row in part.rows]
    assert found == order


def test_no_such_column(sweep):
    with pytest.raises(UserError, match="--sort loss: must be a column: latent_dim, ELBO, NLL, rate, distortion, "):
        parts(read(find([sweep])), "loss")


def test_runs_that_do_not_differ_are_named(tmp_path):
    for name in ("2026-01-01_00-00-00_mine", "other"):
        make(tmp_path / name, elbo=-1.0)
    table = rows(read(find([tmp_path])), each=True)
    assert all_cells(table)[0][:2] == ["run", "ELBO"] and {row.label for row in table} == {"mine", "other"}
    (both,) = rows(read(find([tmp_path])))  # the same settings, seeds too
    assert both.label == "all" and len(both.entries) == 2
    make(tmp_path / "b" / "mine", elbo=-2.0)
    labels = [row.label for row in rows(read(find([tmp_path])), each=True)]
    assert labels[2] == str(tmp_path / "b" / "mine") and len(set(labels)) == 3


def test_tags_and_one_run(tmp_path):
    make(tmp_path / "a", "seed=3", elbo=-1.0, tags=["x", "y"])
    titles, (line,) = all_cells(rows(read(find([tmp_path]))))
    assert titles == [
        "run", "ELBO", "NLL", "rate", "distortion", "active units", "seconds", "state", "tags",
    ]  # fmt: skip
    assert line == ["a", "-1.00", "-1.00", "5.00", "-4.00", "2", "4", "finished", "x,y"]


def test_damaged_files_leave_figures_out(tmp_path):
    for name, text in (("metrics.json", "{"), (".hydra/overrides.yaml", "a: [")):
        run = make(tmp_path / name.strip(".").replace("/", "_"), "seed=1", elbo=-1.0)
        (run / name).write_text(text)
    one, two = read(find([tmp_path]))
    assert {len(one.figures), len(two.figures)} == {0, 6}


def test_markdown(sweep):
    lines = as_markdown(*parts(read(find([sweep])), "latent_dim", each=True)).splitlines()
    assert lines[:2] == ["y 1x8x8, binarization=static; probabilities", ""]
    lines = lines[2:]
    assert lines[0].startswith("| latent_dim | seed | ELBO | NLL |")
    assert lines[1] == "|" + " ---: |" * 8 + " --- |"
    assert lines[2] == "| 2 | 0 | -150.00 | 148.00 | 5.00 | 145.00 | 2 | 4 | finished |" and len(lines) == 8


def test_csv_has_every_run_with_all_digits(sweep):
    lines = as_csv(read(find([sweep]))).splitlines()
    assert lines[0] == (
        "path,modelled,model.latent_dim,seed,ELBO,NLL,rate,distortion,active units,seconds,MIG,DCI,SAP,FactorVAE,"
        "NLL is,NLL by,state,tags"
    )
    words = '"y 1x8x8, binarization=static; probabilities"'
    assert lines[1] == f'"{sweep}/0_latent_dim=2,seed=0",{words},2,0,-150.0,148.0,5.0,145.0,2,3.5,,,,,,,finished,'
    assert lines[4].endswith(",8,1,,,,,,,,,,,,,failed,") and len(lines) == 7


def test_values_as_typed():
    assert [text_of(value) for value in ([1, True], None, False, 1e-4, "a")] == [
        "[1,true]", "null", "false", "0.0001", "a",
    ]  # fmt: skip


def test_a_curve_of_several_files(tmp_path):
    """By step; where two files have a step, as after a run was resumed, the later one's value."""
    from cvae.training.tensorboard import TensorBoard

    for name, steps in (("1", (2, 4)), ("2", (4, 6))):
        board = TensorBoard(str(tmp_path / "new"))
        for step in steps:
            board.log_metrics({"test/elbo": -float(step + 100 * int(name)), "test/rate": 1.0}, step)
        board.close("success")
        (file,) = (tmp_path / "new" / "test").iterdir()
        (tmp_path / "run" / "test").mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "run" / "test" / f"events.out.tfevents.{name}")
    assert curve(Run(tmp_path / "run"), "test/elbo") == [(2, -102.0), (4, -204.0), (6, -206.0)]
    assert curve(Run(tmp_path / "run"), "validation/elbo") == []


def test_a_comparison_needs_no_torch():
    code = "import sys, cvae.__main__, cvae.runs.comparison; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "seed: ${seed}", "a: &a [1]\nseed: *a", "seed: !!python/object/apply:os.getpid []", "- 1", "[" * 2000,
        "seed: ${oc.env:HOME}", "seed: ${other}\nother: ${seed}",
    ],
)  # fmt: skip
def test_runs_of_others_are_text(tmp_path, text):
    """Nothing is resolved, made or multiplied, and a reference is followed once."""
    run = Run(tmp_path)
    run.config_file.parent.mkdir()
    run.config_file.write_text(text)
    run.overrides_file.write_text("- seed=1\n")
    (entry,) = read([run])
    assert entry.settings["seed"] in (None, "${seed}", "${oc.env:HOME}")


@pytest.mark.parametrize(
    ("said", "found"),
    [("{prior: vamp}", "vamp"), ("{prior: '${oc.env:HOME}'}", "${oc.env:HOME}"), ("&a {prior: 1}", None), ("1", None)],
)
def test_choices_of_others_are_text(tmp_path, said, found):
    run = Run(tmp_path)
    run.hydra_file.parent.mkdir()
    run.hydra_file.write_text(f"hydra: {{runtime: {{choices: {said}}}}}")
    assert choices(read_config(run.hydra_file)).get("prior") == found


def test_values_of_another_kind_are_left_out(tmp_path):
    make(tmp_path / "a", "seed=1", elbo=-1.0, tags=["x", "y"])
    make(tmp_path / "b", "seed=2", seed=2)
    (tmp_path / "b" / "metrics.json").write_text(
        '{"test/elbo": "-1", "test/rate": NaN, "test/distortion": [1], "evaluation/nll": true, "test/loss": 1,'
        ' "train/seconds_per_epoch": ["a"], "evaluation/active_units": 3}'
    )
    config = (tmp_path / "b" / ".hydra" / "config.yaml").read_text()
    (tmp_path / "b" / ".hydra" / "config.yaml").write_text(config.replace("tags: []", "tags: 5"))
    one, two = read(find([tmp_path]))
    assert two.figures == {"active units": 3} and two.tags == []
    assert as_csv([one]).splitlines()[1].endswith(",finished,x y")
    for seconds in ([], 3, {"a": 1}, [1, None]):
        (tmp_path / "b" / "metrics.json").write_text(json.dumps({"train/seconds_per_epoch": seconds}))
        assert read(find([tmp_path]))[1].figures == {}
