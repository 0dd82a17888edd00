"""python -m cvae evaluate RUN --factors: what it measures, writes and prints, and what a comparison reads of it."""

import json

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from test_commands import make_run, other_weights

from cvae.build import load, load_data
from cvae.evaluation import known_factors
from cvae.evaluation.information import entropies, information
from cvae.evaluation.known_factors import coded, of_information
from cvae.evaluation.report import test_batches as batches_of
from cvae.runs.comparison import read
from cvae.runs.directory import Run

SPRITES = (
    "data=sprites", "data.image_shape=[1,16,16]", "data.source.rotation=4", "data.source.x=4", "data.source.y=4",
    "data.source.train_size=10", "data.source.test_size=200", "model=mlp", "model.hidden=[4]", "model.latent_dim=2",
)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Of 200 test images; only measures that take no time."""
    monkeypatch.setattr(known_factors, "find_spec", lambda name: None)
    run = make_run(tmp_path / "run", base=SPRITES)
    other_weights(run)
    return run


def test_it_measures_writes_and_prints(run, call, monkeypatch):
    drawn = []
    monkeypatch.setattr("cvae.pictures.factors", lambda *given: drawn.append(given) or np.zeros((2, 2, 3), np.uint8))
    code, printed = call("evaluate", run, "--factors", "--images", 150, "--seed", 4)
    assert code == 0, printed
    file = run / "factors" / "last_images=150_seed=4.json"
    content = json.loads(file.read_text())
    data, vae = load_data(Run(run)), load(run)
    known = coded(vae, batches_of(vae, data, range(150), torch.device("cpu")), data.test.images, range(150), 4)
    expected = of_information(known, 4)["mig"]
    assert content["mig"] == expected._asdict() and set(content) == {
        "mig", "modularity", "factor_vae_score", "sap_of_lines", "settings"
    }  # fmt: skip
    assert content["settings"] == {
        "images": 150, "seed": 4, "factors": ["shape", "size", "rotation", "x", "y"], "latents": 2,
        "checkpoint": "last.ckpt", "step": 7, "split": "test", "weights": "raw",
    }  # fmt: skip
    assert "150 test images, last.ckpt" in printed and "2 latents; factors: shape, size, rotation, x, y" in printed
    assert f"MIG, 20 bins, 150 images │ {expected.value:.3f} │" in " ".join(printed.split())
    ((z, factors, told, names),) = drawn
    assert np.array_equal(z, known.z) and np.array_equal(factors, known.factors) and names == known.names
    assert np.allclose(told, information(z, factors) / entropies(factors))
    assert not (run / "evaluation").exists()


def test_it_leaves_a_picture(run, call):
    code, printed = call("evaluate", run, "--factors")
    assert code == 0 and imageio.imread(run / "factors.png").shape[2] == 3 and "factors.png" in printed
    assert (run / "factors" / "last_images=200_seed=0.json").is_file()


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        ([], ["--until", 0.1], "--until=0.1: must be left out with --factors"),
        ([], ["--images", 0], "--images=0: must be a positive integer"),
        ([], ["--images", 19], "no factor has two values and 10 images for each; there are 19 images"),
        (["posterior=categorical", "prior=uniform"], [], "this model's are codes, which have no order"),
        (["data=synthetic", "data.image_shape=[1,8,8]"], [], "these data have no known factors"),
    ],
)
def test_what_is_refused_in_a_line(tmp_path, call, words, options, said):
    base = SPRITES if not any(word.startswith("data=") for word in words) else SPRITES[-3:]
    run = make_run(tmp_path / "run", *words, base=base)
    code, printed = call("evaluate", run, "--factors", *options)
    assert code != 0 and said in printed and "Traceback" not in printed


def figures(**values):
    return {name: {"value": value, "standard_error": 0.1, "unit": "", "meaning": ""} for name, value in values.items()}


def write(run, name, about, **values):
    (run / "factors").mkdir(exist_ok=True)
    settings = {"checkpoint": "last.ckpt", "step": 7, "images": 100, "seed": 0, "weights": "raw"} | about
    (run / "factors" / f"{name}.json").write_text(json.dumps(figures(**values) | {"settings": settings}))


def test_a_comparison_shows_the_figures_of_the_most_images(run):
    (run / "metrics.json").write_text(json.dumps({"steps": 7, "test/elbo": -9.0, "evaluation/mig": 0.4}))
    (entry,) = read([Run(run)])
    assert entry.figures == {"ELBO": -9.0, "MIG": 0.4}  # of the run's end
    write(run, "few", {"images": 50}, mig=0.1, sap=0.1)
    write(run, "most", {}, mig=0.2, sap=0.3, dci_disentanglement=0.5, factor_vae_score=0.6)
    write(run, "other", {"checkpoint": "best.ckpt", "images": 999}, mig=0.9)
    write(run, "before", {"step": 3, "images": 999}, mig=0.9)
    write(run, "averages", {"weights": "averaged", "images": 999}, mig=0.9)
    write(run, "damaged", {"images": "many"}, mig=0.9)
    (run / "factors" / "text.json").write_text("{")
    (entry,) = read([Run(run)])
    assert entry.figures == {"ELBO": -9.0, "MIG": 0.2, "SAP": 0.3, "DCI": 0.5, "FactorVAE": 0.6}


def test_the_table_of_a_comparison_has_columns_for_them(run, call):
    write(run, "one", {}, mig=0.25, factor_vae_score=0.6)
    code, printed = call("compare", run, "--sort", "MIG")
    assert code == 0 and "MIG" in printed and "0.250" in printed and "FactorVAE" in printed and "SAP" not in printed
