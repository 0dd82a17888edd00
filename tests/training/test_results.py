"""What train() does from the config to the results, by tiny runs: seeds, steps, files, figures, evaluation, loggers."""

import csv
import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
import yaml
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tiny import QUIET, tiny, trained

import cvae
from cvae.build import build_data, build_vae
from cvae.errors import ConfigError
from cvae.evaluation import Settings
from cvae.objectives import ELBO
from cvae.runs.directory import RAW, Run
from cvae.runtime.noise import fixed_noise, seed_step
from cvae.training import train as training
from cvae.training.means import CodeCounts, Totals
from cvae.training.progress import say_what_came_of_it

SPLITS = {"train": "train_epoch", "validation": "validation", "test": "test"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with everything: (config, run, what train returned, lines said, what the evaluation was of)."""
    folder, lines, measured = tmp_path_factory.mktemp("whole"), [], []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    ours, report = logging.getLogger("cvae"), training.report
    before = ours.level

    def noted(vae, data, run, settings, checkpoint, step, weights):
        assert weights == RAW and step == 4  # 7 images in batches of 4, twice
        measured.append((vae.training, settings, checkpoint, len(data.test)))
        return report(vae, data, run, settings, checkpoint, step, weights)

    ours.addHandler(handler), ours.setLevel("INFO")
    training.report = noted
    try:
        words = ["seed=3", "data.validation_size=3", "evaluation.samples=2", "evaluation.aggregate_images=5"]
        cfg, result = trained(folder, *words, "logger=[tensorboard,csv]", "evaluation.memory=0.5")
    finally:
        training.report = report
        ours.removeHandler(handler), ours.setLevel(before)
    return SimpleNamespace(cfg=cfg, run=Run(folder), result=result, lines=lines, measured=measured)


def figures_of(vae, cfg, split):
    """The figures of an evaluation, anew: the noise of the seed, batches in order."""
    data = build_data(cfg)
    data.setup()
    totals, count = Totals(), len(getattr(data, split))
    objective = cvae.build.make(cfg, "objective")
    with torch.no_grad(), fixed_noise(cfg.seed, torch.device("cpu")):
        for start in range(0, count, 3):
            x, _ = data.batch(split, range(start, min(start + 3, count)))
            totals.add(objective(vae, x))
    return totals.means()


def test_metrics_are_the_figures_of_the_last_epoch_and_of_the_test_set(whole):
    metrics = json.loads(whole.run.metrics.read_text())
    five = ["elbo", "rate", "distortion", "loss"]
    names = [f"{split}/{name}" for split in ("train_epoch", "validation", "test") for name in five]
    names += ["validation/bound", "test/bound", "train/seconds_per_epoch", "epochs", "steps", "parameters"]
    found = (
        "nll",
        "elbo",
        "rate",
        "distortion",
        "effective_samples",
        "active_units",
        "mutual_information",
        "aggregate_kl",
        "aggregate_rate",
    )
    # without "pareto_k", which two samples don't have
    assert set(metrics) == {*names, *(f"evaluation/{name}" for name in found)}
    vae = cvae.load(whole.run.path)
    for split in ("validation", "test"):
        for name, value in figures_of(vae, whole.cfg, split).items():
            assert metrics[f"{split}/{name}"] == pytest.approx(value, rel=1e-5)
    assert metrics["validation/elbo"] != metrics["test/elbo"]
    assert whole.result == metrics["validation/bound"]
    assert (metrics["epochs"], metrics["steps"]) == (2, 4)  # 7 images in batches of 4
    # encoder: 64 -> 4 -> 4, decoder: 2 -> 4 -> 64
    assert metrics["parameters"] == 64 * 4 + 4 + 4 * 4 + 4 + 2 * 4 + 4 + 4 * 64 + 64
    assert len(metrics["train/seconds_per_epoch"]) == 2
    assert all(0 < value < 5 for value in metrics["train/seconds_per_epoch"])
    (file,) = whole.run.evaluations.iterdir()
    assert file.name == "last_samples=2_images=7_seed=3.json"
    assert metrics["evaluation/nll"] == json.loads(file.read_text())["nll"]["value"]


def test_the_evaluation_is_of_the_model_in_eval_mode_with_the_configured_settings(whole):
    settings = Settings(samples=2, images=7, aggregate_images=5, memory=0.5, seed=3)
    assert whole.measured == [(False, settings, "last.ckpt", 7)]


def test_lines_from_start_to_end(whole):
    metrics = json.loads(whole.run.metrics.read_text())
    start, *epochs, evaluation, end, picture, following = whole.lines
    assert (
        start == f"612 parameters; images: 7 train, 3 validation, 7 test, binarization static; on cpu; into {whole.run}"
    )
    assert [line.split(": validation ELBO")[0] for line in epochs] == ["Epoch 1", "Epoch 2"]
    assert evaluation == "Evaluation: 2 importance samples for each of 7 test images"
    assert end == f"Test ELBO {metrics['test/elbo']:.2f} nats per image. The run is in {whole.run}"
    assert (
        picture == f"Open {whole.run.gif}: reconstructions and samples, epoch after epoch" and whole.run.gif.is_file()
    )
    assert following == f"Next: python -m cvae sample {whole.run}"


def test_tensorboard_has_the_hyperparameters_and_the_evaluation(whole):
    metrics = json.loads(whole.run.metrics.read_text())
    events = EventAccumulator(str(whole.run.events())).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    params = HParamsPluginData.FromString(content).session_start_info.hparams
    assert params["seed"].number_value == 3 and params["model.latent_dim"].number_value == 2
    content = events.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    assert HParamsPluginData.FromString(content).session_end_info.status == 1  # success
    (point,) = events.Scalars("bound/NLL")
    assert point.step == 4 and point.value == pytest.approx(metrics["evaluation/nll"])
    (table,) = events.Tensors("1 evaluation/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert table.step == 4 and text.startswith("| test images, 2 importance samples | |")
    assert f"| -log p(x) | {metrics['evaluation/nll']:.3f} | " in text
    (text,) = events.Tensors("2 config/text_summary")
    assert b"seed: 3" in text.tensor_proto.string_val[0]


def test_a_curve_has_one_point_at_a_step_and_nothing_else_is_drawn(whole):
    """Of the whole run, to its end: train, validation and test at the same steps."""
    for split, steps in (("train", [2, 4]), ("validation", [2, 4]), ("test", [4]), (None, [4])):
        events = EventAccumulator(str(whole.run.events(split)), {"scalars": 0}).Reload()
        curves = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        expected = dict.fromkeys(("bound/ELBO", "bound/rate", "bound/distortion", "terms/loss"), steps)
        if split == "train":
            expected |= {"trainer/lr": [0, 2], "trainer/images_per_second": steps, "trainer/gradient_norm": steps}
        assert curves == (expected if split else {"bound/NLL": [4]})


def test_the_csv_logger_has_curves_final_figures_and_hyperparameters(whole):
    metrics = json.loads(whole.run.metrics.read_text())
    folder = whole.run.path / "csv"
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    for name in ("evaluation/nll", "test/elbo"):
        (point,) = [(row["step"], float(row[name])) for row in rows if row[name]]
        assert point == ("4", pytest.approx(metrics[name]))
    assert [row["step"] for row in rows if row["train/elbo"]] == ["2", "4"]
    shown = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert shown["seed"] == 3 and "root" not in shown["data"] and "callbacks" not in shown


def test_the_saved_config_is_the_one_of_the_run(whole):
    saved = OmegaConf.load(whole.run.config_file)
    assert saved == whole.cfg and saved.seed == 3


def test_weights_batches_and_noise_come_from_the_seed(tmp_path):
    """The first epoch by hand: the initial weights, the order, the noise, Adam's steps."""
    cfg, _ = trained(tmp_path, *QUIET, "seed=9", "trainer.max_epochs=1", "conditional=true")
    torch.manual_seed(9)
    vae, data = build_vae(cfg), build_data(cfg)
    data.setup()
    objective = cvae.build.make(cfg, "objective")
    optimizer = torch.optim.Adam(vae.parameters(), 0.01, eps=1e-7)
    for number, (x, y) in enumerate(data.train_dataloader()):
        seed_step(9, 0, 0, number, device=torch.device("cpu"))
        loss = objective(vae, x / 255, y).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in cvae.load(tmp_path).state_dict().items():
        torch.testing.assert_close(value, vae.state_dict()[name], rtol=1e-5, atol=1e-7)


def test_metrics_are_saved_before_the_evaluation_and_loggers_closed_as_failed(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(training, "close", lambda loggers, status: said.append((len(loggers), status)))
    monkeypatch.setattr(training, "report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(tmp_path, "~callbacks.pictures", "~callbacks.progress", "evaluation.samples=1")
    metrics = json.loads(Run(tmp_path).metrics.read_text())
    assert "test/elbo" in metrics and not any(name.startswith("evaluation") for name in metrics)
    trained(tmp_path / "b", "~callbacks.pictures", "~callbacks.progress")
    assert said == [(1, "failed"), (1, "success")]


def test_a_run_without_loggers_callbacks_and_evaluation(tmp_path):
    cfg, result = trained(tmp_path, *QUIET, "~callbacks.epoch_lines", "~callbacks.checkpoint")
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", "metrics.json", "status.json", ".lock"}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["train/seconds_per_epoch"] == [] and result == metrics["test/bound"]
    assert "selection/bound" not in metrics
    assert cfg.evaluation.samples == 0 and not any(name.startswith("evaluation") for name in metrics)


def test_only_the_first_process_writes_results(tmp_path, monkeypatch):
    monkeypatch.setattr(L.Trainer, "is_global_zero", False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    level = logging.getLogger("cvae").level
    try:
        trained(tmp_path, *QUIET[:2], "~callbacks.checkpoint", "evaluation.samples=1")
    finally:
        logging.getLogger("cvae").setLevel(level)
    assert not (tmp_path / "metrics.json").exists() and not (tmp_path / "evaluation").exists()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"train", "test"}  # TensorBoard's


def test_the_run_directory_is_the_runs_alone_until_its_end(tmp_path, monkeypatch):
    states = []
    monkeypatch.setattr(training, "check", lambda cfg: states.append((Run(tmp_path).state(), Run(tmp_path).locked())))
    monkeypatch.setattr(training, "report", lambda *_: states.append(Run(tmp_path).state()) or {})
    trained(tmp_path, *QUIET, "evaluation.samples=1")
    assert states == [("running", True), "running"]
    assert Run(tmp_path).state() == "finished" and not Run(tmp_path).locked()


def test_an_evaluation_of_no_samples_is_none(tmp_path):
    assert training.evaluation_settings(tiny(tmp_path, "evaluation.samples=0")) is None


@pytest.mark.parametrize(
    ("batches", "world", "images", "count"),
    [
        ([3], 1, None, 7),
        ([1], 1, None, 3),
        ([1], 1, 5, 3),
        ([1], 1, 2, 2),
        ([1], 2, None, 6),
        ([3], 1, 5, 5),
        ([3], 1, 100, 7),
    ],
)
def test_as_many_images_are_evaluated_as_were_tested(tmp_path, monkeypatch, caplog, batches, world, images, count):
    caplog.set_level("INFO")
    seen = []
    monkeypatch.setattr(training, "report", lambda *given: seen.append(given) or {"nll": 1})
    device = torch.device("cpu")
    trainer = SimpleNamespace(
        num_test_batches=batches,
        world_size=world,
        strategy=SimpleNamespace(root_device=device),
        is_global_zero=True,
        checkpoint_callback=object(),
        global_step=31,
    )
    data = SimpleNamespace(test=range(7), eval_batch_size=3)
    vae = torch.nn.Linear(1, 1)
    vae.posterior = SimpleNamespace(deterministic=False)
    module = SimpleNamespace(vae=vae, averages={}, as_evaluated=nullcontext)
    draw = None if images is None else 5
    settings = Settings(samples=4, images=images, draw=draw, seed=2)
    assert training.evaluation(training.Parts(data, module, trainer, settings), Run(tmp_path)) == {"nll": 1}
    ((vae, given, run, used, checkpoint, step, weights),) = seen
    assert vae is module.vae and not vae.training and given is data and run.path == tmp_path
    assert used == Settings(samples=4, images=count, draw=draw, seed=2) and checkpoint == "last.ckpt" and step == 31
    assert weights == RAW
    said = f"Evaluation: 4 importance samples for each of {count} test images"
    assert [record.message for record in caplog.records] == [said]


def test_a_limit_of_the_test_shortens_the_evaluation(tmp_path):
    trained(tmp_path, *QUIET, "+trainer.limit_test_batches=1", "evaluation.samples=1")
    assert [file.name for file in (tmp_path / "evaluation").iterdir()] == ["last_samples=1_images=3_seed=0.json"]


@pytest.mark.parametrize("batches", [1, 2])
def test_a_quick_trial_evaluates_as_few_batches_as_it_trains(tmp_path, batches):
    trained(tmp_path, *QUIET, f"+trainer.fast_dev_run={batches}", "evaluation.samples=1")
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == batches
    assert [file.name for file in (tmp_path / "evaluation").iterdir()] == [
        f"last_samples=1_images={3 * batches}_seed=0.json"
    ]


def test_figures_are_those_of_the_last_evaluation_and_of_the_test(tmp_path, monkeypatch):
    """Where the test has other figures than the evaluations before, those of the test are kept."""
    trained(tmp_path, *QUIET, "+trainer.limit_val_batches=1")
    cfg = tiny(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    expected = figures_of(cvae.load(tmp_path), cfg, "test")
    assert metrics["test/elbo"] == pytest.approx(expected["elbo"], rel=1e-5)


def test_perplexity_of_the_test_images_is_a_curve(tmp_path, monkeypatch):
    """Of the codes of each test image once, by the weights at that time; training steps count nothing."""
    count, calls = CodeCounts.__call__, []
    monkeypatch.setattr(CodeCounts, "__call__", lambda *given: calls.append(1) or count(*given))
    codes = ["posterior=fsq", "posterior.levels=[3,2]", "prior=uniform", "model.latent_dim=3", "logger=csv"]
    cfg, _ = trained(tmp_path, *QUIET[:2], *codes)
    vae, data = cvae.load(tmp_path), build_data(cfg)
    data.setup()
    codes = vae.posterior.read(vae.encode(data.batch("test", range(7))[0]).mean)  # (7, 3)
    shares = [column.bincount().double() / 7 for column in codes.T]
    expected = sum(torch.special.entr(share).sum().exp().item() for share in shares) / 3
    metrics = json.loads(Run(tmp_path).metrics.read_text())
    assert metrics["test/perplexity"] == pytest.approx(expected) and expected > 1
    assert {"test/code_information", "test/codebook_perplexity"} <= metrics.keys()
    (file,) = tmp_path.rglob("metrics.csv")
    drawn = [row["test/perplexity"] for row in csv.DictReader(file.open()) if row["test/perplexity"]]
    assert len(calls) == 3 * 3  # two epochs and the test at the end, three batches each
    assert len(drawn) == 2 and float(drawn[-1]) == pytest.approx(expected)


def test_what_is_reported_is_of_float32_whatever_training_computes_in(tmp_path):
    """A deterministic model: the figures of the test set are those of the evaluation, of the saved weights."""
    codes = ["posterior=vq", "posterior.codes=8", "prior=uniform", "model.latent_dim=3", "evaluation.samples=1"]
    _, bound = trained(tmp_path, *QUIET, *codes, "trainer.precision=bf16-mixed", "data.validation_size=3")
    metrics = json.loads(Run(tmp_path).metrics.read_text())
    for name in ("elbo", "rate", "distortion"):
        assert metrics[f"test/{name}"] == pytest.approx(metrics[f"evaluation/{name}"], rel=1e-6)
    vae, data = cvae.load(tmp_path), build_data(tiny(tmp_path, *codes, "data.validation_size=3"))
    data.setup()
    terms = ELBO()(vae, data.batch("validation", range(3))[0])
    assert bound == pytest.approx(terms.elbo.mean().item(), rel=1e-6)  # best.ckpt is chosen by it


RELAXED = ["posterior=categorical", "posterior.classes=3", "posterior.gradient=relaxed", "prior=uniform"]


def test_figures_of_relaxed_draws_are_no_bounds_by_name(tmp_path):
    """Of training alone: a test set is measured by draws of codes."""
    trained(tmp_path, *QUIET[1:2], *RELAXED, "logger=csv", "callbacks.pictures.num=4")
    metrics = json.loads(Run(tmp_path).metrics.read_text())
    of_training = {name.partition("/")[2] for name in metrics if name.startswith("train_epoch/")}
    assert of_training == {"relaxed_elbo", "relaxed_rate", "relaxed_distortion", "loss"}
    assert metrics["train_epoch/relaxed_elbo"] == pytest.approx(-metrics["train_epoch/loss"])
    assert {"test/elbo", "test/rate", "test/distortion", "test/bound"} <= metrics.keys()
    (file,) = tmp_path.rglob("metrics.csv")
    names = file.read_text().partition("\n")[0].split(",")
    assert "train/relaxed_elbo" in names and not {"train/elbo", "train/rate", "train/bound"} & {*names}
    history = torch.load(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["Pictures"]["history"]
    assert "test/elbo" in history and not any(name.startswith("train/") for name in history)


def test_no_picture_is_named_that_there_is_not(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "my runs"
    trained(folder, *QUIET, "trainer.max_epochs=1")
    *_, end, following = (record.message for record in caplog.records if record.name == "cvae.training.progress")
    assert end.startswith("Test ELBO ") and following == f"Next: python -m cvae sample '{folder}'"


@pytest.mark.parametrize(
    ("data", "prior", "words"),
    [
        ("cvae.data.image_folder", "cvae.priors.StandardNormal", "sample RUN --prior gmm"),
        ("cvae.data.npz", "cvae.priors.StandardNormal", "sample RUN --prior gmm"),
        ("cvae.data.npz", "cvae.priors.Mixture", "sample RUN"),
        ("cvae.data.npz", "cvae.priors.NoPrior", "fit-prior RUN prior=gmm"),
        ("cvae.data.ImageData", "cvae.priors.StandardNormal", "sample RUN"),
    ],
)
def test_samples_of_own_images_are_drawn_from_a_fitted_prior(tmp_path, monkeypatch, caplog, data, prior, words):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    run = Run("RUN")
    run.config_file.parent.mkdir(parents=True)
    run.config_file.write_text(f"data: {{_target_: {data}}}\nprior: {{_target_: {prior}}}\n")
    say_what_came_of_it({"test/elbo": -1.0}, run, [])
    assert caplog.messages[-1].endswith(f": python -m cvae {words}")


def test_no_checkpoint_is_chosen_by_relaxed_draws(tmp_path):
    monitor = "callbacks.checkpoint.monitor=train_epoch/elbo"
    with pytest.raises(ConfigError, match=f"^{monitor}: must be selection/bound with posterior.gradient=relaxed"):
        trained(tmp_path, *QUIET, *RELAXED, monitor, "data.root=nowhere")
    assert not (tmp_path / "checkpoints").exists()
    trained(tmp_path, *QUIET, *RELAXED[:2], "prior=uniform", monitor, "trainer.max_epochs=1")
