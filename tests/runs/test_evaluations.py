"""Which of a run's evaluations a table shows."""

import json

import pytest
from runs_to_compare import make

from cvae.runs import evaluations
from cvae.runs.comparison import find, read
from cvae.runs.directory import Run
from cvae.runs.evaluations import best_evaluation, factor_figures, qualities
from cvae.runs.tables import Part, as_csv, as_markdown, columns, remarks, rows


def evaluated(folder, nll, step=7, images=100, samples=10, until=None, checkpoint="last.ckpt", about=(), **figures):
    """An evaluation as `python -m cvae evaluate` leaves it."""
    settings = {"checkpoint": checkpoint, "step": step, "images": images, "samples": samples, "seed": 0, "until": until}
    settings |= dict(about)
    said = {name: {"value": value, "standard_error": None} for name, value in {"nll": nll, **figures}.items()}
    Run(folder).save_evaluation({**said, "settings": settings})


def best(folder, step=None):
    found = best_evaluation(Run(folder), step)
    return found and found.figures["evaluation/nll"]


def test_the_most_images_then_the_most_samples_then_the_strictest_end(tmp_path):
    assert best(tmp_path) is None
    evaluated(tmp_path, 1.0, images=50, samples=5000)
    assert best(tmp_path) == 1.0
    evaluated(tmp_path, 2.0, images=100, samples=10)
    assert best(tmp_path) == 2.0
    evaluated(tmp_path, 3.0, samples=500)
    evaluated(tmp_path, 4.0, samples=50)
    assert best(tmp_path) == 3.0
    evaluated(tmp_path, 5.0, samples=500, until=0.1)
    evaluated(tmp_path, 6.0, samples=500, until=0.01)
    evaluated(tmp_path, 7.0, samples=500, until=0.05)
    assert best(tmp_path) == 6.0


def test_only_of_the_last_checkpoint_at_its_last_step(tmp_path):
    evaluated(tmp_path, 1.0, step=7)
    evaluated(tmp_path, 2.0, step=7, checkpoint="best.ckpt", samples=5000)
    evaluated(tmp_path, 3.0, step=6, samples=5000)
    assert best(tmp_path) == best(tmp_path, 7) == 1.0
    assert best(tmp_path, 6) == 3.0 and best(tmp_path, 5) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1]", "{}", '{"settings": 3, "nll": {"value": 1}}', '{"nll": {"value": 1.0}}',
        '{"settings": {"checkpoint": "last.ckpt", "step": "7", "images": 9, "samples": 9}, "nll": {"value": 1.0}}',
        '{"settings": {"checkpoint": "last.ckpt", "step": 7, "images": true, "samples": 9}, "nll": {"value": 1.0}}',
        '{"settings": {"checkpoint": "last.ckpt", "step": 7, "images": 9, "samples": null}, "nll": {"value": 1.0}}',
        '{"settings": {"checkpoint": "last.ckpt", "step": 7, "images": 9, "samples": 9}, "nll": {"value": null}}',
        '{"settings": {"checkpoint": "last.ckpt", "step": 7, "images": 9, "samples": 9}, "nll": {"value": NaN}}',
        '{"settings": {"checkpoint": "last.ckpt", "step": 7, "images": 9, "samples": 9}, "nll": 1.0}',
    ],
)  # fmt: skip
def test_other_files_are_left_out(tmp_path, text):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "a.json").write_text(text)
    assert best_evaluation(Run(tmp_path), None) is None


def test_what_it_says(tmp_path):
    evaluated(tmp_path, 2.5, samples=5000, images=10000, active_units=3, bits_per_dim=None)
    found = best_evaluation(Run(tmp_path), 7)
    assert found.figures == {"evaluation/nll": 2.5, "evaluation/active_units": 3}
    assert found.by == "5,000 samples, 10,000 images"
    evaluated(tmp_path, 2.5, samples=5000, images=10000, until=0.01)
    assert best_evaluation(Run(tmp_path), 7).by == "5,000 samples or more, until 0.01, 10,000 images"


def test_evaluations_of_averaged_weights_are_apart(tmp_path):
    """One that does not say its weights, as of earlier versions, is of raw ones."""
    evaluated(tmp_path, 1.0)
    evaluated(tmp_path, 2.0, samples=5000, about={"weights": "averaged"})
    run = Run(tmp_path)
    assert best_evaluation(run, 7).figures == best_evaluation(run, 7, "raw").figures == {"evaluation/nll": 1.0}
    averaged = best_evaluation(run, 7, "averaged")
    assert averaged.figures == {"evaluation/nll": 2.0}
    assert averaged.by == "5,000 samples, 100 images, averaged weights"


def test_a_bound_that_no_number_of_samples_makes_tight(tmp_path):
    for meaning, bound in (("-log p(x), at most, by 10 samples", True), ("-log p(x) by 10 samples", False)):
        evaluated(tmp_path, 1.0)
        (file,) = (tmp_path / "evaluation").iterdir()
        content = json.loads(file.read_text())
        content["nll"]["meaning"] = meaning
        file.write_text(json.dumps(content))
        assert best_evaluation(Run(tmp_path), 7).at_most is bound


def test_so_many_files_are_read_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluations, "MOST", 2)
    for folder, figures in (("evaluation", "nll"), ("factors", "mig"), ("quality", "kid")):
        (tmp_path / folder).mkdir()
        for number in range(3):
            about = {"checkpoint": "last.ckpt", "step": 7, "images": 10 + number, "samples": 9, "seed": 0}
            about |= {"weights": "raw", "features": "own"}
            content = {figures: {"value": float(number)}, "settings": about}
            (tmp_path / folder / f"{number}.json").write_text(json.dumps(content))
    run = Run(tmp_path)
    assert best_evaluation(run, 7).figures == {"evaluation/nll": 1.0}
    assert factor_figures(run, 7) == {"evaluation/mig": 1.0}
    assert qualities(run, 7) == {"own 9/10": {"kid": 0.0}, "own 9/11": {"kid": 1.0}}


def told(folder, name, value, **about):
    """Figures of factors as `python -m cvae evaluate RUN --factors` leaves them."""
    (folder / "factors").mkdir(exist_ok=True)
    settings = {"checkpoint": "last.ckpt", "step": 7, "images": 9, "seed": 0} | about
    content = {"mig": {"value": value}, "sap": {"value": None}, "settings": settings}
    (folder / "factors" / f"{name}.json").write_text(json.dumps(content))


def test_of_figures_of_factors_those_of_the_most_steps_then_images_then_the_least_seed(tmp_path):
    """A file's name sorts seed 10 before seed 2."""
    run = Run(tmp_path)
    assert factor_figures(run, 7) == {}
    told(tmp_path, "last_images=9_seed=10", 1.0, seed=10)
    told(tmp_path, "last_images=9_seed=2", 2.0, seed=2)
    assert factor_figures(run, 7) == factor_figures(run, None) == {"evaluation/mig": 2.0}
    told(tmp_path, "more", 3.0, images=10, seed=4)
    assert factor_figures(run, 7) == {"evaluation/mig": 3.0}
    told(tmp_path, "later", 4.0, step=8, images=5)
    assert factor_figures(run, None) == factor_figures(run, 8) == {"evaluation/mig": 4.0}
    told(tmp_path, "averaged", 5.0, step=9, weights="averaged")
    told(tmp_path, "best", 6.0, step=9, checkpoint="best.ckpt")
    told(tmp_path, "no seed", 7.0, step=9, seed=None)
    assert factor_figures(run, None) == {"evaluation/mig": 4.0} and factor_figures(run, 9) == {}
    assert factor_figures(run, 9, "averaged") == {"evaluation/mig": 5.0}


def test_figures_of_samples_by_their_features_and_those_of_lpips_by_its_network(tmp_path):
    about = {"checkpoint": "last.ckpt", "step": 7, "weights": "raw", "features": "own-1", "samples": 1000, "images": 20}
    for number, (value, changed) in enumerate([
        (0.1, {"lpips": "vgg16-2"}), (0.2, {"lpips": "vgg16-2", "seed": 1}), (0.3, {"images": 3000}),
        (0.4, {"features": "x" * 60}), (0.5, {"step": 8}), (0.6, {"weights": "averaged"}), (0.7, {"features": "old"}),
    ]):  # fmt: skip
        figures = {"kid": {"value": value}, "recall": {"value": None}}
        figures |= {"lpips": {"value": -value}} if "lpips" in changed else {}
        settings = about | {"seed": 0, "number": number} | changed
        if changed.get("features") == "old":  # it does not say of which weights
            del settings["weights"]
        Run(tmp_path).save_evaluation(figures | {"settings": settings})
    expected = {
        "own-1 1,000/20": {"kid": 0.1}, "vgg16-2 20": {"lpips": -0.1}, "own-1 1,000/3,000": {"kid": 0.3},
        "x" * 50 + " 1,000/20": {"kid": 0.4},
    }  # fmt: skip
    assert qualities(Run(tmp_path), 7) == expected
    assert qualities(Run(tmp_path), 7, "averaged") == {"own-1 1,000/20": {"kid": 0.6}}
    assert qualities(Run(tmp_path), 8) == {"own-1 1,000/20": {"kid": 0.5}}
    assert qualities(Run(tmp_path), 9) == {}


def test_drawn_images_come_before_as_many_first_ones(tmp_path):
    evaluated(tmp_path, 3.5, samples=10, images=2000, about={"draw": 0})
    evaluated(tmp_path, 2.5, samples=5000, images=2000)
    found = best_evaluation(Run(tmp_path), 7)
    assert found.figures["evaluation/nll"] == 3.5 and found.by == "10 samples, 2,000 images drawn by seed 0"
    evaluated(tmp_path, 4.5, samples=10, images=2001)
    assert best_evaluation(Run(tmp_path), 7).by == "10 samples, 2,001 images"


def cells(table):
    """(titles, lines)"""
    shown = columns(table)
    return [column.title for column in shown], list(zip(*(column.cells for column in shown), strict=True))


@pytest.fixture
def runs(tmp_path):
    """Two runs of the same settings, two of others; metrics.json has an NLL of 148, 118, …"""
    for number, (elbo, lr) in enumerate([(-150.0, 1), (-152.0, 1), (-120.0, 2), (-118.0, 3)]):
        make(
            tmp_path / str(number), f"optimizer.lr={lr}", f"seed={number}", elbo=elbo, seed=number, optimizer={"lr": lr}
        )
        metrics = json.loads((tmp_path / str(number) / "metrics.json").read_text())
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(metrics | {"steps": 7}))
    return tmp_path


def test_a_better_evaluation_is_shown_and_said(runs):
    for number in range(4):
        evaluated(runs / str(number), 90.0 + number, samples=10)
    table = rows(read(find([runs])))
    assert [row.mean("NLL") for row in table] == [93, 92, 90.5]
    assert "NLL by" not in cells(table)[0] and remarks(table, []) == ["NLL by 10 samples, 100 images"]
    assert as_markdown(Part("", table)).endswith("finished |\n\nNLL by 10 samples, 100 images")
    evaluated(runs / "2", 80.0, samples=5000, active_units=4)
    evaluated(runs / "1", 70.0, samples=20)
    entries = read(find([runs]))
    table = rows(entries)
    titles, lines = cells(table)
    assert not remarks(table, []) and "NLL by" in titles and as_markdown(Part("", table)).endswith("finished |")
    shown = [(line[titles.index("NLL")], line[titles.index("NLL by")]) for line in lines]
    assert shown == [
        ("93.00", "10 samples, 100 images"), ("80.00", "5,000 samples, 100 images"),
        ("80.00 ± 14.14", "10 samples, 100 images; 20 samples, 100 images"),
    ]  # fmt: skip
    assert [row.mean("active units") for row in table] == [2, 4, 2]
    assert [row.mean("ELBO") for row in table] == [-118, -120, -151]
    assert ',80.0,5.0,115.0,4,3.5,,,,,,"5,000 samples, 100 images",finished,' in as_csv(entries)


def test_what_is_not_known_is_said_where_runs_differ(runs):
    table = rows(read(find([runs])))
    assert not remarks(table, []) and "NLL by" not in cells(table)[0]
    evaluated(runs / "3", 93.0)
    titles, lines = cells(rows(read(find([runs]))))
    said = [line[titles.index("NLL by")] for line in lines]
    assert said == ["10 samples, 100 images", "unknown", "unknown"]


def test_an_evaluation_of_an_earlier_step_is_left_out(runs):
    evaluated(runs / "3", 50.0, step=6, samples=5000)
    assert rows(read(find([runs])))[0].mean("NLL") == 116


def test_each_figure_of_samples_has_its_own_column(tmp_path):
    """Each with the value of its name; others have none."""
    run = make(tmp_path / "a", "seed=1", elbo=-1.0)
    names = ("frechet", "kid", "precision", "recall", "reconstruction_frechet", "frechet_extrapolated", "density")
    figures = {name: {"value": 0.123456 * number} for number, name in enumerate(names, 1)}
    about = {"features": "own-1", "samples": 1000, "images": 20, "seed": 0, "step": 7, "weights": "raw"}
    Run(run).save_evaluation(figures | {"settings": about | {"checkpoint": "last.ckpt"}})
    table = rows(read(find([tmp_path])))
    titles, (line,) = cells(table)
    shown = {title: cell for title, cell in zip(titles, line, strict=True) if "own-1" in title}
    assert shown == {
        "FD own-1 1,000/20": "0.12", "KID own-1 1,000/20": "0.2469", "precision own-1 1,000/20": "0.370",
        "recall own-1 1,000/20": "0.494", "rFD own-1 1,000/20": "0.62",
    }  # fmt: skip


def test_factors_are_told_by_the_figures_of_their_names(tmp_path):
    make(tmp_path / "a", "seed=1", elbo=-1.0)
    names = ("mig", "dci_disentanglement", "sap", "factor_vae_score", "dci_completeness", "sap_of_lines", "modularity")
    content = {name: {"value": float(number)} for number, name in enumerate(names)}
    about = {"checkpoint": "last.ckpt", "step": 7, "images": 9, "seed": 0}
    (tmp_path / "a" / "factors").mkdir()
    (tmp_path / "a" / "factors" / "a.json").write_text(json.dumps(content | {"settings": about}))
    (entry,) = read(find([tmp_path]))
    assert {title: entry.figures.get(title) for title in ("MIG", "DCI", "SAP", "FactorVAE")} == {
        "MIG": 0, "DCI": 1, "SAP": 2, "FactorVAE": 3,
    }  # fmt: skip
