"""Where curves, pictures and hyperparameters go: what each kind of logger is given."""

import pytest
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tiny import tiny

from cvae.build import make
from cvae.training.loggers import close, hyperparameters, log_curves, log_picture, log_result, tensorboard

PNG = b"a picture"


class Recorder(CSVLogger):
    """A logger of another kind than TensorBoard's, and what it was told."""

    def __init__(self, folder):
        super().__init__(folder)
        self.told = []

    def log_hyperparams(self, params, **more):
        self.told.append((params, more))

    def log_metrics(self, metrics, step=None):
        self.told.append((metrics, step))

    def finalize(self, status):
        self.told.append(status)


def events(folder):
    return EventAccumulator(str(folder), {"images": 0, "scalars": 0}).Reload()


def test_tensorboard_writes_into_the_run(tmp_path):
    logger = tensorboard(str(tmp_path))
    logger.log_hyperparams({"a": 1})
    assert logger.log_dir == str(tmp_path / "tensorboard")
    close([logger], "success")
    assert "hp_metric" not in events(tmp_path / "tensorboard").Tags()["scalars"]  # Lightning's own placeholder


def test_the_loggers_of_a_config_write_into_the_run(tmp_path):
    loggers = make(tiny(tmp_path, "logger=[tensorboard,csv]"), "logger")
    assert sorted(loggers) == ["csv", "tensorboard"]
    assert loggers["tensorboard"].log_dir == str(tmp_path / "tensorboard")
    assert loggers["csv"].log_dir == str(tmp_path / "csv")


def test_hyperparameters_are_what_differs_between_models(tmp_path):
    shown = hyperparameters(tiny(tmp_path, "experiment=beta_vae", "seed=4"))
    assert set(shown) == {
        "seed", "conditional", "data", "model", "posterior", "prior", "likelihood", "objective", "optimizer",
        "scheduler", "trainer",
    }  # fmt: skip
    assert shown["data"]["seed"] == 4 and "root" not in shown["data"]  # what refers to another key is put in
    assert shown["model"] == {"_target_": "cvae.networks.mlp", "latent_dim": 2, "hidden": [4], "activation": "tanh"}


def test_the_config_itself_stays_whole(tmp_path):
    cfg = tiny(tmp_path)
    hyperparameters(cfg)
    assert "root" in cfg.data and "callbacks" in cfg


def test_curves_go_to_every_logger(tmp_path):
    board, other = tensorboard(str(tmp_path)), Recorder(tmp_path)
    log_curves([board, other], {"test/elbo": -7.5}, 12)
    close([board, other], "failed")
    assert other.told == [({"test/elbo": -7.5}, 12), "failed"]
    (point,) = events(tmp_path / "tensorboard").Scalars("test/elbo")
    assert (point.step, point.value) == (12, -7.5)


def test_the_result_is_one_record_in_tensorboard_and_hyperparameters_elsewhere(tmp_path):
    board, other = tensorboard(str(tmp_path)), Recorder(tmp_path)
    params, figures = {"model": {"latent_dim": 3, "hidden": [4]}, "seed": 1}, {"test/elbo": -7.5}
    log_result([board, other], params, figures, 12)
    close([board, other], "failed")
    assert other.told == [(params, {}), "failed"]
    found = events(tmp_path / "tensorboard")
    assert found.Tags()["scalars"] == []  # its curves exist by then: a second point would be at the same step
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    values = {name: value.number_value or value.string_value for name, value in hparams.items()}
    assert values == {"model/latent_dim": 3, "model/hidden": "[4]", "seed": 1}
    content = found.SummaryMetadata("_hparams_/experiment").plugin_data.content
    (metric,) = HParamsPluginData.FromString(content).experiment.metric_infos
    assert metric.name.tag == "test/elbo"


def test_a_picture_is_for_loggers_that_show_pictures(tmp_path):
    board, other = tensorboard(str(tmp_path)), Recorder(tmp_path)
    log_picture([other, board], "sample", PNG, 5, 9, 3)
    close([board], "success")
    (image,) = events(tmp_path / "tensorboard").Images("sample")
    assert (image.step, image.height, image.width, image.encoded_image_string) == (3, 5, 9, PNG)
    assert other.told == []


@pytest.mark.parametrize("status", ["success", "failed"])
def test_close_tells_every_logger(tmp_path, status):
    loggers = [Recorder(tmp_path), Recorder(tmp_path)]
    close(loggers, status)
    assert [logger.told for logger in loggers] == [[status], [status]]
