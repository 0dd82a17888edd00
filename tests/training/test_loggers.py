"""Where curves, pictures and hyperparameters go: what each kind of logger is given."""

import io
import threading

import numpy as np
import pytest
from conftest import config
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from test_tensorboard import events, hparams, points
from tiny import tiny, trained

from cvae import pictures
from cvae.build import make
from cvae.errors import UserError
from cvae.runtime.console import quiet_libraries
from cvae.training import loggers as ours
from cvae.training.loggers import close, hyperparameters, log_curves, log_picture, log_start, log_table
from cvae.training.tensorboard import TensorBoard


class Recorder(CSVLogger):
    """A logger of another kind than TensorBoard's, and what it was told."""

    def __init__(self, folder):
        super().__init__(folder)
        self.told = []

    def log_hyperparams(self, params):
        self.told.append(params)

    def log_metrics(self, metrics, step=None):
        self.told.append((metrics, step))

    def finalize(self, status):
        self.told.append(status)


def test_the_loggers_of_a_config_write_into_the_run(tmp_path):
    loggers = make(tiny(tmp_path, "logger=[tensorboard,csv]"), "logger")
    assert sorted(loggers) == ["csv", "tensorboard"]
    assert loggers["tensorboard"].run.path == tmp_path
    assert loggers["csv"].log_dir == str(tmp_path / "csv")
    assert make(tiny(tmp_path, "logger=none"), "logger") == {}


def test_hyperparameters_are_what_one_would_sweep_or_read():
    """By value, in the words of the command line: no plumbing, nothing twice, no booleans as numbers."""
    words = ["experiment=vampprior", "data=fashion_mnist", "data.seed=4", "trainer.gradient_clip_val=1", "name=a"]
    assert hyperparameters(config(*words)) == {
        "seed": 0, "init": "null", "conditional": "false", "data": "IdxFiles", "data.source.dataset": "FashionMNIST",
        "data.binarization": "stochastic", "data.invert": "false", "data.train_on": "train", "data.batch_size": 100,
        "data.validation_size": 0, "data.augment": "null", "data.fingerprint": "null", "data.seed": 4,
        "model": "mlp", "model.latent_dim": 40, "model.hidden": "[300,300]",
        "model.activation": "tanh", "posterior": "DiagonalGaussian", "prior": "VampPrior", "prior.components": 500,
        "prior.pseudo_mean": 0.05, "prior.pseudo_std": 0.01, "likelihood": "Bernoulli", "likelihood.soft": "false",
        "objective": "ELBO", "objective.samples": 1, "objective.kl": "monte_carlo", "objective.beta": "Linear",
        "objective.beta.start": 0, "objective.beta.end": 1, "objective.beta.steps": 6000, "objective.free_bits": 0,
        "optimizer": "Adam", "optimizer.lr": 1e-3, "optimizer.betas": "[0.9,0.999]", "optimizer.eps": 1e-8,
        "scheduler": "ConstantLR", "scheduler.factor": 1,
        "scheduler.interval": "epoch", "scheduler.warmup_steps": 0,
        "averaging.decay": "null", "trainer.max_epochs": 100, "trainer.max_steps": -1, "trainer.max_time": "null",
        "trainer.precision": "32-true",
        "trainer.gradient_clip_val": 1, "trainer.skip_above": "null",
    }  # fmt: skip


def test_hyperparameters_that_are_open_or_refer_to_others():
    found = hyperparameters(config("scheduler=cosine", "data=image_folder", "data.root=/a", "conditional=true"))
    assert found["conditional"] == "true" and found["data"] == "image_folder"
    assert found["scheduler.T_max"] == "null" and "data.seed" not in found  # the latter is the seed
    assert not [name for name in found if name in ("data.root", "data.num_classes", "data.image_shape", "tags")]
    assert hyperparameters(config("+trainer.deterministic=null"))["trainer.deterministic"] == "null"


def test_the_config_itself_stays_whole(tmp_path):
    cfg = tiny(tmp_path)
    hyperparameters(cfg)
    assert "root" in cfg.data and "callbacks" in cfg


def test_what_each_kind_of_logger_is_told(tmp_path):
    board, other, cfg = TensorBoard(str(tmp_path)), Recorder(tmp_path), tiny(tmp_path, "seed=7")
    both = [board, other]
    log_start(both, cfg)
    log_curves(both, {"test/elbo": -7.5}, 12)
    log_table(both, "| a |", 13)
    log_picture(both, "sample", b"GIF", 5, 9, 3, 120)
    close(both, "failed")
    assert other.told == [hyperparameters(cfg), ({"test/elbo": -7.5}, 12), "failed"]
    found = events(tmp_path)
    assert points(tmp_path / "test") == {"bound/ELBO": [(12, -7.5)]}
    assert hparams(tmp_path, "session_start_info").session_start_info.hparams["seed"].number_value == 7
    assert hparams(tmp_path, "session_end_info").session_end_info.status == 2  # failure
    table, config_text = (found.Tensors(f"{tag}/text_summary")[0] for tag in ("1 evaluation", "2 config"))
    assert (table.step, table.tensor_proto.string_val) == (13, [b"| a |"])
    text = config_text.tensor_proto.string_val[0].decode()
    assert text.startswith("```\nseed: 7\n") and text.endswith("\n```") and "latent_dim: 2" in text
    (image,) = found.Images("pictures/03 sample")
    assert (image.step, image.height, image.width, image.encoded_image_string) == (120, 5, 9, b"GIF")  # not its epoch


@pytest.mark.parametrize("status", ["success", "failed"])
def test_close_tells_every_logger(tmp_path, status):
    loggers = [Recorder(tmp_path), Recorder(tmp_path)]
    close(loggers, status)
    assert [logger.told for logger in loggers] == [[status], [status]]


PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
FRAMES = [PIXELS, PIXELS + 100]


@pytest.mark.slow
def test_a_run_in_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["logger=mlflow", f"logger.mlflow.tracking_uri={uri}", "tags=[first]", "~callbacks.progress"]
    trained(tmp_path / "3_mine", *words, "trainer.max_epochs=1", "evaluation.samples=1")
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("cvae").experiment_id])
    assert run.info.run_name == "mine" and run.data.tags["first"] == "" and run.info.status == "FINISHED"
    assert run.data.params["model.latent_dim"] == "2" and run.data.params["conditional"] == "false"
    assert {"train/elbo", "test/elbo", "test/rate", "evaluation/nll"} <= set(run.data.metrics)
    assert client.get_metric_history(run.info.run_id, "test/elbo")[0].step == 3
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert {"pictures/sample_0001.png", "pictures/training_0001.gif", "pictures/latent_manifold_0001.png"} <= artifacts


@pytest.mark.slow
def test_a_run_in_weights_and_biases_without_internet(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    told = []
    monkeypatch.setattr("wandb.sdk.wandb_run.Run.log", lambda self, data, **_: told.append(data))
    words = ["logger=[wandb,csv]", "logger.wandb.offline=true", "tags=[first]", "~callbacks.progress"]
    trained(tmp_path / "3_mine", *words, "trainer.max_epochs=1")
    (folder,) = (tmp_path / "3_mine" / "wandb").glob("offline-run-*")
    assert list(folder.glob("run-*.wandb"))
    keys = set().union(*told)
    assert {"train/elbo", "test/elbo", "pictures/sample", "pictures/training", "pictures/reconstruction"} <= keys
    assert (tmp_path / "3_mine" / "csv" / "metrics.csv").exists()
    assert [line["epoch"] for line in told if "pictures/sample" in line] == [0, 1]


def test_pictures_as_weights_and_biases_shows_them():
    pytest.importorskip("wandb")
    image = ours.wandb_picture(pictures.png(PIXELS))
    assert (np.asarray(image.image)[..., :3] == PIXELS).all()
    assert type(ours.wandb_picture(pictures.gif(FRAMES, [100, 100]))).__name__ == "Video"
    assert Image.open(io.BytesIO(pictures.gif(FRAMES, [100, 100]))).n_frames == 2


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_that_is_not_installed(tmp_path, monkeypatch, name):
    def missing(**_):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(ours, {"mlflow": "MLFlowLogger", "wandb": "WandbLogger"}[name], missing)
    with pytest.raises(UserError, match=rf"^logger={name}: No module .*pip install -e '.\[{name}\]'"):
        make(tiny(tmp_path, f"logger={name}"), "logger")


def test_a_logger_that_fails_is_one_warning(tmp_path, caplog):
    """From then on it is left alone; the others go on."""
    bad, good = ours.forgiving(Recorder(tmp_path / "bad")), ours.forgiving(Recorder(tmp_path / "good"))
    assert isinstance(bad, Recorder)
    log_curves([bad, good], {"a": 1.0}, 3)
    good.finalize("success")
    assert bad.told == [({"a": 1.0}, 3)] and good.told == [({"a": 1.0}, 3), "success"]
    bad.told = None  # so that its next call fails
    for step in (4, 5):
        log_curves([bad, good], {"a": 2.0}, step)
    close([bad, good], "failed")
    folder = tmp_path / "bad" / "lightning_logs" / "version_0"
    said = f"Recorder in {folder} logs nothing more, the training goes on: 'NoneType' object has no attribute 'append'"
    assert caplog.messages == [said] and caplog.records[0].levelname == "WARNING"
    assert good.told[2:] == [({"a": 2.0}, 4), ({"a": 2.0}, 5), "failed"]


@pytest.mark.parametrize("name", ours.METHODS)
def test_each_thing_that_a_logger_does_may_fail(name, caplog):
    class Bad:
        pass

    def fails(*arguments, **options):
        seen.append((arguments, options))
        raise OSError("full")

    seen, logger = [], Bad()
    setattr(logger, name, fails)
    assert ours.forgiving(logger) is logger and not any(hasattr(logger, other) for other in set(ours.METHODS) - {name})
    getattr(logger, name)(1, step=2), getattr(logger, name)(3)
    assert seen == [((1,), {"step": 2})] and caplog.messages == ["Bad logs nothing more, the training goes on: full"]


def test_what_a_logger_returns_is_returned():
    assert ours.forgiving(Saver()).save() == 7


class Saver:
    def save(self):
        return 7


def test_the_loggers_of_a_run_are_forgiven(tmp_path, caplog):
    """TensorBoard finds a file where its folder should be."""
    (tmp_path / "train").write_text("")
    _, bound = trained(tmp_path, "~callbacks.pictures")
    lost = [message for message in caplog.messages if "logs nothing more" in message]
    assert len(lost) == 1 and lost[0].startswith(f"TensorBoard in {tmp_path} logs nothing more") and bound < 0


@pytest.mark.parametrize("name", ["_AsyncWriterThread", "Other"])
def test_tensorboards_thread_prints_no_stack_trace(capsys, monkeypatch, name):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    quiet_libraries()
    thread = type(name, (), {"name": "mine"})()
    threading.excepthook(threading.ExceptHookArgs([OSError, OSError("full"), None, thread]))
    assert ("full" in capsys.readouterr().err) == (name == "Other")
