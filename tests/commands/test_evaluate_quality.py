"""python -m cvae features and evaluate --quality: what they write, print and refuse; and compare, which shows it."""

import json

import imageio.v3 as imageio
import pytest
import torch
from commands.test_commands import make_run
from torchvision import models

from cvae.build import make
from cvae.commands.inputs import levels_of
from cvae.evaluation import classifier
from cvae.evaluation.lpips import named_lpips
from cvae.runs.comparison import find, read
from cvae.runs.directory import Run
from cvae.runs.tables import as_csv, as_markdown, parts

SMALL = ("data=synthetic", "data.image_shape=[1,12,12]", "data.source.train_size=200", "data.source.test_size=60",
         "model=mlp", "model.hidden=[8]", "data.num_classes=4")  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cvae" / "features"


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", base=SMALL)


def qualities(run):
    return {path.name: json.loads(path.read_text()) for path in sorted((run / "quality").glob("*"))}


def test_features_of_a_run_then_its_quality(run, call, own_folder):
    code, printed = call("evaluate", run, "--quality")
    assert code == 1 and "python -m cvae features RUN, or say --features pixels" in printed
    code, printed = call("features", run, "--epochs", 1)
    (file,) = own_folder.iterdir()
    trained = classifier.kept(levels_of(Run(run).config()))
    name = trained.features.name
    assert code == 0 and f"{name}: finds the class of {trained.accuracy:.2%} of 60 test images" in printed
    assert f"It is kept in {file}" in printed
    code, printed = call("evaluate", run, "--quality", "--samples", 70, "--seed", 3, "--images", 50, "--device", "cpu")
    ((saved, content),) = qualities(run).items()
    assert code == 0 and saved == f"last_{name}_samples=70_images=50_seed=3.json"
    assert content["settings"] == {
        "samples": 70, "images": 50, "seed": 3, "features": name, "accuracy": trained.accuracy, "training_images": 200,
        "checkpoint": "last.ckpt", "step": 7, "split": "test", "binarization": "static", "device": "cpu",
        "weights": "raw",
    }  # fmt: skip
    words = " ".join(printed.split())
    assert "70 samples, 50 test images, last.ckpt" in words and f"features: {name} (test accuracy" in words
    assert {"frechet", "train_frechet", "kid", "precision", "train_vendi", "near_training", "ssim"} <= set(content)
    picture = imageio.imread(run / "nearest_training_images.png")
    assert picture.shape[0] > 8 * 3 * 12 and picture.std() > 10 and "nearest_training_images.png" in printed


def test_as_many_samples_as_usual_are_those_of_the_papers(run, call):
    call("evaluate", run, "--quality", "--features", "pixels", "--images", 20)
    ((_, content),) = qualities(run).items()
    assert content["settings"]["samples"] == 10_000 and content["settings"]["features"].startswith("pixels-")


def test_each_set_of_settings_keeps_its_file(run, call):
    words = ["evaluate", run, "--quality", "--features", "pixels", "--samples", 20]
    for more in ([], ["--seed", 1], ["--images", 30], []):
        call(*words, *more)
    names = list(qualities(run))
    assert len(names) == 3 and {name.partition("samples=")[2] for name in names} == {
        "20_images=60_seed=0.json", "20_images=60_seed=1.json", "20_images=30_seed=0.json",
    }  # fmt: skip
    first = qualities(run)[names[0]]
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(weights | {"global_step": 9}, run / "checkpoints" / "last.ckpt")  # training went on
    call(*words, "--images", 30)
    assert len(qualities(run)) == 4 and qualities(run)[names[0]] == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quality", "--until", 0.5], "--until=0.5: must be left out with --quality"),
        (["--features", "pixels"], "--features=pixels: must be left out without --quality"),
        (["--quality", "--factors"], "--quality=: must be left out with --factors"),
        (["--quality", "--samples", 0], "--samples=0: must be a positive integer"),
        (["--quality", "--images", 2], "--images=2: must be at least 6"),
        (["--quality", "--seed", -1], "--seed=-1: must be"),
        (["--quality", "--features", "nonsense"], "--features=nonsense: must be classifier, pixels, or a network"),
        (["--quality", "--features", "resnet18:none.pth"], "none.pth: there is no such file"),
        (["--lpips", "vgg16"], "--lpips=vgg16: must be left out without --quality"),
        (["--quality", "--lpips", "resnet18"], "--lpips=resnet18: must be alexnet, squeezenet1_1, vgg16"),
        (["--quality", "--lpips", "vgg16"], "vgg16 needs 16 pixels a side"),
    ],
)
def test_wrong_words_of_evaluate(run, call, words, said):
    code, printed = call("evaluate", run, *words)
    assert code == 1 and said in " ".join(printed.split()) and not (run / "quality").exists()


def test_a_model_without_a_prior_is_told_what_to_do(tmp_path, call):
    run = make_run(tmp_path / "run", "posterior=deterministic", "prior=none", "objective=autoencoder", base=SMALL)
    code, printed = call("evaluate", run, "--quality", "--features", "pixels", "--samples", 20)
    assert code == 1 and "Fit one first: python -m cvae fit-prior RUN prior=gmm" in " ".join(printed.split())


def test_lpips_by_weights_that_the_user_has(tmp_path, call):
    size = "data.image_shape=[1,18,18]"
    run = make_run(tmp_path / "run", base=tuple(size if "image_shape" in word else word for word in SMALL))
    weights = tmp_path / "weights.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), weights)
    words = ["--quality", "--features", "pixels", "--samples", 20, "--images", 30]
    code, printed = call("evaluate", run, *words, "--lpips", f"squeezenet1_1:{weights}")
    call("evaluate", run, *words)
    name = named_lpips(f"squeezenet1_1:{weights}", (1, 18, 18)).name
    content, without = qualities(run).values()
    assert code == 0 and f"LPIPS by {name}" in " ".join(printed.split())
    assert "lpips" not in without | without["settings"] and without["frechet"] == content["frechet"]
    assert content["settings"] == without["settings"] | {"lpips": name} and content["lpips"]["value"] > 0
    figures = read(find([run]))[0].figures
    assert {title: figures[title] for title in figures if title.startswith("LPIPS")} == {
        f"LPIPS {name} 30": content["lpips"]["value"]
    }
    assert f"| LPIPS {name} 30 |" in as_markdown(parts(read(find([run])))[0])


# cvae features


def test_features_of_data_by_name(tmp_path, call, mnist_root, small_md5, own_folder):
    """Beside the data, where the user says where these are."""
    code, printed = call("features", "mnist", f"data.root={mnist_root}", "--epochs", 1)
    (file,) = (mnist_root / ".cvae_features").iterdir()
    assert code == 0 and str(file) in printed.replace("\n", "") and not own_folder.exists()
    file.unlink()
    call("features", "mnist", "--data-root", mnist_root, "--epochs", 1)
    assert file.exists()
    file.unlink()


def test_nothing_is_written_where_only_somebody_elses_run_says_so(tmp_path, call, mnist_root, small_md5, own_folder):
    run = make_run(tmp_path / "run", "data=mnist", f"data.root={mnist_root}")
    code, _ = call("features", run, "--epochs", 1)
    assert code == 0 and len(list(own_folder.iterdir())) == 1 and not list(mnist_root.glob(".cvae_features/*"))
    call("features", run, "--again", "--epochs", 1, "--data-root", mnist_root)
    (file,) = mnist_root.glob(".cvae_features/*")
    file.unlink()


def test_one_that_is_kept_is_used_unless_asked_for_again(run, call, own_folder, monkeypatch):
    call("features", run, "--epochs", 1)
    (file,) = own_folder.iterdir()
    before, trained = file.read_bytes(), classifier.train
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("it trains"))
    code, printed = call("features", run)
    words = " ".join(printed.split())
    assert code == 0 and "of 60 test images" in words and "It is kept already, in " in words and "--again" in words
    code, printed = call("features", run, "--epochs", 2)
    assert code == 1 and "--epochs=2: must be said with --again" in " ".join(printed.split())
    assert file.read_bytes() == before
    monkeypatch.setattr(classifier, "train", trained)
    code, printed = call("features", run, "--again", "--epochs", 2)
    assert code == 0 and f"It is kept in {file}" in printed and file.read_bytes() != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "Could not find 'data/nonsense'"), (["synthetic", "data.sizes=3"], "data.sizes"),
        (["synthetic", "--epochs", 0], "--epochs=0: must be a positive integer"),
        (["npz", "data.root=none.npz"], "none.npz"),
        (["synthetic", "data.num_classes=1"], "have one class"),
    ],
)  # fmt: skip
def test_wrong_words_of_features(call, words, said):
    code, printed = call("features", *words)
    assert code == 1 and said in " ".join(printed.split()) and "Traceback" not in printed


def test_the_data_of_a_run_take_no_further_words(run, call):
    code, printed = call("features", run, "data.num_classes=3")
    assert code == 1 and "the data of a run are as it says" in printed


# cvae compare


def measured(run, features, frechet, step=7, samples=100, weights="raw", seed=0, checkpoint="last.ckpt"):
    about = {"features": features, "samples": samples, "images": 60, "seed": seed, "step": step, "weights": weights}
    figures = {name: {"value": value} for name, value in (("frechet", frechet), ("precision", 0.5), ("kid", 0.25))}
    Run(run).save_evaluation(figures | {"settings": about | {"checkpoint": checkpoint}})


@pytest.fixture
def two(tmp_path):
    words = {"a": "model.latent_dim=3", "b": "model.latent_dim=4"}
    runs = [make_run(tmp_path / name, word, base=SMALL) for name, word in words.items()]
    for run, word, elbo in zip(runs, words.values(), (-5.0, -7.0), strict=True):
        Run(run).save_overrides([word])
        (run / "metrics.json").write_text(json.dumps({"test/elbo": elbo, "steps": 7}))
    measured(runs[0], "pixels-1", 30.0)
    measured(runs[1], "pixels-1", 20.0)
    return runs


def test_compare_shows_figures_of_samples(two, tmp_path):
    (part,) = parts(read(find([tmp_path])))
    table = as_markdown(part)
    assert "| FD pixels-1 100/60 |" in table and "FD: Fréchet distance of samples by the features" in table
    assert [row.label for row in part.rows] == ["a", "b"]
    for sort in ("FD", "FD pixels-1 100/60"):
        (part,) = parts(read(find([tmp_path])), sort)
        assert [(row.label, row.mean("FD pixels-1 100/60")) for row in part.rows] == [("b", 20), ("a", 30)]
    header, *lines = as_csv(read(find([tmp_path]))).splitlines()
    assert (
        "FD pixels-1 100/60,KID pixels-1 100/60,precision pixels-1 100/60" in header and ",30.0,0.25,0.5," in lines[0]
    )


def test_more_precision_is_better(two, tmp_path):
    content = json.loads(next((two[0] / "quality").iterdir()).read_text())
    content["precision"]["value"] = 0.25
    Run(two[0]).save_evaluation(content)
    (part,) = parts(read(find([tmp_path])), "precision")
    assert [row.label for row in part.rows] == ["b", "a"]


def test_other_features_and_other_numbers_of_samples_have_other_columns(two, tmp_path):
    measured(two[0], "classifier-2", 3.0)
    measured(two[1], "pixels-1", 25.0, samples=50)
    entries = read(find([tmp_path]))
    assert {title: value for title, value in entries[0].figures.items() if title.startswith("FD")} == {
        "FD pixels-1 100/60": 30, "FD classifier-2 100/60": 3,
    }  # fmt: skip
    assert entries[1].figures["FD pixels-1 50/60"] == 25 and entries[1].figures["FD pixels-1 100/60"] == 20
    assert "FD classifier-2 100/60" not in entries[1].figures


def test_figures_of_another_model_are_not_shown(two, tmp_path):
    measured(two[0], "early", 3.0, step=6)
    measured(two[0], "best", 3.0, checkpoint="best.ckpt")
    measured(two[0], "averaged", 3.0, weights="averaged")
    measured(two[0], "pixels-1", 99.0, seed=1)  # of several seeds the first
    (two[0] / "quality" / "damaged.json").write_text("{")
    (two[0] / "quality" / "other.json").write_text('{"settings": [], "frechet": {"value": 1}}')
    entry = read(find([two[0]]))[0]
    assert [title for title in entry.figures if title.startswith("FD")] == ["FD pixels-1 100/60"]
    assert entry.figures["FD pixels-1 100/60"] == 30


def test_a_column_that_is_not_there_cannot_sort(tmp_path, call):
    run = make_run(tmp_path / "a", base=SMALL)
    (run / "metrics.json").write_text(json.dumps({"test/elbo": -5.0, "steps": 7}))
    code, printed = call("compare", run, "--sort", "FD")
    assert code == 1 and "--sort FD: must be a column" in printed


def test_the_classes_of_the_data_are_counted_by_the_labels():
    from conftest import config

    data = levels_of(config(*SMALL))
    assert data.binarization == "none" and classifier.train(data, 1, lambda items, *_: items).features.num_classes == 4
    assert make(config(*SMALL), "data").binarization == "static"
