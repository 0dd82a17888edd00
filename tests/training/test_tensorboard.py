"""What TensorBoard is given: charts that training and test share, and everything in the order in which one looks."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cvae.training.tensorboard import TensorBoard, place_of_curve, tag_of_picture

PNG = b"a picture"


def events(folder):
    return EventAccumulator(str(folder), {"images": 0, "scalars": 0}).Reload()


def points(folder):
    """{tag: [(step, value)]} of the curves in a folder."""
    found = events(folder)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def hparams(folder, tag):
    return HParamsPluginData.FromString(events(folder).SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("train/elbo", ("train", "bound/ELBO")),
        ("validation/rate", ("validation", "bound/rate")),
        ("test/distortion", ("test", "bound/distortion")),
        ("train/loss", ("train", "terms/loss")),
        ("test/mmd", ("test", "terms/mmd")),
        ("train/lr", ("train", "trainer/lr")),
        ("train/gradient_norm", ("train", "trainer/gradient_norm")),
        ("train/skipped_steps", ("train", "trainer/skipped_steps")),
        ("train/images_per_second", ("train", "trainer/images_per_second")),
        ("evaluation/nll", (None, "bound/NLL")),
        ("evaluation/elbo", None),
        ("train_epoch/elbo", None),
        ("epoch", None),
    ],
)
def test_where_a_curve_is(name, place):
    assert place_of_curve(name) == place


def test_what_one_looks_at_first_comes_first():
    """TensorBoard sorts by the characters of a tag."""
    curves = [f"train/{name}" for name in ("elbo", "distortion", "rate", "loss", "lr")]
    pictures = [
        "training", "reconstruction", "sample", "latent_manifold", "latent_scatter", "latent_map", "latent_traversal",
        "latent_interpolation", "latent_rates", "learning_curves", "latent_groups",
        "latent_codes", "own",
    ]  # fmt: skip
    tags, shown = [place_of_curve(name)[1] for name in curves], [tag_of_picture(name) for name in pictures]
    assert [*tags[:3], *shown, *tags[3:]] == sorted(tags + shown)  # it opens two groups, the bounds and the pictures
    assert shown == [f"pictures/{number:02d} {name}" for number, name in enumerate(pictures, 1)]
    assert tag_of_picture("traversal") == "pictures/14 traversal"


def test_curves_of_a_split_have_a_folder(tmp_path):
    board = TensorBoard(str(tmp_path))
    board.log_metrics({"train/elbo": -3.0, "train/lr": 0.5}, 2)
    board.log_metrics({"train/elbo": -2.0, "test/elbo": -2.5, "train_epoch/elbo": -9.0, "evaluation/nll": 4.0}, 7)
    board.close("success")
    assert points(tmp_path / "train") == {"bound/ELBO": [(2, -3.0), (7, -2.0)], "trainer/lr": [(2, 0.5)]}
    assert points(tmp_path / "test") == {"bound/ELBO": [(7, -2.5)]}
    assert points(tmp_path) == {"bound/NLL": [(7, 4.0)]}
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["test", "train"]


def test_hyperparameters_and_how_the_run_ended(tmp_path):
    for status, code in (("success", 1), ("failed", 2)):
        board = TensorBoard(str(tmp_path / status))
        board.log_hyperparams({"model": "conv", "model.latent_dim": 3, "optimizer.lr": 1e-4})
        board.close(status)
        start = hparams(tmp_path / status, "session_start_info").session_start_info.hparams
        assert start["model"].string_value == "conv"
        assert {name: value.number_value for name, value in start.items() if name != "model"} == {
            "model.latent_dim": 3, "optimizer.lr": 1e-4,
        }  # fmt: skip
        assert hparams(tmp_path / status, "session_end_info").session_end_info.status == code


def test_pictures_and_text(tmp_path):
    board = TensorBoard(str(tmp_path))
    board.log_picture("sample", PNG, 5, 9, 3)
    board.log_text("2 config", "seed: 1", 4)
    board.close("success")
    (image,) = events(tmp_path).Images("pictures/03 sample")
    assert (image.step, image.height, image.width, image.encoded_image_string) == (3, 5, 9, PNG)
    (text,) = events(tmp_path).Tensors("2 config/text_summary")
    assert text.step == 4 and text.tensor_proto.string_val == [b"seed: 1"]


def test_finalize_is_not_the_end(tmp_path):
    """Lightning calls it after each of its loops: all is on disk then, and how the run ends is open."""
    board = TensorBoard(str(tmp_path))
    board.log_hyperparams({"seed": 1})
    board.log_metrics({"test/elbo": -1.0}, 1)
    board.finalize("success")
    assert points(tmp_path / "test") == {"bound/ELBO": [(1, -1.0)]}
    board.log_metrics({"test/elbo": -2.0}, 2)
    board.close("failed")
    assert hparams(tmp_path, "session_end_info").session_end_info.status == 2
    assert len(list(tmp_path.glob("events*"))) == len(list((tmp_path / "test").iterdir())) == 1


def test_nothing_logged_leaves_nothing(tmp_path):
    TensorBoard(str(tmp_path / "run")).close("success")
    assert not (tmp_path / "run").exists()


def test_a_closed_one_opens_again(tmp_path):
    board = TensorBoard(str(tmp_path))
    for step in (1, 2):
        board.log_metrics({"test/elbo": -1.0}, step)
        board.close("success")
    assert sorted(points(tmp_path / "test")["bound/ELBO"]) == [(1, -1.0), (2, -1.0)]
    assert board.log_dir == str(tmp_path)
